"""The templates ``depth_upscale`` and ``prune_layers``, expanded to passthrough slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_assets.errors import RecipeError
from merge_assets.recipe.schema import Slice, Source
from merge_assets.recipe.schema_templates import DepthUpscale, Lowest, PruneLayers
from merge_assets.reference import ModelReference

Fail = Callable[[str], RecipeError]


@dataclass(frozen=True)
class LayerFigure:
    """What an analysis says about one layer.

    Attributes:
        layer: index, from 0.
        value: the metric; an SNR may be infinite.
        infinite: whether the SNR is infinite.
        margin: smallest singular value over the noise threshold; above 1 exactly for infinite SNR.
        tensor: name of the tensor measured; empty for metrics that are not of a tensor.
    """

    layer: int
    value: float
    infinite: bool
    margin: float
    tensor: str


def expand_depth_upscale(template: DepthUpscale, layer_count: int, file: Path | None = None) -> tuple[Slice, ...]:
    """Slices of a depth up-scaled model, adjacent ranges merged.

    For L layers and overlap m, copy A is layers 0 to L-m-1 and copy B is m to L-1. Without ``block``, A then B; with
    block b, the first b layers of A, the first b of B, the next b of A, and so on; a last shorter block is taken
    as it is. The result has 2(L-m) layers.

    Args:
        template: the recipe's ``depth_upscale``.
        layer_count: layers of ``template.model``.
        file: named in errors.

    Raises:
        RecipeError: if the overlap leaves no layer.
    """
    kept = layer_count - template.overlap
    if kept < 1:
        raise RecipeError(
            f"an overlap of {template.overlap} leaves nothing of the {layer_count} layers of {template.model}; "
            f"it must be below {layer_count}",
            file=file,
            key="depth_upscale.overlap",
        )
    block = template.block or kept
    order: list[int] = []
    for start in range(0, kept, block):
        run = range(start, min(start + block, kept))
        order += run
        order += (layer + template.overlap for layer in run)
    return _slices(template.model, order)


def select_layers(
    template: PruneLayers, layers: Sequence[LayerFigure], layer_count: int | None = None, file: Path | None = None
) -> tuple[int, ...]:
    """The layers that ``prune_layers`` removes.

    ``remove: infinite`` takes the layers of infinite SNR, the largest margin first, ``at_most`` so many. A number n
    takes the n layers that the metric calls least needed: by ``snr`` the infinite ones, largest margin first, then the
    highest values; by ``margin`` the highest; by ``block_influence`` and ``perplexity`` the lowest; by ``angular_distance``
    the n consecutive layers from the lowest value on; by ``reverse_order`` the last ones. ``{lowest: n}`` takes the n
    lowest values of any metric. Equal figures are decided for the later layer. Protected layers are never taken.

    Args:
        template: the recipe's ``prune_layers``.
        layers: at most one figure per layer; not needed for ``by: list`` and ``by: reverse_order``.
        layer_count: layers of ``template.model``; left out: as far as ``layers`` goes.
        file: named in errors.

    Returns:
        Layer numbers, ascending.

    Raises:
        RecipeError: if there are too few layers to choose from, none of infinite SNR, one that is protected or
            does not exist, or none would be left.
    """

    def fail(message: str, key: str = "remove") -> RecipeError:
        return RecipeError(message, file=file, key=f"prune_layers.{key}")

    count = layer_count if layer_count is not None else max((figure.layer for figure in layers), default=-1) + 1
    free = range(template.protect.first, count - template.protect.last)
    if isinstance(template.remove, tuple):
        removed = sorted(template.remove)
        for layer in removed:
            if layer >= count:
                raise fail(f"layer {layer} does not exist; {template.model} has the layers 0 to {count - 1}")
            if layer not in free:
                raise fail(f"layer {layer} is protected by prune_layers.protect")
    elif template.by == "reverse_order":
        removed = _take(list(reversed(free)), _number(template.remove), fail_with=fail)
    else:
        candidates = _candidates(layers, free)
        if any(math.isnan(figure.value) for figure in candidates):
            raise fail("the analysis has a layer without a value (NaN)", "by")
        if template.remove == "infinite":
            removed = _infinite(template, candidates, fail_with=fail)
        elif template.by == "angular_distance" and isinstance(template.remove, int):
            removed = _consecutive(candidates, template.remove, fail_with=fail)
        else:
            ranked = [figure.layer for figure in _ranked(template, candidates)]
            removed = _take(ranked, _number(template.remove), fail_with=fail)
    if len(removed) >= count:
        raise fail(f"would remove all {count} layers of {template.model}")
    return tuple(sorted(removed))


def expand_prune_layers(template: PruneLayers, layer_count: int, removed: Iterable[int]) -> tuple[Slice, ...]:
    """Slices of a model of ``layer_count`` layers without the layers ``removed``."""
    gone = set(removed)
    return _slices(template.model, [layer for layer in range(layer_count) if layer not in gone])


def _number(remove: object) -> int:
    return remove.lowest if isinstance(remove, Lowest) else int(str(remove))


def _candidates(layers: Sequence[LayerFigure], free: range) -> list[LayerFigure]:
    by_layer = {figure.layer: figure for figure in layers}
    if len(by_layer) != len(layers):
        raise ValueError("more than one figure for a layer")
    return [by_layer[layer] for layer in sorted(by_layer) if layer in free]


def _take(ranked: list[int], number: int, fail_with: Fail) -> list[int]:
    if number > len(ranked):
        raise fail_with(f"asks for {number} layers, but only {len(ranked)} are measured and not protected")
    return ranked[:number]


def _infinite(template: PruneLayers, candidates: list[LayerFigure], fail_with: Fail) -> list[int]:
    found = [figure for figure in candidates if figure.infinite]
    if not found:
        near = max(candidates, key=lambda figure: figure.margin, default=None)
        closest = f"; the largest margin is {near.margin:.4g}, of layer {near.layer}" if near else ""
        raise fail_with(
            f"no layer of {template.model} that is not protected has an infinite SNR in {template.tensor}{closest}; "
            "write a number of layers instead"
        )
    found.sort(key=lambda figure: (-figure.margin, -figure.layer))
    return [figure.layer for figure in found[: template.at_most]]


def _ranked(template: PruneLayers, candidates: list[LayerFigure]) -> list[LayerFigure]:
    """The candidates, least needed first (a number of layers) or lowest first (``{lowest: n}``)."""
    if isinstance(template.remove, Lowest) or template.by in ("block_influence", "perplexity"):
        if template.by == "margin":
            return sorted(candidates, key=lambda figure: (figure.margin, -figure.layer))
        return sorted(candidates, key=lambda figure: (figure.infinite, figure.value, figure.margin, -figure.layer))
    if template.by == "margin":
        return sorted(candidates, key=lambda figure: (-figure.margin, -figure.layer))
    return sorted(
        candidates,
        key=lambda figure: (not figure.infinite, -figure.margin if figure.infinite else -figure.value, -figure.layer),
    )


def _consecutive(candidates: list[LayerFigure], number: int, fail_with: Fail) -> list[int]:
    """``number`` layers in a row from the start with the lowest value, all of them candidates."""
    present = {figure.layer for figure in candidates}
    starts = [figure for figure in candidates if all(figure.layer + step in present for step in range(number))]
    if not starts:
        raise fail_with(f"asks for {number} layers in a row, but protection leaves no such run")
    best = min(starts, key=lambda figure: (figure.value, -figure.layer)).layer
    return list(range(best, best + number))


def _slices(model: ModelReference, order: Iterable[int]) -> tuple[Slice, ...]:
    """One slice per run of consecutive layers of ``order``."""
    runs: list[tuple[int, int]] = []
    for layer in order:
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return tuple(Slice(sources=(Source(model=model, layer_range=run),)) for run in runs)
