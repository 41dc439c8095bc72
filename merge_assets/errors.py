"""Every error that a user's input can cause, in one tree.

``str(error)`` is the whole message a person reads: where (file, key path or tensor), what was found,
and what to do. The command line prints it without a traceback and exits with code 2. ``error.kind`` is the word that
programs read; docs/operation.md lists them all.
"""

import copyreg
import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from merge_assets.shown import visible, without_credentials


class MergeAssetsError(Exception):
    """Base of every error caused by input, environment or a damaged file, not by a defect of ours.

    Attributes:
        kind: what is wrong, as a word that stays the same whatever the message says.
        may_pass: whether the same call may succeed later although nobody changes anything here. Retries ask this and
            nothing else.
        file: the file that is wrong or that led here, such as ``recipe.yaml`` or ``recipe.yaml:3``, if known.
        key: dotted path inside that file, such as ``slices[0].sources[1].layer_range``, if known.
        wait: seconds after which a server wants to be asked again, if it says so.
    """

    kind: str = "error"
    may_pass: bool = False
    file: Path | str | None = None
    key: str | None = None
    wait: float | None = None

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(printable(item) if isinstance(item, str) else item for item in arguments))

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross processes. Exception would call the class with the message alone, and most take more than that.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def prefix(self, text: str) -> None:
        """Put text in front of the message. The error stays the same object: one that is made anew from the message of
        another loses all that the message does not say."""
        self.args = (printable(f"{text}{self}"),)


@contextmanager
def in_file(file: Path | str) -> Iterator[None]:
    """Put the file that led to them in front of errors of the block, unless they name one themselves."""
    try:
        yield
    except MergeAssetsError as error:
        if error.file is None:
            error.file = file
            error.prefix(f"{file}: ")
        raise


_LONGEST = 8000


def printable(text: str) -> str:
    """``text`` as it can be shown anywhere: what hostile files put into names and values is spelled out, or cut off, and
    credentials are covered."""
    text = without_credentials(text)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} …"
    return visible(text)


def in_one_line(error: Exception) -> str:
    """What went wrong, for people: our own errors speak for themselves, of others the type is said, too."""
    if isinstance(error, MergeAssetsError):
        return str(error)
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception may fail to say what it is
        text = ""
    shown = f"{text[:300]} …" if len(text) > 300 else text
    return printable(f"{type(error).__name__}: {shown}" if shown else type(error).__name__)


class SettingsError(MergeAssetsError):
    """A setting in the environment or in merge-assets.toml is unknown or has a wrong value."""

    kind = "settings"


class NotInstalledError(MergeAssetsError):
    """A package of one of the extras is needed and not installed."""

    kind = "not-installed"


class RecipeError(MergeAssetsError):
    """A recipe file is wrong. Names the file, the key path and what to do.

    Args:
        message: what was found and what to do, starting lower case.
        file: the recipe file, if known.
        key: dotted path inside the document, such as ``slices[0].sources[1].layer_range``.
    """

    kind = "recipe"

    def __init__(self, message: str, *, file: Path | str | None = None, key: str | None = None) -> None:
        self.message = message
        self.file = file
        self.key = key
        super().__init__(": ".join(str(part) for part in (file, key, message) if part))


class NoConfigError(RecipeError):
    """A text that is imported holds no merge config."""

    kind = "recipe.none"


class CheckpointError(MergeAssetsError):
    """A checkpoint is missing, damaged, hostile, or in a format that is not read."""

    kind = "checkpoint"


class PlanError(RecipeError):
    """A recipe cannot be planned: it does not fit the headers of its inputs, or asks for what is not built yet."""

    kind = "plan"


class EngineError(MergeAssetsError):
    """Reading, computing or writing a tensor failed; nothing visible was written."""

    kind = "engine"


class NotReproducedError(EngineError):
    """What is stored was computed again, and came out otherwise."""

    kind = "engine.not-reproduced"


class StoreError(MergeAssetsError):
    """An artifact in the store is missing or incomplete, or the store cannot do what was asked for."""

    kind = "store"


class StoreUnreachableError(StoreError):
    """The server of the store does not answer, or answers with an error that may pass."""

    kind = "store.unreachable"
    may_pass = True


class InputError(EngineError):
    """An input is not what it was when it was digested, or changed while it was read."""

    kind = "input.changed"


class DamageError(StoreError):
    """Bytes of the store are not those that a manifest records."""

    kind = "store.damaged"


HubTrouble = Literal["gated", "missing", "refused", "limited", "failing", "unreachable", "offline", "unusable"]
"""What is wrong: access is granted one by one; no such model, revision or file, or it is private; the token is not
accepted; too many requests; the Hub answers with an error; it does not answer; this machine is told not to ask; the
reference, the answer or this machine is at fault."""


class HubError(MergeAssetsError):
    """The Hub does not have what was asked for, refuses it, or cannot be asked.

    Args:
        name: what was asked for, ``org/name[@revision]``; starts the message.
        reason: what is wrong and what to do, without the name.
        trouble: what is wrong in a word; the kind is ``hub.`` and this word.
        wait: seconds after which the Hub wants to be asked again, if it says so.
    """

    def __init__(self, name: object, reason: str, trouble: HubTrouble, wait: float | None = None) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason
        self.kind = f"hub.{trouble}"
        self.may_pass = trouble in ("limited", "failing", "unreachable")
        self.wait = wait


class AnalysisError(MergeAssetsError):
    """An analysis cannot be computed or read."""

    kind = "analysis"


class EvaluationError(MergeAssetsError):
    """A suite is wrong, or an evaluation failed."""

    kind = "evaluation"


class SearchError(MergeAssetsError):
    """A search asks for what there is not, or its trials cannot be read."""

    kind = "search"


class SuiteError(EvaluationError):
    """A suite is wrong, whatever model is evaluated on it."""

    kind = "evaluation.suite"


class ModelWorkerError(MergeAssetsError):
    """A model, or what belongs to it, could not be loaded or asked in the process that does so; see ``model_worker/``.

    The message has the model, its config or its tokenizer as its subject, and starts with the verb.

    Args:
        message: what happened.
        answered: whether the process lives on: it said itself what it could not do.
        raised: name of our own error that was raised there, whose message this is.
    """

    kind = "model"

    def __init__(self, message: str, *, answered: bool = False, raised: str = "") -> None:
        super().__init__(message)
        self.answered = answered
        self.raised = raised


class ModelMemoryError(ModelWorkerError):
    """The process in which a model was loaded took more memory than it may, and was ended."""

    kind = "model.memory"


class StepKilledError(MergeAssetsError):
    """The process of a step was ended from outside, as the kernel does when memory is out."""

    kind = "step.killed"


class Stopped(Exception):
    """Work was stopped on request, see :class:`merge_assets.work.Work`; not an error of the input."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` for the nearest of ``known``, or nothing."""
    near = nearest(name, known)
    return "" if near is None else f", did you mean {near!r}?"


def nearest(name: str, known: Iterable[str], *, alike: float = 0.6) -> str | None:
    """The nearest of ``known``; ``None`` if none is so much alike (1: the same)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=alike)), None)
