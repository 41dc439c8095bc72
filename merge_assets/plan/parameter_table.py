"""The parameters of a plan as their author reads them: for each model what is set to what, along the depth of the variant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from merge_assets.plan.gradients import along_the_depth, ranges
from merge_assets.plan.model import OutputTensor, Plan
from merge_assets.plan.parameters import Value
from merge_assets.plan.sections import Placed, Side, placed

_MOST_STEPS = 8
"""Values of slices that are listed; of more the shape is drawn."""
_MOST_NAMES = 3
"""Names of tensors up to which those with a value in common are not called all else."""
_MOST_LISTED = 8
"""Names of tensors in a cell."""

Owner = tuple[int, ...]
"""The model that a parameter is set for, the recipes before it that it is folded into; empty for what holds for all."""

Words = tuple[str, ...]
"""Where tensors are, from the whole down: part, inside or outside the layers, then words of their names."""


@dataclass(frozen=True)
class ParameterRow:
    """One value, or the values of one parameter along the depth.

    Attributes:
        model: that it is set for, with the recipe before it where that is folded; the method for what holds for all.
        parameter: its name; empty for the base, which has none.
        of: the tensors: ``all``, ``layers``, ``self_attn``, ``outside the layers``, ``all else``.
        value: such as ``0.5``, ``0…0.7``, ``▁▄█▄▁ 0 to 0.7``, or ``1 in 0–3; 1.5 in 4–11``.
    """

    model: str
    parameter: str
    of: str
    value: str


def parameter_table(plan: Plan) -> list[ParameterRow]:
    """Every parameter that is not at its default in all tensors, for one model after the other, the base marked."""
    places = placed(plan)
    found: dict[tuple[Owner, str], dict[Words, list[tuple[Placed, Value]]]] = {}
    telling: dict[tuple[Owner, str], None] = {}
    taking_part: dict[Owner, dict[Words, None]] = {}
    for one in places:
        for owner in _owners(one.tensor):
            taking_part.setdefault(owner, {})[_words(one)] = None
        for owner, name, value, default in _parameters(one.tensor):
            found.setdefault((owner, name), {}).setdefault(_words(one), []).append((one, value))
            if value != default:
                telling[owner, name] = None
    rows = [
        ParameterRow(": ".join(plan.model_names[model] for model in owner) or plan.method, name, of, value)
        for owner, name in sorted(telling, key=lambda entry: (not entry[0], entry[0][:1]))
        for of, value in _values(plan, found[owner, name], taking_part[owner])
    ]
    return [*(ParameterRow(base, "", "", "the base") for base in _bases(places, plan)), *rows] if rows else []


def _bases(places: Sequence[Placed], plan: Plan) -> list[str]:
    """The models that are the base wherever they take part with others."""
    merged = [one.tensor for one in places if len(one.tensor.inputs) > 1]
    bases = {tensor.inputs[tensor.base].model for tensor in merged if tensor.base is not None}
    others = {item.model for tensor in merged for number, item in enumerate(tensor.inputs) if number != tensor.base}
    return [plan.model_names[model] for model in sorted(bases - others)]


def _owners(tensor: OutputTensor) -> Iterator[Owner]:
    """Whom parameters may be set for where this tensor is made."""
    if tensor.declaration is not None:
        yield ()
    for item in tensor.inputs:
        yield (item.model,)
        if item.nested is not None:
            yield from ((item.model, *owner) for owner in _owners(item.nested) if owner)


def _parameters(tensor: OutputTensor) -> Iterator[tuple[Owner, str, Value, Value | None]]:
    """For whom, name, resolved value and default."""
    method = tensor.declaration
    defaults: dict[str, Value | None] = {"seed": 0}  # the seed is the recipe's, no method declares it
    if method is not None:  # what makes an input has parameters that are no recipe's
        defaults |= {p.name: p.default for p in method.parameters}
        yield from (((), name, value, defaults[name]) for name, value in tensor.parameters.items())
    for item in tensor.inputs:
        yield from (((item.model,), name, value, defaults[name]) for name, value in item.parameters.items())
        if item.nested is not None:
            for owner, name, value, default in _parameters(item.nested):
                yield (item.model, *owner), name, value, default


def _words(one: Placed) -> Words:
    return one.part, "layers" if one.side is Side.LAYERS else "outside the layers", *one.words


def _values(
    plan: Plan, by_place: Mapping[Words, Sequence[tuple[Placed, Value]]], everything: Collection[Words]
) -> Iterator[tuple[str, str]]:
    """The tensors that have a value in common, in words, and the value; the most of them last, if they are many."""
    groups: dict[str, list[Words]] = {}
    for words, found in by_place.items():
        groups.setdefault(_run(plan, found), []).append(words)
    named = [(value, _named(members, everything)) for value, members in groups.items()]
    whole = sum(map(len, groups.values())) == len(everything)
    most = max(named, key=lambda entry: len(entry[1])) if whole and len(named) > 1 else None
    if most is not None and len(most[1]) > _MOST_NAMES:
        yield from ((_listed(names), value) for value, names in named if value != most[0])
        yield "all else", most[0]
    else:
        yield from ((_listed(names), value) for value, names in named)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names) if more < 2 else f"{', '.join(names[:_MOST_LISTED])} and {more} more"


def _named(members: Collection[Words], everything: Collection[Words]) -> list[str]:
    """The fewest names that say which of all tensors are meant: those of whole branches, else of the tensors."""
    chosen, all_of = (
        Counter(branch for words in some for branch in _branches(words)) for some in (members, everything)
    )
    whole = (next(branch for branch in _branches(words) if chosen[branch] == all_of[branch]) for words in members)
    return list(dict.fromkeys(map(_name, whole)))


def _branches(words: Words) -> Iterator[Words]:
    """What a tensor is in, from the whole to itself."""
    return (words[:depth] for depth in range(len(words) + 1))


def _name(branch: Words) -> str:
    if not branch:
        return "all"
    part, *rest = branch
    if len(rest) > 1:
        words = rest[2:] if rest[1] == "model" and len(rest) > 2 else rest[1:]
        rest = [".".join(words[:-1] if words[-1] == "weight" and len(words) > 1 else words)]
    return " ".join(word for word in ("" if part == "text" and rest else part, *rest) if word)


def _run(plan: Plan, found: Sequence[tuple[Placed, Value]]) -> str:
    """Values from the first layer to the last, in words."""
    ordered = sorted(found, key=lambda entry: entry[0].layer or 0)
    values = [value for _, value in ordered]
    if len(set(values)) == 1:
        return _shown(values[0])
    steps = [(value, [one.layer or 0 for one, _ in run]) for value, run in groupby(ordered, key=lambda entry: entry[1])]
    in_words = any(isinstance(value, str) for value in values)
    if in_words or (ordered[0][0].is_main and len(steps) <= _MOST_STEPS and _is_by_slices(plan, ordered)):
        return "; ".join(f"{_shown(value)} in {ranges(layers)}" for value, layers in steps)
    return along_the_depth([float(value) for value in values])


def _is_by_slices(plan: Plan, ordered: Sequence[tuple[Placed, Value]]) -> bool:
    """Whether all values of each slice are one."""
    by_span: dict[int, set[Value]] = {}
    for one, value in ordered:
        start = next((span.start for span in plan.layers if span.start <= (one.layer or 0) < span.end), 0)
        by_span.setdefault(start, set()).add(value)
    return all(len(values) == 1 for values in by_span.values())


def _shown(value: Value) -> str:
    # A seed has more digits than %g shows.
    return value if isinstance(value, str) else f"{value:d}" if type(value) is int else f"{float(value):g}"
