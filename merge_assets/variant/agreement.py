"""Whether transformers can load a variant as planned: asked before a weight is read, and without memory for weights.

The model is built from the planned ``config.json`` on torch's meta device, where tensors have shapes and no elements, and
loaded with tensors of the planned names and shapes, so that the library's own renaming and fusing of stored tensors counts.
What the donor itself has wrong (a file with prediction heads that the library ignores) is not the merge's fault.

Beside names and shapes, roles are compared: every per-layer list that the library derives from a config (``layer_types``, …)
must give each layer of the variant what it gave the layer it comes from, also where no key of the config says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.architecture import LayerStack
from merge_assets.architecture.config import DTYPE_KEYS
from merge_assets.checkpoint import Checkpoint
from merge_assets.errors import ModelWorkerError, PlanError
from merge_assets.extras import is_installed
from merge_assets.model_worker import Limits, ask
from merge_assets.plan import Plan, PlanInput
from merge_assets.work import UNATTENDED, Work

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Report = Mapping[str, tuple[str, ...]]
"""Names by what is wrong with them: missing, unexpected, of another shape."""

_HINT = re.compile(
    r"sliding|window|chunk|local|global|pattern|interval|period|offset|sparse|dense|rope_layer|moe|expert|layer_(?!norm)|block_type|hybrid"
)
_SHOWN = 3
LOADING = "merge_assets.variant.loading"
"""The verbs that are asked here."""

DEFAULT = Limits()

_KEPT = 4
_reports: dict[tuple[str, Shapes], Report | None] = {}
"""Answers: a plan is made again for each verb, and its variant is checked against the same config."""


def check_agreement(
    plan: Plan, inputs: Sequence[PlanInput], file: str, *, limits: Limits = DEFAULT, work: Work = UNATTENDED
) -> None:
    """Refuse a plan whose config does not describe its tensors.

    Nothing is imported, and nothing asked, where the config is the donor's and so are all names and shapes, and where
    layers that are all alike were stacked. A model type that transformers does not know is not checked.

    Args:
        plan: what would be built.
        inputs: what it was planned from.
        file: of the recipe, for errors.
        limits: of the process in which transformers is asked.
        work: asked several times a second.

    Raises:
        PlanError: with the first names that are missing, unexpected or of another shape, or the first layer that would
            change its role.
        Stopped: on request.
    """
    donor = inputs[plan.donor].checkpoint
    if _is_evident(plan, donor):
        return
    report = loading_report(_text(plan.config), tuple((t.name, t.shape) for t in plan.tensors), limits, work)
    if report is None:
        return
    if report:
        report = _without_faults_of(donor, report, limits, work)
    if report:
        raise PlanError(
            f"the planned config.json does not describe the planned tensors: {describe(report)}; "
            "choose layers that have what the config asks for in their new places",
            file=file,
        )
    changed = _changed_role(plan, inputs, limits, work)
    if changed:
        raise PlanError(changed, file=file)


def describe(report: Report) -> str:
    """``missing: a, b (7); …``"""
    return "; ".join(
        f"{kind}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''} ({len(names)})"
        for kind, names in report.items()
    )


def _is_evident(plan: Plan, donor: Checkpoint) -> bool:
    """Whether no library need be asked: the donor's own layers in their places, or layers alike in all that is written."""
    planned = {tensor.name: tensor.shape for tensor in plan.tensors}
    stored = {name: header.shape for name, header in donor.tensors.items()}
    before, after = _without_dtypes(donor.config), _without_dtypes(plan.config)
    if (
        planned == stored
        and _text(before) == _text(after)
        and all(span.sources[0].start == span.start for span in plan.layers)
    ):
        return True
    if len(donor.parts) != 1 or len(donor.parts[0].stacks) != 1:
        return False
    stack = donor.parts[0].stacks[0]
    changed = {key for key in before.keys() | after.keys() if _text(before.get(key)) != _text(after.get(key))}
    hinted = any(_HINT.search(key) and value not in (None, False) for key, value in donor.config.items())
    if hinted or stack.tail or stack.config_key is None or len(stack.config_key) > 1 or changed - {*stack.config_key}:
        return False
    layers = [*_by_layer(stack, stored, stack.count), *_by_layer(stack, planned, plan.layer_count)]
    outside = {name: shape for name, shape in planned.items() if not name.startswith(stack.prefix)}
    return all(layer == layers[0] for layer in layers) and outside == {name: stored[name] for name in donor.outside}


def _without_dtypes(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_dtypes(item) for key, item in value.items() if key not in DTYPE_KEYS}


def _by_layer(stack: LayerStack, shapes: Mapping[str, tuple[int, ...]], count: int) -> list[dict[str, tuple[int, ...]]]:
    layers: list[dict[str, tuple[int, ...]]] = [{} for _ in range(count)]
    for name, shape in shapes.items():
        number, _, suffix = name.removeprefix(stack.prefix).partition(".")
        if name.startswith(stack.prefix) and number.isdecimal() and int(number) < count:
            layers[int(number)][suffix] = shape
    return layers


def loading_report(config: str, tensors: Shapes, limits: Limits = DEFAULT, work: Work = UNATTENDED) -> Report | None:
    """What transformers says when it loads tensors of these names and shapes; asked in the model worker.

    Args:
        config: content of ``config.json``.
        tensors: name and shape of every stored tensor.
        limits: of the worker.
        work: asked several times a second.

    Returns:
        Nothing where all is well; ``None`` where transformers does not know the model, or is not installed.

    Raises:
        Stopped: on request.
    """
    if not is_installed("torch", "transformers"):
        return None
    if (config, tensors) in _reports:
        return _reports[config, tensors]
    try:
        said = ask(LOADING, "loading_report", {"config": config, "tensors": tensors}, limits, limit="load", work=work)
    except ModelWorkerError as error:
        return {"transformers cannot build it": (str(error),)}
    report = None if said is None else {str(what): tuple(map(str, names)) for what, names in said.items()}
    if len(_reports) == _KEPT:
        _reports.clear()
    _reports[config, tensors] = report
    return report


def _without_faults_of(donor: Checkpoint, report: Report, limits: Limits, work: Work) -> Report:
    """The report without what the donor's own files would be reported for, layer numbers aside."""
    tensors = tuple((name, header.shape) for name, header in donor.tensors.items())
    before = loading_report(_text(donor.config), tensors, limits, work) or {}
    known = {kind: {_anonymous(name) for name in names} for kind, names in before.items()}
    left = {kind: tuple(n for n in names if _anonymous(n) not in known.get(kind, ())) for kind, names in report.items()}
    return {kind: names for kind, names in left.items() if names}


def _anonymous(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _changed_role(plan: Plan, inputs: Sequence[PlanInput], limits: Limits, work: Work) -> str:
    """The first layer to which transformers would give a role that none of the layers has which it comes from."""
    donor = inputs[plan.donor].checkpoint
    stack = donor.parts[0].stacks[0] if donor.parts and donor.parts[0].stacks else None
    if stack is None or stack.config_key is None:
        return ""
    for one in changed_layers("roles", plan, inputs, limits, work, key=stack.config_key):
        return (
            f"layer {one.layer} of the variant would be {one.name} {one.now!r}, but it comes from layer {one.source} of "
            f"{one.model}, which is {one.before[0]!r}; choose slices that keep such layers in their places, or write the "
            f"list {one.name} into that model's config.json"
        )
    return ""


@dataclass(frozen=True)
class ChangedLayer:
    """A layer of a variant that would have a value which none of the layers has that it comes from.

    Attributes:
        name: of the value.
        layer: number of the layer.
        now: the value that it would have.
        model: the first model that it comes from, as the recipe writes it.
        source: number of the layer there.
        before: the values of the layers that it comes from; those of models that do not have it are left out.
    """

    name: str
    layer: int
    now: Any
    model: str
    source: int
    before: Sequence[Any]


def changed_layers(
    verb: str, plan: Plan, inputs: Sequence[PlanInput], limits: Limits, work: Work, **more: Any
) -> Iterator[ChangedLayer]:
    """What a verb of the model worker says otherwise of a variant's layers than of those that they come from, name by name.

    Args:
        verb: gives values by name, one for each layer.
        plan: of the variant.
        inputs: what it was planned from.
        limits: of the worker.
        work: asked several times a second.
        more: for the verb, besides a config and its number of layers.
    """
    sources = {source.model for span in plan.layers for source in span.sources}
    had = {
        model: _per_layer(verb, checkpoint.config, checkpoint.layer_count, limits, work, more)
        for model in sources
        for checkpoint in [inputs[model].checkpoint]
    }
    for name, after in _per_layer(verb, plan.config, plan.layer_count, limits, work, more).items():
        for span in plan.layers:
            for offset in range(span.end - span.start):
                places = [(source.model, source.start + offset) for source in span.sources]
                before = [had[model][name][layer] for model, layer in places if name in had[model]]
                now, (model, source) = after[span.start + offset], places[0]
                if before and now not in before:
                    yield ChangedLayer(name, span.start + offset, now, str(inputs[model].reference), source, before)


def _per_layer(
    verb: str, config: Mapping[str, Any], count: int, limits: Limits, work: Work, more: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """What a verb says of each layer that a config describes; nothing if that cannot be loaded."""
    arguments = {"config": _text(config), "count": count, **more}
    try:
        said = ask(LOADING, verb, arguments, limits, limit="load", work=work)
    except ModelWorkerError:
        return {}
    return {str(name): list(each) for name, each in said.items() if len(each) == count}


def _text(config: Any) -> str:
    """A config, or a value of it, as JSON; unlike the values themselves, NaN then equals NaN."""
    return json.dumps(config, sort_keys=True)
