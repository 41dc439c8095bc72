"""A plan in words and tables for people: the layer map, parameter values, sizes and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from merge_assets.architecture.anatomy import is_after_layers
from merge_assets.plan.difference import Difference
from merge_assets.plan.gradients import along_the_depth, ranges
from merge_assets.plan.model import OutputTensor, Plan, TensorInput
from merge_assets.plan.parameters import Value
from merge_assets.records import Geometry

# Resident size of the process before the first tile, bytes; with torch for methods whose arithmetic is in torch.
_FILES_SHOWN = 6
_PROCESS = 60 << 20
_PROCESS_WITH_TORCH = 260 << 20


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer map.

    Attributes:
        output: output layers, such as ``0–7``.
        sources: input layers by model, such as ``base 0–7``; a folded recipe with what it is made of, such as
            ``inner(base 0–7 + other 0–7)``.
        values: resolved parameter values, such as ``t self_attn 0…0.7``.
    """

    output: str
    sources: str
    values: str


def layer_map(plan: Plan) -> list[LayerRow]:
    """The layer map of a plan, one row per run of layers, embeddings first and head last."""
    rows = [
        LayerRow("before the layers", _outside_sources(plan, first=True), _values(plan, _outside(plan, first=True)))
    ]
    for span in plan.layers:
        sources = " + ".join(_layers(plan, s.model, s.start, s.end) for s in span.sources)
        tensors = [t for t in plan.tensors if t.layer is not None and span.start <= t.layer < span.end]
        rows.append(LayerRow(_span(span.start, span.end), sources, _values(plan, tensors)))
    rows.append(
        LayerRow("after the layers", _outside_sources(plan, first=False), _values(plan, _outside(plan, first=False)))
    )
    return [row for row in rows if row.sources]


def source_layers(plan: Plan) -> list[tuple[int, ...]]:
    """For every output layer, the input layers it is made of, one per source."""
    return [
        tuple(source.start + offset for source in span.sources)
        for span in plan.layers
        for offset in range(span.end - span.start)
    ]


def peak_memory_estimate(plan: Plan, memory: int) -> int:
    """Bytes of memory that the engine will need at most on the CPU, whatever the size of the models.

    Args:
        plan: what to execute.
        memory: bound of the engine's buffers, bytes.
    """
    if all(tensor.is_copy for tensor in plan.tensors):
        return _PROCESS
    in_torch = any(_is_in_torch(tensor) for tensor in plan.tensors)
    return (_PROCESS_WITH_TORCH if in_torch else _PROCESS) + memory


def _is_in_torch(tensor: OutputTensor) -> bool:
    nested = (item.nested for item in tensor.inputs if item.nested is not None)
    return (tensor.declaration is not None and tensor.declaration.in_torch) or any(map(_is_in_torch, nested))


def human_bytes(count: float) -> str:
    """``1.5 GiB`` and the like."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_figure(value: float | None) -> str:
    """A figure of an analysis; ``None`` stands for infinity, which JSON lacks."""
    return "∞" if value is None else f"{value:.4g}"


def dropped_tensors(plan: Plan) -> list[str]:
    """Input tensors that are not used, one sentence per model and reason; layers in no slice are listed together."""
    layers: dict[int, dict[str, int]] = {}
    others: dict[tuple[int, str], int] = {}
    for dropped in plan.dropped:
        match = re.fullmatch(r"layer (\d+) is in no slice", dropped.reason)
        if match:
            counts = layers.setdefault(dropped.model, {})
            counts[match[1]] = counts.get(match[1], 0) + 1
        else:
            others[dropped.model, dropped.reason] = others.get((dropped.model, dropped.reason), 0) + 1
    sentences = [
        f"{sum(counts.values())} tensors of {plan.models[model].reference}: "
        f"layer{'s'[: len(counts) != 1]} {ranges([int(layer) for layer in counts])} in no slice"
        for model, counts in layers.items()
    ]
    return sentences + [f"{n} tensors of {plan.models[model].reference}: {why}" for (model, why), n in others.items()]


def left_files(plan: Plan) -> str:
    """The files of the donor that the variant does not have, in a sentence; the first of many."""
    shown, more = plan.left_files[:_FILES_SHOWN], len(plan.left_files) - _FILES_SHOWN
    donor = plan.carried[0].model if plan.carried else plan.donor
    return f"{', '.join(shown)}{f' and {more} more files' if more > 0 else ''} of {plan.models[donor].reference}"


def difference_summary(made: Difference) -> str:
    """What differs from an earlier build, in one sentence that says what is not known."""
    same = f"{made.unchanged} unchanged"
    if made.open:
        same = f"{f'{same}, ' if made.unchanged else ''}{made.open} unchanged if the inputs' bytes are"
    unknown = f" (inputs not digested yet: {', '.join(made.undigested)})" if made.undigested else ""
    if not made.is_other:
        return f"nothing differs in the recipe; tensors: {same}{unknown}" if made.undigested else "nothing differs"
    reasons = ", ".join(f"{reason} ({count})" for reason, count in made.reasons.items())
    text = f"{len(made.changed)} tensors change{f': {reasons}' if reasons else ''}, {len(made.added)} added, "
    text += f"{len(made.removed)} removed, {same}{unknown}"
    if made.config:
        text += f"; config: {', '.join(made.config)}"
    if made.files:
        text += f"; files: {', '.join(made.files)}"
    if made.shards and not (made.changed or made.added or made.removed):
        text += "; other shards"
    return text


def parameter_table(plan: Plan) -> list[Mapping[str, object]]:
    """Distinct parameter values by module: rows of parameter, model, tensors, layers, lowest and highest value.

    Where a value is a word, both are all the values in words.
    """
    groups: dict[tuple[str, str, str], list[Value]] = {}
    for tensor in plan.tensors:
        module = _module(tensor.name)
        for name, value in _parameters(plan, tensor):
            model, _, parameter = name.rpartition(" ")
            groups.setdefault((parameter, model, module), []).append(value)
    return [
        {"parameter": p, "model": m, "module": module, "tensors": len(v), "lowest": lowest, "highest": highest}
        for (p, m, module), v in groups.items()
        for lowest, highest in [_extremes(v)]
    ]


def vocabulary_summary(plan: Plan) -> str | None:
    """The vocabulary that a recipe's tokenizer settings came to: ``union: 32,002 tokens in 32,064 rows; 32,000 of …``."""
    found = plan.vocabulary
    if found is None:
        return None
    (donor, count), *others = found.parts
    left = found.tokens - sum(count for _, count in found.parts)
    parts = [f"{count:,} of {plan.model_names[donor]}"]
    parts += [f"{count:,} more of {plan.model_names[model]}" for model, count in others if count]
    if left:
        parts.append(f"{left:,} that the recipe lists")
    return f"{found.source}: {found.tokens:,} tokens in {found.rows:,} rows; {', '.join(parts)}"


def folded_recipes(plan: Plan) -> list[str]:
    """Every recipe that is folded into the plan, with its method: ``inner (linear)``."""
    return [f"{model.reference} ({model.folded.method})" for model in plan.models if model.folded is not None]


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


def _outside(plan: Plan, *, first: bool) -> list[OutputTensor]:
    return [t for t in plan.tensors if t.layer is None and is_after_layers(t.name) != first]


def _outside_sources(plan: Plan, *, first: bool) -> str:
    models: dict[str, None] = {}
    for tensor in _outside(plan, first=first):
        for item in tensor.inputs:
            models[_source(plan, item)] = None
    return " + ".join(models)


def _source(plan: Plan, item: TensorInput) -> str:
    name = plan.model_names[item.model]
    if item.nested is None or item.nested.declaration is None:
        return name
    return f"{name}({' + '.join(_source(plan, i) for i in item.nested.inputs)})"


def _span(start: int, end: int) -> str:
    return f"{start}" if end - start == 1 else f"{start}–{end - 1}"


def _module(name: str) -> str:
    parts = [part for part in name.split(".") if not part.isdigit()]
    return ".".join(parts[-3:-1]) if len(parts) > 2 else parts[0]


def _parameters(plan: Plan, tensor: OutputTensor) -> Iterable[tuple[str, Value]]:
    """Resolved values by name, those at their default left out.

    Per-model ones come with their model, and those of folded recipes with the recipe: ``inner t``, ``inner a weight``.
    """
    method = tensor.declaration
    defaults: dict[str, Value | None] = {"seed": 0}  # the seed is the recipe's, no method declares it
    if method is not None:  # what makes an input has parameters that are no recipe's
        defaults |= {p.name: p.default for p in method.parameters}
        yield from ((name, value) for name, value in tensor.parameters.items() if value != defaults[name])
    for item in tensor.inputs:
        for name, value in item.parameters.items():
            if value != defaults[name]:
                yield (f"{plan.model_names[item.model]} {name}" if len(tensor.inputs) > 1 else name), value
        if item.nested is not None:
            recipe = plan.model_names[item.model]
            yield from ((f"{recipe} {name}", value) for name, value in _parameters(plan, item.nested))


def _values(plan: Plan, tensors: Sequence[OutputTensor]) -> str:
    """Parameter values of some tensors, grouped by module where they differ between modules."""
    by_name: dict[str, dict[str, list[Value]]] = {}
    for tensor in sorted(tensors, key=lambda one: one.layer or 0):
        for name, value in _parameters(plan, tensor):
            by_name.setdefault(name, {}).setdefault(_module(tensor.name), []).append(value)
    texts = []
    for name, by_module in by_name.items():
        runs: dict[str, list[str]] = {}
        for module, values in by_module.items():
            runs.setdefault(_run(values), []).append(module)
        partial = sum(len(v) for v in by_module.values()) < len(tensors)
        if len(runs) == 1 and not partial:
            texts.append(f"{name} {next(iter(runs))}")
        else:
            texts.extend(f"{name} {_common(modules)} {run}" for run, modules in runs.items())
    return ", ".join(texts)


def _common(modules: Sequence[str]) -> str:
    parents = {module.partition(".")[0] for module in modules}
    return "/".join(sorted(parents)) if len(modules) > 2 else "/".join(modules)


def _run(values: Sequence[Value]) -> str:
    if len(set(values)) == 1:
        return _shown(values[0])
    if any(isinstance(value, str) for value in values):
        return f"{_shown(values[0])}…{_shown(values[-1])}"
    return along_the_depth([float(value) for value in values])


def _extremes(values: Sequence[Value]) -> tuple[Value, Value]:
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if len(numbers) == len(values):
        return min(numbers), max(numbers)
    words = ", ".join(dict.fromkeys(_shown(value) for value in values))
    return words, words


def _shown(value: Value) -> str:
    # A seed has more digits than %g shows.
    return value if isinstance(value, str) else f"{value:d}" if type(value) is int else f"{float(value):g}"


def geometry_summary(geometry: Mapping[str, Geometry]) -> str:
    """How the inputs of a build lay to each other, over all tensors and pairs; empty if nothing was found of it."""
    by_kind: dict[str, list[Geometry]] = {}
    for one in geometry.values():
        if one.cosines:
            by_kind.setdefault(one.of, []).append(one)
    texts = []
    for kind, found in sorted(by_kind.items()):
        cosines = [cosine for one in found for cosine in one.cosines]
        mean = math.fsum(cosines) / len(cosines)
        texts.append(
            f"cosine of the {kind} {min(cosines):.4f} to {max(cosines):.4f}, {mean:.4f} at the mean, in {len(found)} tensors"
        )
    return "; ".join(texts)
