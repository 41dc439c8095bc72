"""The layer map: which layers and parts of a variant are made of which of its inputs, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from merge_assets.plan.model import LayerSpan, OutputTensor, Plan, SourceSpan, TensorInput
from merge_assets.plan.sections import Placed, Side, placed

_TURNS = (2, 3)
"""Runs of layers that may take turns."""
_FEWEST_TURNS = 3


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer map.

    Attributes:
        part: such as ``text`` or ``vision tower``; empty for the only one.
        output: output layers, such as ``0–7``, or what lies outside them.
        sources: input layers by model, such as ``base 0–7 (base) + other 0–7``; a folded recipe with what it is made of, such
            as ``inner(base 0–7 + other 0–7)``.
    """

    part: str
    output: str
    sources: str


def layer_map(plan: Plan) -> list[LayerRow]:
    """The layer map of a plan: per part one row per run of layers, embeddings first and head last.

    Runs of layers that take turns (an interlocked stack) are one row, as is a part that is that of a model, unchanged.
    """
    places = placed(plan)
    return [
        row
        for (part, is_main), group in groupby(places, key=lambda one: (one.part, one.is_main))
        for row in (_main_rows(plan, part, list(group)) if is_main else _other_rows(plan, part, list(group)))
    ]


def _main_rows(plan: Plan, part: str, places: Sequence[Placed]) -> Iterator[LayerRow]:
    yield from _around(plan, part, places, Side.BEFORE)
    for spans in _by_turns(_joined(plan.layers)):
        begin, end = spans[0].start, spans[-1].end
        tensors = [one.tensor for one in places if one.layer is not None and begin <= one.layer < end]
        made = _turns(plan, spans) if len(spans) > 1 else _side_by_side(plan, spans[0], tensors)
        yield LayerRow(part, _span(begin, end), made)
    yield from _around(plan, part, places, Side.AFTER)
    yield from _around(plan, part, places, Side.HEAD)


def _other_rows(plan: Plan, part: str, places: Sequence[Placed]) -> Iterator[LayerRow]:
    """A tower, a projector, an encoder."""
    tensors = [one.tensor for one in places]
    spans = list(_spans_of(places))
    models = {item.model for tensor in tensors for item in tensor.inputs}
    if len(models) == 1 and plan.method != "passthrough" and all(tensor.is_plain for tensor in tensors):
        layers = _span(0, spans[-1].end) if spans else "all"
        yield LayerRow(part, layers, f"{plan.model_names[models.pop()]}, unchanged")
        return
    if not spans:
        yield LayerRow(part, "all", _joint_sources(plan, tensors))
        return
    yield from _around(plan, part, places, Side.BEFORE)
    for span in spans:
        inside = [one.tensor for one in places if one.layer is not None and span.start <= one.layer < span.end]
        yield LayerRow(part, _span(span.start, span.end), _side_by_side(plan, span, inside))
    yield from _around(plan, part, places, Side.AFTER)
    yield from _around(plan, part, places, Side.HEAD)


def _around(plan: Plan, part: str, places: Sequence[Placed], side: Side) -> Iterator[LayerRow]:
    if tensors := [one.tensor for one in places if one.side is side]:
        yield LayerRow(part, side.value, _joint_sources(plan, tensors))


def _joint_sources(plan: Plan, tensors: Sequence[OutputTensor]) -> str:
    """All that some tensors outside layers are made of."""
    sources: dict[str, bool] = {}
    for tensor in tensors:
        for number, item in enumerate(tensor.inputs):
            source = _source(plan, item)
            sources[source] = sources.get(source, False) or _is_base(tensor, number)
    return " + ".join(f"{text}{_mark(base)}" for text, base in sources.items())


def _joined(spans: Sequence[LayerSpan]) -> list[LayerSpan]:
    """The runs of layers; one that goes on where the one before it ends is not another: what differs are parameters."""
    found: list[LayerSpan] = []
    for span in spans:
        before = found[-1] if found else None
        if before is not None and [(s.model, s.end) for s in before.sources] == [
            (s.model, s.start) for s in span.sources
        ]:
            sources = zip(before.sources, span.sources, strict=True)
            joined = tuple(SourceSpan(one.model, one.start, other.end) for one, other in sources)
            found[-1] = LayerSpan(before.start, span.end, joined)
        else:
            found.append(span)
    return found


def _spans_of(places: Sequence[Placed]) -> Iterator[LayerSpan]:
    """Runs of layers of a part beside the main one, by the tensor of each that most inputs have."""
    layers: dict[int, OutputTensor] = {}
    for one in places:
        if one.layer is not None:
            found = layers.setdefault(one.layer, one.tensor)
            layers[one.layer] = max(found, one.tensor, key=lambda tensor: len(tensor.inputs))
    ordered = sorted(layers.items())
    kinds = [
        tuple((item.model, None if item.layer is None else item.layer - layer) for item in tensor.inputs)
        for layer, tensor in ordered
    ]
    for _, group in groupby(zip(kinds, ordered, strict=True), key=lambda entry: entry[0]):
        run = [entry for _, entry in group]
        first, last = run[0][0], run[-1][0]
        starts = [(item.model, first if item.layer is None else item.layer) for item in run[0][1].inputs]
        yield LayerSpan(first, last + 1, tuple(SourceSpan(model, at, at + last + 1 - first) for model, at in starts))


def _side_by_side(plan: Plan, span: LayerSpan, tensors: Sequence[OutputTensor]) -> str:
    whole = [tensor for tensor in tensors if len(tensor.inputs) == len(span.sources)]
    base = {number for tensor in whole for number in range(len(span.sources)) if _is_base(tensor, number)}
    return " + ".join(
        f"{_layers(plan, source.model, source.start, source.end)}{_mark(number in base)}"
        for number, source in enumerate(span.sources)
    )


def _is_base(tensor: OutputTensor, number: int) -> bool:
    return tensor.base == number and len(tensor.inputs) > 1


def _mark(base: bool) -> str:
    return " (base)" if base else ""


def _by_turns(spans: Sequence[LayerSpan]) -> Iterator[Sequence[LayerSpan]]:
    """The runs of layers, those that take turns together."""
    at = 0
    while at < len(spans):
        longest = max((_while_in_turn(spans, at, period) for period in _TURNS), default=1)
        yield spans[at : at + longest]
        at += longest


def _while_in_turn(spans: Sequence[LayerSpan], at: int, period: int) -> int:
    """How many runs from one on are by turns of ``period`` models or places; 1 if too few are."""
    end = at
    while end < len(spans) and _fits(spans, at, end, period):
        end += 1
    count = end - at
    return count if count >= _FEWEST_TURNS * period else 1


def _fits(spans: Sequence[LayerSpan], at: int, number: int, period: int) -> bool:
    one = spans[number]
    if len(one.sources) != 1 or one.end - one.start != spans[at].end - spans[at].start:
        return False
    if number - at < period:
        return True
    (own,), (before,) = one.sources, spans[number - period].sources
    return own.model == before.model and own.start == before.end


def _turns(plan: Plan, spans: Sequence[LayerSpan]) -> str:
    period = next(count for count in _TURNS if _while_in_turn(spans, 0, count) == len(spans))
    runs = [[span.sources[0] for span in spans[place::period]] for place in range(period)]
    each = spans[0].end - spans[0].start
    named = [_layers(plan, run[0].model, run[0].start, run[-1].end) for run in runs]
    return f"{', '.join(named[:-1])} and {named[-1]} by turns, {each} layer{'s'[: each != 1]} each"


def _layers(plan: Plan, model: int, start: int, end: int) -> str:
    """A run of layers of an input; of a folded recipe, the layers that it takes for them."""
    folded = plan.models[model].folded
    if folded is None:
        return f"{plan.model_names[model]} {_span(start, end)}"
    parts = []
    for span in folded.layers:
        first, last = max(start, span.start), min(end, span.end)
        if first < last:
            sources = [(s.model, s.start + first - span.start, s.start + last - span.start) for s in span.sources]
            parts.append(" + ".join(_layers(plan, *source) for source in sources))
    return f"{plan.model_names[model]}({', '.join(parts)})"


def _source(plan: Plan, item: TensorInput) -> str:
    name = plan.model_names[item.model]
    if item.nested is None or item.nested.declaration is None:
        return name
    return f"{name}({' + '.join(_source(plan, i) for i in item.nested.inputs)})"


def _span(start: int, end: int) -> str:
    return f"{start}" if end - start == 1 else f"{start}–{end - 1}"
