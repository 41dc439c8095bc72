"""Print whether a model that was built is the one that others published, for people and as JSON."""

from __future__ import annotations

import math
import sys

from rich.markup import escape

from merge_assets.api.likeness import Likeness, TensorLikeness, likeness
from merge_assets.cli.console import console, print_fact, print_json, print_table, progress_bar, table
from merge_assets.cli.selection import model_meant
from merge_assets.workspace import Workspace

_NUMBERS = ("relative", "largest", "cosine", "unequal")
_SHOWN = 10
"""Tensors that are listed; the JSON has all."""


def run_compare(built: str, reference: str, *, every_byte: bool, as_json: bool) -> None:
    """Compare, print, and leave with 1 if it is another model."""
    workspace = Workspace.open()
    models = (model_meant(workspace, word) for word in (built, reference))
    with progress_bar("comparing") as work:
        found = likeness(workspace, *models, every_byte=every_byte, work=work)
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found)
    if not found.is_same:
        sys.exit(1)


def _print(found: Likeness) -> None:
    alike = sum(one.alike for one in found.tensors)
    rounded = sum(one.within_rounding for one in found.tensors) - alike
    apart = sorted((one for one in found.tensors if not one.within_rounding), key=_far, reverse=True)
    what = "samples" if found.sampled else "all bytes"
    print_fact(
        "tensors",
        f"{len(found.tensors)} of one role and shape: {alike} equal, {rounded} equal up to rounding, {len(apart)} different "
        f"({what} of each compared)",
    )
    for decision in found.decisions:
        print_fact(decision.what, f"{decision.count}: {decision.example} {decision.why}")
    for name, only in (("only built", found.only_built), ("only reference", found.only_reference)):
        if only:
            print_fact(name, f"{len(only)}: {', '.join(only[:_SHOWN])}{', …' * (len(only) > _SHOWN)}")
    for name, (own, other) in list(found.shapes.items())[:_SHOWN]:
        print_fact("shape", f"{name}: {list(own)} and {list(other)}")
    if apart:
        rows = table("tensor", "relative", "largest", "cosine", "unequal", title="Furthest apart", numbers=_NUMBERS)
        for one in apart[:_SHOWN]:
            rows.add_row(escape(one.name), *_figures(one))
        print_table(rows)
        layers = table("layer", "relative", "largest", "cosine", title="Layers", numbers=_NUMBERS)
        for layer, all_of in sorted(found.layers().items(), key=lambda item: -1 if item[0] is None else item[0]):
            name = "outside" if layer is None else str(layer)
            layers.add_row(name, f"{all_of.relative:.2e}", f"{all_of.largest:.2e}", f"{all_of.cosine:.6f}")
        print_table(layers)
    for key, (mine, theirs) in found.config.items():
        print_fact("config", f"{key}: {mine!r} and {theirs!r}")
    for sentence in found.tokenizer:
        print_fact("tokenizer", sentence)
    console().print(_verdict(found))


def _verdict(found: Likeness) -> str:
    if found.is_same and all(one.alike for one in found.tensors):
        return "[green]the same model[/]" + (
            ", as far as samples tell (--all compares every byte)" if found.sampled else ""
        )
    if found.is_same:
        return "[green]the same model up to rounding[/]"
    if found.same_weights:
        return "[red]the same tensors with another config[/]"
    return "[red]another model[/]"


def _far(one: TensorLikeness) -> float:
    return float("inf") if one.distance is None else one.distance.relative


def _figures(one: TensorLikeness) -> tuple[str, str, str, str]:
    if one.distance is None:
        return "other bytes", "", "", ""
    apart = one.distance
    return f"{apart.relative:.2e}", f"{apart.largest:.2e}", f"{apart.cosine:.6f}", f"{apart.unequal / apart.count:.1%}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _as_json(found: Likeness) -> dict[str, object]:
    return {
        "same": found.is_same,
        "sampled": found.sampled,
        "tensors": [
            {
                "name": one.name,
                "layer": one.layer,
                "dtypes": one.dtypes,
                "equal": one.alike,
                "within_rounding": one.within_rounding,
                "relative": one.distance and _finite(one.distance.relative),
                "largest": one.distance and _finite(one.distance.largest),
                "cosine": one.distance and _finite(one.distance.cosine),
            }
            for one in found.tensors
        ],
        **{what: sum(one.count for one in found.decisions if one.what == what) for what in ("renamed", "regrouped")},
        "only_built": found.only_built,
        "only_reference": found.only_reference,
        "shapes": found.shapes,
        "config": found.config,
        "tokenizer": found.tokenizer,
    }
