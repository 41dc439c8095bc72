"""Texts that models are run on, as tasks: which bytes they are, without lm-eval."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.tasks import LocalTask
from merge_assets.regular import read_regular

if TYPE_CHECKING:
    from merge_assets.evaluation.suite import Suite

TEXTS_VERSION = "1"
"""Raised when texts are cut or asked otherwise."""

PIECE = 2048
"""Bytes of a piece where a suite does not say."""

LARGEST = 16 << 20
"""Bytes of a text: it is kept with its windows and samples."""

TEXT_TASK = Path(__file__).with_name("text_task")
TEXT_TASK_NAME = "merge_assets_text"
"""Where lm-eval finds the task of a text, and by which name."""


def local_text(name: str, file: Path, piece: int | None, where: str) -> LocalTask:
    """A text as a task whose data are local.

    Args:
        name: of the task.
        file: the text.
        piece: most bytes of a piece; None leaves it to us.
        where: the key that names the file, for errors.

    Raises:
        EvaluationError: the file cannot be read, is empty, too large or not UTF-8.
    """
    try:
        data = read_regular(file, LARGEST)
    except OSError as error:
        raise EvaluationError(f"{where}: {file} cannot be read: {error.strerror}; give a plain text file") from None
    if len(data) > LARGEST:
        raise EvaluationError(f"{where}: {file} is larger than {LARGEST >> 20} MiB; cut it")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{where}: {file} is not UTF-8 (byte {error.start}); give a plain text file") from None
    if not text.strip():
        raise EvaluationError(f"{where}: {file} has no text; give a plain text file")
    digest = hashlib.sha256(f"text {TEXTS_VERSION} in pieces of {piece or PIECE}\n".encode() + data)
    return LocalTask(name, (file,), local=True, own=True, digest=digest.hexdigest())


def text_metadata(suite: Suite, task: str) -> dict[str, Any]:
    """What the task of a text is told; nothing for other tasks."""
    entry = suite.text_of(task)
    if entry is None or entry.text is None:
        return {}
    return {"text": str((suite.file.parent / entry.text).resolve()), "piece": entry.piece or PIECE}
