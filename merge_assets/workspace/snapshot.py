"""What a run is planned with: recipes, suites, the checkpoints that are averaged, and the settings that say what there is to
build.

Folders change while runs go. Each process of a run opens its workspace from a snapshot instead of the folders, so that no edit
takes its assets from under it. Models are not in it; whoever reads them verifies their digests.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from merge_assets.errors import SettingsError
from merge_assets.evaluation.suite_files import SuiteText
from merge_assets.identity import ModelIdentity
from merge_assets.recipe import CheckpointListing, SearchResult
from merge_assets.recipe.files import RecipeText
from merge_assets.settings import Settings
from merge_assets.shown import without_credentials

FORMAT = 3
PLANNED_SETTINGS = ("recipes", "suites", "default_suites", "automate", "enabled")
"""Settings that decide which assets there are. Those of a machine, such as its memory, are the machine's."""

_LARGEST = 256 << 20


class Snapshot(BaseModel):
    """Files as they were read, and what was found in them, at one time.

    Attributes:
        format: of this record.
        settings: values of :data:`PLANNED_SETTINGS`.
        recipes: every file under the folders of recipes, without credentials.
        suites: every file of suites, with the digests of its tasks.
        models: what the references of the recipes name.
        checkpoints: what the folders of training runs held that recipes average.
        found: what searches had found, whose recipes these are, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    settings: dict[str, Any]
    recipes: tuple[RecipeText, ...]
    suites: tuple[SuiteText, ...]
    models: tuple[ModelIdentity, ...]
    checkpoints: tuple[CheckpointListing, ...]
    found: tuple[SearchResult, ...]

    @classmethod
    def of(
        cls,
        settings: Settings,
        recipes: tuple[RecipeText, ...],
        suites: tuple[SuiteText, ...],
        models: tuple[ModelIdentity, ...],
        checkpoints: tuple[CheckpointListing, ...],
        found: tuple[SearchResult, ...],
    ) -> Snapshot:
        return cls(
            settings=settings.model_dump(mode="json", include=set(PLANNED_SETTINGS)),
            recipes=tuple(replace(text, text=without_credentials(text.text)) for text in recipes),
            suites=tuple(replace(text, text=without_credentials(text.text)) for text in suites),
            models=models,
            checkpoints=checkpoints,
            found=found,
        )

    def applied_to(self, settings: Settings) -> Settings:
        """The settings of this machine with those of the snapshot in their places."""
        kept = settings.model_dump(exclude=set(PLANNED_SETTINGS))
        checked = Settings(**{**kept, **self.settings})
        return settings.model_copy(update={name: getattr(checked, name) for name in PLANNED_SETTINGS})

    def pack(self) -> str:
        """The snapshot as a line of ASCII; equal ones give equal lines."""
        return base64.b64encode(zlib.compress(self.model_dump_json().encode(), 9)).decode()

    @classmethod
    def unpack(cls, packed: str) -> Snapshot:
        """What :meth:`pack` packed.

        Raises:
            SettingsError: if another version of this program did, and wrote other things.
        """
        try:
            reader = zlib.decompressobj()
            raw = reader.decompress(base64.b64decode(packed, validate=True), _LARGEST)
            found = cls.model_validate_json(raw)
        except (binascii.Error, zlib.error, ValidationError):
            found = None
        if found is None or found.format != FORMAT:
            raise SettingsError(
                "the recipes that this run was planned with were written down by another version of merge_assets; "
                "start the run anew"
            )
        return found
