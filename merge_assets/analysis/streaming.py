"""Layer importance by activations, one layer at a time: verbs of the model worker, the only process that imports this file.

Hidden states of all pieces of the text lie in files. A layer is loaded once and every piece goes through it; then the next. So
memory holds one layer, what lies around the layers, and the hidden states of one piece. The file of a piece is replaced as a
whole and named by the number of layers that it has gone through, so that work that was killed goes on with the next piece.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from merge_assets.analysis.frame import Frame, class_of, with_dtype
from merge_assets.errors import AnalysisError
from merge_assets.model_worker import Desk

State = dict[str, torch.Tensor]
"""What is kept of a piece of the text from one layer to the next."""

_ROWS = 8
"""Hidden states of leave-one-out models that go through a layer at once."""


def begin(
    desk: Desk,
    *,
    directory: str,
    around: str,
    text: str,
    kind: str,
    tokens: int,
    length: int,
    dtype: str,
    device: str,
    states: str,
) -> dict[str, Any]:
    """Load what lies around the layers, and bring every piece of the text to the first layer that is not done.

    Args:
        directory: folder of the config and the tokenizer, without weights.
        around: file of the tensors that lie around the layers.
        text: what is read.
        kind: ``activations`` or ``perplexity``.
        tokens: most tokens of the text that are used, from its beginning.
        length: tokens of a piece.
        dtype: of weights and hidden states.
        device: where it is computed.
        states: folder of the files of pieces.

    Returns:
        ``pieces``, ``tokens`` (used), ``length`` of a piece, ``layers``, ``done`` (layers that all pieces went through),
        ``device`` and ``versions``.
    """
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folder = Path(directory)
    known = class_of(folder)
    if known is None:
        raise AnalysisError(
            "transformers has no class for its model type, so its layers cannot be run; choose layers by snr, margin or "
            "reverse_order, or name them with by: list"
        )
    frame = Frame(*known, dtype=with_dtype(dtype), device=where)
    frame.fill(Path(around))
    pieces = _pieces(folder, text, tokens, length, frame)
    measure = _Activations(len(frame.layers)) if kind == "activations" else _LeaveOneOut(frame, pieces.shape[1])
    run = _Run(frame, measure, pieces, Path(states))
    with torch.inference_mode():
        run.begin(desk)
    desk.held["run"] = run
    return {
        "pieces": len(pieces),
        "tokens": pieces.numel(),
        "length": pieces.shape[1],
        "layers": len(frame.layers),
        "done": min(map(run.done, range(len(pieces)))),
        "device": where,
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def through(desk: Desk, *, layer: int, file: str) -> int:
    """Bring every piece of the text through one layer.

    Args:
        layer: its number.
        file: of its tensors.

    Returns:
        The most layers that were in memory at once, until now.
    """
    run: _Run = desk.held["run"]
    with torch.inference_mode():
        run.through(desk, layer, Path(file))
    return run.frame.most_loaded


def figures(desk: Desk) -> list[dict[str, Any]]:
    """What was measured, behind the last layer: rows of ``importance.json``."""
    run: _Run = desk.held["run"]
    with torch.inference_mode():
        return run.measure.rows([run.read(piece) for piece in range(len(run.pieces))])


def _pieces(folder: Path, text: str, tokens: int, length: int, frame: Frame) -> torch.Tensor:
    """The beginning of a text as token numbers, int64, (pieces, length); a last piece that is shorter is left out."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    ids = torch.tensor(
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:tokens], dtype=torch.int64
    )
    if (most := frame.context) is not None and length > most:
        raise AnalysisError(
            f"pieces of {length} tokens are longer than the {most} that the model has positions for; lower length"
        )
    length = min(length, len(ids))
    if length < 2:
        raise AnalysisError(f"the text has {len(ids)} tokens; two or more are needed")
    return ids[: len(ids) // length * length].reshape(-1, length)


class _Measure(Protocol):
    """What is kept of a piece, and what follows from it."""

    rows_at_once: int

    def first(self, hidden: torch.Tensor) -> State: ...

    def step(self, frame: Frame, number: int, layer: Any, state: State, tokens: torch.Tensor) -> State: ...

    def rows(self, states: Sequence[State]) -> list[dict[str, Any]]: ...


class _Run:
    def __init__(self, frame: Frame, measure: _Measure, pieces: torch.Tensor, states: Path) -> None:
        self.frame = frame
        self.measure = measure
        self.pieces = pieces
        self._states = states

    def begin(self, desk: Desk) -> None:
        for piece, tokens in enumerate(self.pieces):
            there = self._file(piece)
            if there is None or piece == 0:  # the first tells what layers are called with
                hidden = self.frame.begin(tokens, self.measure.rows_at_once)
            if there is None:
                self._write(piece, 0, self.measure.first(hidden))
            desk.report(piece + 1, len(self.pieces), "embedding")

    def through(self, desk: Desk, number: int, file: Path) -> None:
        with self.frame.loaded(number, file) as layer:
            for piece, tokens in enumerate(self.pieces):
                if self.done(piece) <= number:
                    state = self.measure.step(self.frame, number, layer, self.read(piece), tokens)
                    self._write(piece, number + 1, state)
                desk.report(piece + 1, len(self.pieces), f"layer {number}")

    def done(self, piece: int) -> int:
        """How many layers a piece has gone through."""
        file = self._file(piece)
        assert file is not None
        return int(file.suffixes[-2].removeprefix("."))

    def read(self, piece: int) -> State:
        file = self._file(piece)
        assert file is not None
        return load_file(file)

    def _file(self, piece: int) -> Path | None:
        return max(self._states.glob(f"{piece:06}.*.safetensors"), default=None)

    def _write(self, piece: int, done: int, state: State) -> None:
        before = self._file(piece)
        partial = self._states / f"{piece:06}.partial"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
        partial.replace(self._states / f"{piece:06}.{done:05}.safetensors")
        if before is not None:
            before.unlink()


class _Activations:
    """Block influence and angular distances of one pass.

    Kept of a piece: ``hidden`` (positions, width), ``influence`` (layers,) and ``last`` (layers + 1, width): the last token
    before every layer and behind the last.
    """

    rows_at_once = 1

    def __init__(self, layers: int) -> None:
        self._layers = layers

    def first(self, hidden: torch.Tensor) -> State:
        hidden = hidden.cpu()
        last = torch.zeros(self._layers + 1, hidden.shape[-1], dtype=hidden.dtype)
        last[0] = hidden[-1]
        return {"hidden": hidden, "influence": torch.zeros(self._layers, dtype=torch.float64), "last": last}

    def step(self, frame: Frame, number: int, layer: Any, state: State, tokens: torch.Tensor) -> State:
        before = state["hidden"].to(frame.device)
        after = frame.through(number, layer, before[None])[0]
        state["influence"][number] = 1 - _cosines(before, after).mean()
        state["last"][number + 1] = after[-1]
        return {**state, "hidden": after.cpu()}

    def rows(self, states: Sequence[State]) -> list[dict[str, Any]]:
        influence = torch.stack([state["influence"] for state in states]).mean(0)
        rows = [_row("block_influence", layer, 1, float(value)) for layer, value in enumerate(influence)]
        last = torch.stack([state["last"] for state in states])
        for count in range(1, self._layers + 1):
            cosines = _cosines(last[:, :-count], last[:, count:]).clamp(-1, 1)
            distances = (torch.arccos(cosines) / math.pi).mean(0)
            rows += [_row("angular_distance", layer, count, float(value)) for layer, value in enumerate(distances)]
        return rows


class _LeaveOneOut:
    """The perplexity without every layer, and without the last ones.

    Kept of a piece: ``hidden`` (models, positions, width), the whole model first, then those without layer 0, 1, … up to the
    last one passed; ``cut`` (layers,): negative log-likelihood in nats if the layers end before layer i. Behind the last layer,
    ``without`` (layers + 1,): that of every model.
    """

    rows_at_once = _ROWS

    def __init__(self, frame: Frame, length: int) -> None:
        self._frame = frame
        self._predicted = length - 1

    def first(self, hidden: torch.Tensor) -> State:
        size = (len(self._frame.layers) + 1) * hidden.numel() * hidden.element_size()
        most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if most != resource.RLIM_INFINITY and size > most:
            raise AnalysisError(
                f"hidden states of a piece take {size / 1e9:.3g} GB, and a file may have {most / 1e9:.3g} GB; lower length"
            )
        return {"hidden": hidden[None].cpu(), "cut": torch.zeros(len(self._frame.layers), dtype=torch.float64)}

    def step(self, frame: Frame, number: int, layer: Any, state: State, tokens: torch.Tensor) -> State:
        hidden = state["hidden"]
        state["cut"][number] = frame.negative_log_likelihood(hidden[0].to(frame.device), tokens)
        passed = [hidden.new_zeros(0, *hidden.shape[1:])]
        for start in range(0, len(hidden), _ROWS):
            rows = hidden[start : start + _ROWS]
            padded = torch.cat([rows, rows[:1].expand(_ROWS - len(rows), *rows.shape[1:])])
            passed.append(frame.through(number, layer, padded.to(frame.device))[: len(rows)].cpu())
        passed.append(hidden[:1])  # the model without this layer is the whole one up to here
        state = {**state, "hidden": torch.cat(passed)}
        if number == len(frame.layers) - 1:
            ends = [frame.negative_log_likelihood(one.to(frame.device), tokens) for one in state["hidden"]]
            state = {"cut": state["cut"], "without": torch.tensor(ends, dtype=torch.float64)}
        return state

    def rows(self, states: Sequence[State]) -> list[dict[str, Any]]:
        count = len(self._frame.layers)
        of_all = len(states) * self._predicted
        without = torch.exp(sum((state["without"] for state in states), torch.zeros(1)) / of_all)
        cut = torch.exp(sum((state["cut"] for state in states), torch.zeros(1)) / of_all)
        rows = [_row("perplexity", None, 0, float(without[0]))]
        rows += [_row("perplexity", layer, 1, float(without[layer + 1])) for layer in range(count)]
        return rows + [_row("reverse_order", layer, count - layer, float(cut[layer])) for layer in range(count)]


def _cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosines along the last axis, float64 whatever the hidden states are."""
    a, b = one.double(), other.double()
    cosines: torch.Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    return cosines


def _row(metric: str, layer: int | None, count: int, value: float) -> dict[str, Any]:
    return {"metric": metric, "layer": layer, "count": count, "value": value if math.isfinite(value) else None}
