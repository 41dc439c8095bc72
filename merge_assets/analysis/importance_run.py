"""Measure the importance of layers by running a model on a text, layer by layer; torch is in the model worker alone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge_assets.analysis.importance import Figure, ImportanceRecord, MeasuredText
from merge_assets.errors import AnalysisError, ModelWorkerError
from merge_assets.extras import require
from merge_assets.model_worker import Limits, ModelWorker
from merge_assets.recipe import ImportanceKind, TextSample
from merge_assets.work import UNATTENDED, Work

STREAMING = "merge_assets.analysis.streaming"
"""The verbs that are asked here."""

LENGTH = 512
"""Tokens of a piece, where a recipe does not say, of a model that has positions for so many."""

_DEFAULT = Limits()

Extract = Callable[[int | None, Path], Path]
"""Writes the tensors of a layer, or (``None``) those around the layers, into a file of a folder, and names the file."""


@dataclass(frozen=True)
class Importance:
    """What was measured.

    Attributes:
        record: the figures.
        most_loaded: the most layers that were in memory at once.
        resumed: layers that an earlier attempt had done.
        seconds: wall time.
        device: where layers were computed.
        versions: of torch and transformers.
    """

    record: ImportanceRecord
    most_loaded: int
    resumed: int
    seconds: float
    device: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of all figures; the titles of model and text do not count."""
        return hashlib.sha256(self.figures().encode()).hexdigest()

    def figures(self) -> str:
        """``importance.json`` without titles."""
        text = self.record.text.model_copy(update={"file": ""})
        return self.record.model_copy(update={"model": "", "text": text}).model_dump_json(indent=1)


def measure(
    directory: Path,
    extract: Extract,
    *,
    title: str,
    kind: ImportanceKind,
    sample: TextSample,
    text: bytes,
    context: int | None,
    scratch: Path,
    device: str = "auto",
    limits: Limits = _DEFAULT,
    work: Work = UNATTENDED,
) -> Importance:
    """Run a model on a text, one layer at a time.

    Args:
        directory: folder of config and tokenizer; no weights are looked for in it.
        extract: see :data:`Extract`.
        title: the model's name.
        kind: what is measured.
        sample: settings of the text.
        text: bytes of the text's file.
        context: positions that the model has; ``None`` if its config does not say.
        scratch: folder of files that hold hidden states. What an earlier attempt of the same left there is gone on with.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
        limits: of the process that runs the model.
        work: told layers of all pieces done, in all, and what is at work; asked several times a second.

    Raises:
        AnalysisError: the text cannot be used, or the model not be run layer by layer.
        ModelMemoryError: the process took more memory than it may.
        Stopped: on request. What is done stays in ``scratch``.
    """
    require("torch", "transformers")
    started = time.monotonic()
    states, layer_files = scratch / "states", scratch / "layers"
    for folder in (states, layer_files):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "directory": str(directory),
        "text": _decoded(text, sample.file),
        "kind": kind,
        "tokens": sample.tokens,
        "length": sample.length or min(LENGTH, context or LENGTH),
        "dtype": sample.dtype,
        "device": device,
        "states": str(states),
    }
    with ModelWorker(STREAMING, limits) as worker:

        def ask(verb: str, arguments: Mapping[str, Any], told: Work, doing: str) -> Any:
            try:
                return worker.ask(verb, arguments, limit="silence", work=told, doing=doing)
            except ModelWorkerError as error:
                if error.answered and error.raised == AnalysisError.__name__:
                    raise AnalysisError(str(error)) from None
                error.prefix(f"{title}: ")
                raise

        around = extract(None, layer_files)
        begun = ask(
            "begin", {**arguments, "around": str(around)}, work.silent(), "bringing the text to the first layer"
        )
        around.unlink()
        layers, most = int(begun["layers"]), 0
        for number in range(begun["done"], layers):
            file = extract(number, layer_files)
            told = work.reporting(_counted(work, kind, number, layers))
            most = ask("through", {"layer": number, "file": str(file)}, told, f"computing layer {number}")
            file.unlink()
        figures = ask("figures", {}, work.silent(), "adding up")
    record = ImportanceRecord(
        model=title,
        kind=kind,
        layers=layers,
        text=MeasuredText(
            file=Path(sample.file).name,
            digest=hashlib.sha256(text).hexdigest(),
            tokens=begun["tokens"],
            pieces=begun["pieces"],
            length=begun["length"],
            dtype=sample.dtype,
        ),
        figures=[Figure(**row) for row in figures],
    )
    seconds = time.monotonic() - started
    return Importance(record, most, begun["done"], seconds, begun["device"], begun["versions"])


def _counted(work: Work, kind: ImportanceKind, number: int, layers: int) -> Callable[[int, int, str], None]:
    """Progress over all layers, each of as many passes as hidden states go through it."""
    passes = [1 + layer if kind == "perplexity" else 1 for layer in range(layers)]
    before, own, total = sum(passes[:number]), passes[number], sum(passes)

    def report(done: int, pieces: int, label: str) -> None:
        work.report(before * pieces + own * done, total * pieces, f"{label} of {layers}, piece {done} of {pieces}")

    return report


def _decoded(text: bytes, file: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AnalysisError(f"{file}: is no text in UTF-8 (byte {error.start}); give a plain text file") from None


def write_json(record: ImportanceRecord) -> str:
    """``importance.json``: strict JSON, ``null`` where a figure is infinite or undefined."""
    return json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
