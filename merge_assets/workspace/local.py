"""Models in local folders: opened from their headers, and digested."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
from merge_assets.errors import CheckpointError
from merge_assets.filestate import FileState, states_of
from merge_assets.plan import PlanInput
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.work import UNATTENDED, Work

_Opening = Callable[[Path, Sequence[Path]], Checkpoint]


class LocalModels:
    """Models in local folders, each opened once. Pickled weights are converted into the cache first, if the settings
    allow it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[tuple[_Opening, Path], Checkpoint] = {}
        self._at_opening: dict[str, FileState] = {}
        self.digested_states: dict[str, FileState] = {}
        """States in which files were when they were digested, by path."""

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
        """Digest every tensor; what has not changed since it was digested is not read again.

        Raises:
            CheckpointError: also if headers or config changed since the checkpoint was opened.
        """
        digest = digest_checkpoint(checkpoint, self._settings.cache_dir, work)
        states = {str(Path(checkpoint.location, name)): state for name, state in digest.states.items()}
        for path, state in states.items():
            if not self._at_opening.get(path, state).is_same(state):
                raise CheckpointError(
                    f"{path}: changed since it was opened; wait until it is written, then run the command again"
                )
        self.digested_states |= states
        return digest

    def digested(self, reference: ModelReference, checkpoint: Checkpoint, work: Work = UNATTENDED) -> PlanInput:
        """A model with the digests of all that it holds."""
        return _input(reference, checkpoint, self.digest(checkpoint, work))

    def known(self, reference: ModelReference, checkpoint: Checkpoint) -> PlanInput:
        """A model with its digests, if it was digested before and has not changed."""
        return _input(reference, checkpoint, known_digests(checkpoint, self._settings.cache_dir))

    def _once(self, opening: _Opening, directory: Path) -> Checkpoint:
        if (opening, directory) not in self._opened:
            readable = self._readable(directory)
            with suppress(OSError):  # which opening tells better
                self._at_opening |= states_of(Path(os.path.abspath(readable)))  # noqa: PTH100 - as checkpoints call it
            self._opened[opening, directory] = opening(
                readable, [Path(self._settings.root, name) for name in self._settings.link_targets]
            )
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
    reader = partial(_read_as_digested, checkpoint.read, digest.files)
    return PlanInput(reference, replace(checkpoint, reader=reader), digest.fingerprint, digest.tensors, digest.files)


def _read_as_digested(read: Callable[[str], bytes], digests: Mapping[str, str], name: str) -> bytes:
    """A small file, which has to be what was digested.

    Raises:
        CheckpointError: starting with the file's name, if it is not.
    """
    data = read(name)
    if name in digests and hashlib.sha256(data).hexdigest() != digests[name]:
        raise CheckpointError(f"{name}: changed since it was digested; run the command again when it is written")
    return data
