"""A model's answers as they come, kept so that a task that was cut short asks little of it again.

What is kept and found is the answers to a whole *batch*: prompts that go through the model together are padded to one length,
which changes the last digits of their log-likelihoods. So a batch is answered from here, or is asked again as a whole, and the
numbers do not tell where an evaluation was stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_assets.records import FORMAT
from merge_assets.sealed import seal, unseal

Answer = tuple[Any, ...]
"""Of likelihoods: the sum of log-probabilities, and whether the text is what the model would say. Of generations: the text,
whether it came to no end, and whether its prompt was cut."""


class Answers:
    """Answers of one model under one set of circumstances, in a file that only grows.

    Each line is one batch, sealed: a line that was cut short or changed counts as absent, and the others stay. Several
    processes may add to one file.

    Args:
        path: of the file; made when the first batch is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, list[Answer]]:
        """The answers of every batch, by its digest; of two lines of one batch, the last."""
        found: dict[str, list[Answer]] = {}
        try:
            with self._path.open("rb") as file:
                for line in file:
                    fields = unseal(line)
                    if fields is not None:
                        found[fields["batch"]] = [tuple(map(_number, answer)) for answer in fields["answers"]]
        except FileNotFoundError:
            pass
        return found

    def add(self, batch: str, answers: Sequence[Sequence[Any]]) -> None:
        """Keep the answers of a batch; what was added survives the end of this process, however it comes.

        Args:
            batch: its digest, of :func:`digest_of_batch`.
            answers: one for each of its requests.
        """
        plain = [[_word(value) for value in answer] for answer in answers]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            # A line that another process could not finish is ended first.
            file.write((b"" if self._is_whole() else b"\n") + seal({"batch": batch, "answers": plain}))

    def _is_whole(self) -> bool:
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - 1, 0))
            return file.read(1) in (b"", b"\n")


class AnswersFolder:
    """The answers of all models, a folder for each.

    Args:
        directory: created when the first answer is kept.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, model: str, circumstances: Mapping[str, Any]) -> Path:
        """The file of one model's answers; it need not be there yet.

        Args:
            model: its fingerprint.
            circumstances: all else that numbers depend on, but for what is asked; as JSON.
        """
        text = json.dumps({"format": FORMAT, **circumstances}, sort_keys=True)
        return self._of(model) / f"{hashlib.sha256(text.encode()).hexdigest()}.jsonl"

    def forget(self, models: Collection[str]) -> None:
        """Removes the answers of models, by their fingerprints."""
        for model in models:
            shutil.rmtree(self._of(model), ignore_errors=True)

    def _of(self, model: str) -> Path:
        return self._directory / hashlib.sha256(model.encode()).hexdigest()[:32]


def digest_of_batch(kind: str, requests: Any) -> str:
    """What a batch is known by: what is asked of the model, prompt by prompt.

    Args:
        kind: of requests.
        requests: their tokens or texts and the settings of their generation, as JSON.
    """
    return hashlib.sha256(json.dumps([kind, requests], sort_keys=True, default=str).encode()).hexdigest()


def _word(value: Any) -> Any:
    """What JSON can hold: a number that is not finite becomes its name, in a list, which no text is."""
    return [str(value)] if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value[0]) if isinstance(value, list) else value
