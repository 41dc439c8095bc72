"""Models in local folders: opened from their headers, and digested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from merge_assets.checkpoint import (
    Checkpoint,
    CheckpointDigest,
    digest_checkpoint,
    known_digests,
    open_adapter,
    open_any,
    open_checkpoint,
)
from merge_assets.plan import PlanInput
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.work import UNATTENDED, Work


class LocalModels:
    """Models in local folders, each opened once. Pickled weights are converted into the cache first, if the settings
    allow it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[tuple[Callable[[Path], Checkpoint], Path], Checkpoint] = {}

    def open(self, directory: Path) -> Checkpoint:
        """Open a model.

        Raises:
            CheckpointError: if the folder holds no checkpoint, or weights that are not read.
        """
        return self._once(open_checkpoint, directory)

    def open_adapter(self, directory: Path) -> Checkpoint:
        """Open an adapter."""
        return self._once(open_adapter, directory)

    def open_any(self, directory: Path) -> Checkpoint:
        """Open a model or an adapter, whichever the folder holds."""
        return self._once(open_any, directory)

    def digest(self, checkpoint: Checkpoint, work: Work = UNATTENDED) -> CheckpointDigest:
        """Digest every tensor; what has not changed since it was digested is not read again."""
        return digest_checkpoint(checkpoint, self._settings.cache_dir, work)

    def digested(self, reference: ModelReference, checkpoint: Checkpoint, work: Work = UNATTENDED) -> PlanInput:
        """A model with the digests of all that it holds."""
        return _input(reference, checkpoint, self.digest(checkpoint, work))

    def known(self, reference: ModelReference, checkpoint: Checkpoint) -> PlanInput:
        """A model with its digests, if it was digested before and has not changed."""
        return _input(reference, checkpoint, known_digests(checkpoint, self._settings.cache_dir))

    def _once(self, opening: Callable[[Path], Checkpoint], directory: Path) -> Checkpoint:
        if (opening, directory) not in self._opened:
            self._opened[opening, directory] = opening(self._readable(directory))
        return self._opened[opening, directory]

    def _readable(self, directory: Path) -> Path:
        """The folder itself or its conversion from pickles, if those are allowed."""
        if not self._settings.allow_pickle:
            return directory
        from merge_assets.engine.pickled import converted

        return converted(directory, self._settings.cache_dir / "converted")


def _input(reference: ModelReference, checkpoint: Checkpoint, digest: CheckpointDigest | None) -> PlanInput:
    if digest is None:
        return PlanInput(reference, checkpoint)
    return PlanInput(reference, checkpoint, digest.fingerprint, digest.tensors, digest.files)
