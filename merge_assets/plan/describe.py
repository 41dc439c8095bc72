"""A plan in words for people: sizes, memory, what is not used, what differs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from merge_assets.plan.difference import Difference
from merge_assets.plan.gradients import ranges
from merge_assets.plan.model import OutputTensor, Plan
from merge_assets.records import Geometry

# Resident size of the process before the first tile, bytes; with torch for methods whose arithmetic is in torch.
_FILES_SHOWN = 6
_PROCESS = 60 << 20
_PROCESS_WITH_TORCH = 260 << 20


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
