"""Several evaluations on one suite in one process: tasks stay loaded, and so may the model, of which tensors are rewritten.

This module is light, as the runner is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from merge_assets.errors import ModelWorkerError
from merge_assets.model_worker import ModelWorker
from merge_assets.work import UNATTENDED, Work


class LostModelError(Exception):
    """The model that was to be made another one is there no more, or not whole; the checkpoint has to be loaded."""


class Session:
    """A model worker for all evaluations of a ``with`` block, of models without code of their own on transformers.

    Args:
        worker: which has the verbs of the harness.

    Attributes:
        worker: as given.
        model: fingerprint of the model that it has loaded; ``None`` where it has none.
        tasks: what those are known by that stay loaded, as their files were when that was looked at last.
        like: of the models for which they do; see :class:`Sitting`.
    """

    def __init__(self, worker: ModelWorker) -> None:
        self.worker = worker
        self.model: str | None = None
        self.tasks: set[tuple[object, ...]] = set()
        self.like: str | None = None

    def begin(self, like: str) -> None:
        """Go on with a checkpoint; what is loaded for those that are not like it is not kept."""
        if self.like != like:
            self.tasks.clear()
        self.model, self.like = None, like

    def lose(self) -> None:
        """The worker has ended, and what it had loaded is gone."""
        self.tasks.clear()
        self.model = None

    def __enter__(self) -> Session:
        self.worker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.model = None
        self.worker.__exit__(kind, error, trace)

    def scratch(self, work: Work = UNATTENDED) -> Path:
        """A folder for files that the worker is to read, which goes with it, also if this process is killed.

        Raises:
            ModelWorkerError: it cannot be made.
        """
        return Path(self.worker.ask("scratch", {}, limit="load", work=work.silent(), doing="making a folder"))

    def why_stored(self, work: Work = UNATTENDED) -> str:
        """Why the loaded model cannot be made another one by rewriting tensors; empty if it can.

        Args:
            work: asked while all its tensors are compared with those of its files.
        """
        try:
            doing = "comparing a loaded model with its files"
            return str(self.worker.ask("why_stored", {}, limit="silence", work=work.silent(), doing=doing))
        except ModelWorkerError as error:
            if not error.answered:
                self.lose()
            return str(error)

    def leave(self, work: Work = UNATTENDED) -> None:
        """Forget the loaded model, whose memory is free then."""
        self.model = None
        try:
            self.worker.ask("leave", {}, limit="load", work=work.silent(), doing="forgetting a model")
        except ModelWorkerError:  # the worker was ended, and the model with it
            self.lose()


@dataclass(frozen=True)
class Sitting:
    """One model's evaluation in a session.

    Attributes:
        session: in which.
        like: digest of all that the checkpoint has besides weights; of models of one, tasks stay loaded.
        is_loaded: whether the model is made of the one that is loaded, by rewriting tensors; its checkpoint lies nowhere then.
        changed: file with these tensors; ``None`` if there are none.
    """

    session: Session
    like: str
    is_loaded: bool = False
    changed: Path | None = None
