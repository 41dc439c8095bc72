"""Whether what versions were made from still is what it was: the inputs in their manifests, read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from merge_assets.api.housekeeping import verify
from merge_assets.checkpoint import digest_checkpoint
from merge_assets.checkpoint.files import ADAPTER_CONFIG, CONFIG
from merge_assets.errors import MergeAssetsError
from merge_assets.records import Input
from merge_assets.reference import ModelReference
from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.store.names import short_name
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace

State = Literal["same", "changed", "gone", "damaged", "elsewhere"]
"""What became of an input: it has the bytes that were recorded; others, which is no damage; there is none any more; it is a
version of the store whose bytes are wrong; it is not on this machine."""

_KINDS = ("variants/", "analyses/", "importance/", "searches/", "scores/")
"""What is made from models. A leaderboard is made from scores."""


@dataclass(frozen=True)
class InputState:
    """An input of a version, looked at again.

    Attributes:
        stored: the version.
        input: as its manifest says.
        state: what became of it.
        what: the same for people, with where it was found.
    """

    stored: StoredVersion
    input: Input
    state: State
    what: str


def audit(
    workspace: Workspace, found: Inventory, targets: Sequence[StoredVersion], *, work: Work = UNATTENDED
) -> list[InputState]:
    """Read the inputs of versions again, as far as they are on this machine or in the store; each once, and every byte.

    Args:
        workspace: whose store it is.
        found: the store.
        targets: the versions.
        work: told inputs done and inputs in all; asked throughout.

    Raises:
        StoreError: if the store cannot be reached.
    """
    auditor = Auditor(workspace, found, work=work)
    pairs = [(one, item) for one in targets if is_audited(one) for item in one.artifact.manifest.inputs]
    states = []
    for number, (stored, item) in enumerate(pairs):
        work.report(number, len(pairs), item.name)
        states.append(InputState(stored, item, *auditor.look(item)))
    return states


def is_audited(stored: StoredVersion) -> bool:
    """Whether a version was made from models."""
    return stored.artifact.line.startswith(_KINDS)


class Auditor:
    """Inputs of versions, each read once.

    Args:
        workspace: whose store it is.
        found: the store.
        read_versions: whether to read the versions of the store, too, not only what lies outside of it.
        work: asked throughout.
    """

    def __init__(
        self, workspace: Workspace, found: Inventory, *, read_versions: bool = True, work: Work = UNATTENDED
    ) -> None:
        self._workspace = workspace
        self._found = found
        self._read_versions = read_versions
        self._models = Models(workspace)
        self._work = work.silent()
        self._fingerprint = cache(self._digest)
        self._problem = cache(self._verify)

    def look(self, item: Input) -> tuple[State, str]:
        """What became of an input."""
        try:
            reference = ModelReference.parse(item.name).model
        except ValueError as error:
            return "gone", str(error)
        held = self.held(item)
        if held is not None:
            return self._in_store(held)
        if item.kind == "recipe":
            return "gone", "no longer in the store"
        try:
            if item.kind == "url":
                now = self._models.at_urls.open(reference).digested(self._work).version
                return ("same", item.name) if now == item.fingerprint else ("changed", _other(item.name, now))
            folder = self._workspace.names.local_path(reference) if item.kind == "local" else self._cached(item)
            if folder is None:
                return ("gone", "there is no such folder") if item.kind == "local" else ("elsewhere", _where(item))
            now = self._fingerprint(folder)
        except MergeAssetsError as error:
            return "gone", f"cannot be read: {error}"
        if now == item.fingerprint:
            return "same", str(folder)
        return "changed", _other(str(folder), now)

    def held(self, item: Input) -> StoredVersion | None:
        """The version of the store that an input was, or is a mirror of."""
        if item.kind == "local":
            return None
        path = item.name.partition("+")[0].partition("@")[0]
        versions = self._found.versions.get(f"{'variants' if item.kind == 'recipe' else 'checkpoints'}/{path}", ())
        return next((one for one in versions if one.artifact.version == item.fingerprint), None)

    def _in_store(self, held: StoredVersion) -> tuple[State, str]:
        name = short_name(held.name)
        if self._read_versions and (problem := self._problem(held.name)):
            return "damaged", f"{name}: {problem}"
        return "same", name if self._found.is_current(held) else f"{name}, which is not current any more"

    def _verify(self, name: tuple[str, str]) -> str:
        (stored,) = [one for one in self._found.versions[name[0]] if one.name == name]
        problems = [one for one in verify(self._workspace, [stored], work=self._work) if one.is_damage]
        return "; ".join(f"{one.file}: {one.what}" for one in problems)

    def _digest(self, folder: Path) -> str:
        # Nothing that is kept of earlier readings is asked: what was changed behind their back is to be seen.
        return digest_checkpoint(self._models.local.open_any(folder), None, self._work).fingerprint

    def _cached(self, item: Input) -> Path | None:
        """Where a commit of the Hub was downloaded to; the Hub is not asked."""
        from huggingface_hub import try_to_load_from_cache

        wanted = ModelReference(ModelReference.parse(item.name).path, item.revision)
        if not (wanted.looks_like_hub_id and wanted.is_commit):
            return None
        for name in (CONFIG, ADAPTER_CONFIG):  # of a model, of an adapter
            found = try_to_load_from_cache(
                wanted.path, name, cache_dir=self._workspace.settings.hub_cache, revision=wanted.revision
            )
            if isinstance(found, str):
                return Path(found).parent
        return None


def _other(place: str, now: str) -> str:
    return f"{place} has fingerprint {now[:12]} now"


def _where(item: Input) -> str:
    return f"commit {item.revision[:12]} of the Hub, not on this machine" if item.revision else "on the Hub"
