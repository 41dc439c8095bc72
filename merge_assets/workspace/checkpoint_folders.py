"""Which checkpoints lie in the folder of a training run; the template ``average_checkpoints`` takes the last of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from merge_assets.checkpoint import open_checkpoint
from merge_assets.errors import CheckpointError
from merge_assets.recipe import CheckpointListing, Recipe, RecipeBook
from merge_assets.recipe.schema import MAX_MODELS
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace.names import Names

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")

_States = dict[str, tuple[int, int]]
"""Size and time of modification (ns) of the files of a folder."""


class CheckpointFolders:
    """Folders of training runs, listed each time that they are asked for. A checkpoint in one is opened again only when its
    files have changed; no weight is read."""

    def __init__(self, settings: Settings, planned: Iterable[CheckpointListing] = ()) -> None:
        """
        Args:
            settings: say where paths start, and which files may be read.
            planned: what was found when a run was planned, and holds for it.
        """
        self._settings = settings
        self._names = Names(settings, RecipeBook({}))
        self._planned = {(found.folder, found.last): found for found in planned}
        self._opened: dict[Path, tuple[_States, str | None]] = {}

    def listed(self, recipe: Recipe) -> Recipe:
        """A recipe with the checkpoints of the folder that it averages; another one as it is."""
        template = recipe.average_checkpoints
        if template is None or template.folder is None:
            return recipe
        found = self._planned.get((template.folder, template.last)) or self.listing(template.folder, template.last)
        return recipe.model_copy(update={"average_checkpoints": template.listed(found)})

    def listing(self, folder: str, last: int | None) -> CheckpointListing:
        """The complete checkpoints of a folder, by their number of steps; those before the last so many are not looked at.

        Args:
            folder: relative to the project's folder or to the working directory.
            last: how many; ``None`` is all.
        """
        try:
            names = self._found(folder)
        except CheckpointError as error:
            return CheckpointListing(folder, last, problem=str(error))
        taken: list[ModelReference] = []
        left_out: list[str] = []
        for reference in _references(folder, names):
            if len(taken) == last:
                break
            why = self._why_incomplete(reference)
            if why is None:
                taken.append(reference)
            else:
                left_out.append(f"{reference} is not complete and is left out: {why}")
        found = CheckpointListing(folder, last, tuple(reversed(taken)), tuple(reversed(left_out)))
        return _judged(found)

    def _found(self, folder: str) -> list[str]:
        """Names of the checkpoints in a folder, the one with the most steps first.

        Raises:
            CheckpointError: if there is no such folder, or it cannot be listed.
        """
        place = self._names.local_path(ModelReference(folder))
        if place is None:
            raise CheckpointError(
                f"there is no folder {folder}; name the one in which training writes checkpoint-100 and so on"
            )
        try:
            with os.scandir(place) as entries:
                matches = [
                    found for entry in entries if (found := _CHECKPOINT.fullmatch(entry.name)) and entry.is_dir()
                ]
        except OSError as error:
            raise CheckpointError(f"{place}: cannot be listed ({error.strerror}); let this user into it") from None
        return [found[0] for found in sorted(matches, key=lambda found: (int(found[1]), found[0]), reverse=True)]

    def _why_incomplete(self, reference: ModelReference) -> str | None:
        """What is wrong with a checkpoint that training may be writing still; ``None`` if it is complete."""
        try:
            place = self._names.local_path(reference)
            if place is None:
                return "it went while it was looked at"
            states = _states(place)
        except CheckpointError as error:
            return str(error)
        except OSError as error:
            return f"it cannot be listed ({error.strerror})"
        known = self._opened.get(place)
        if known is None or known[0] != states:
            self._opened[place] = known = (states, self._newly_opened(place, states))
        return known[1]

    def _newly_opened(self, place: Path, states: _States) -> str | None:
        try:
            if self._settings.allow_pickle:
                from merge_assets.engine.pickled import pickled_files

                if pickled_files(place, sorted(states)):  # whoever reads them converts them first
                    return None
            open_checkpoint(place, [Path(self._settings.root, name) for name in self._settings.link_targets])
        except CheckpointError as error:
            return str(error)
        return None


def _references(folder: str, names: Iterable[str]) -> Iterator[ModelReference]:
    for name in names:
        reference = ModelReference(f"{folder.rstrip('/')}/{name}")
        # What is a folder now is to be no repository on the Hub when it has gone.
        yield ModelReference(f"./{reference.path}") if reference.looks_like_hub_id else reference


def _judged(found: CheckpointListing) -> CheckpointListing:
    """The listing with what is wrong with it."""
    count = len(found.checkpoints)
    holds = f"{found.folder} holds {count} complete checkpoint{'s'[: count != 1]}"
    missing = "".join(f"; {sentence}" for sentence in found.left_out)
    if found.last is not None and count < found.last:
        return _wrong(
            found, "last", f"{holds}, and {found.last} are asked for; wait for the others or take fewer{missing}"
        )
    if count < 2:
        return _wrong(found, "folder", f"{holds}, and an average takes two or more; wait for others{missing}")
    if count > MAX_MODELS:
        return _wrong(found, "folder", f"{holds}, and at most {MAX_MODELS} are merged at once; take some by last: N")
    return found


def _wrong(found: CheckpointListing, key: str, problem: str) -> CheckpointListing:
    return CheckpointListing(found.folder, found.last, found.checkpoints, found.left_out, problem, key)


def _states(place: Path) -> _States:
    with os.scandir(place) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found}
