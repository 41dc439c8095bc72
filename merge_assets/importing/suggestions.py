"""A page that says how a model was made, but shows no config: the recipe that it describes, as far as its words go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from merge_assets.importing.labels import names
from merge_assets.importing.layer_facts import LayerFact, What, layer_facts
from merge_assets.recipe.schema_templates import DepthUpscale
from merge_assets.recipe.templates import expand_depth_upscale
from merge_assets.reference import ModelReference

_LONGEST = 200_000
"""Characters that are looked at."""
_HUB_ID = re.compile(r"(?<![\w/.:@-])([A-Za-z0-9][\w.-]{1,60}/[A-Za-z][\w.-]{2,90}\w)(?![\w/]|\.\w)")
_NO_MODEL = re.compile(r"^(?:datasets|spaces|blob|tree|papers|and|or|http|www)/|\.(?:md|ya?ml|json|png|py)$", re.I)
_UPSCALED = re.compile(r"\bi?DUS\b|depth[ -]up[ -]?scal|interlock", re.I)
_INTERLOCKED = re.compile(r"\biDUS\b|interlock", re.I)
_PRUNED = re.compile(r"\b(?:SNR|signal[ -]to[ -]noise|laser(?:RMT)?)\b", re.I)
_REMOVED = re.compile(r"\b(?:remov|prun|dropp|delet|cut)", re.I)
_BLOCK = re.compile(
    r"(?:blocks? of|i?DUS[-_ ]?|interlock\w{0,8}\D{0,20})\s*(\d{1,2})(?!\d)|(\d{1,2})[- ]?layers? (?:blocks?|interlock)",
    re.I,
)
_OVERLAP = re.compile(r"\boverlap\w{0,5}\D{0,12}(\d{1,3})\b|\bm\s*=\s*(\d{1,3})\b", re.I)
_FEWEST = 12
"""Layers of a whole model; blocks have fewer."""
_LAYERS = re.compile(r"\b(\d{1,3})[ -]?layers?\b", re.I)
_ARROW = re.compile(r"\b(\d{1,3})(?: layers?)?\s*(?:→|->|=>|to|of)\s*(?:the )?(\d{1,3})(?: layers?)?\b")
_TENSOR = re.compile(r"\b((?:self_attn|mlp|attention)\.\w+)")
_COUNT = re.compile(
    r"\b(?:remov|prun|dropp)\w{0,8}\D{0,30}?(\d{1,3})\s+layers|\b(\d{1,3})\s+layers\D{0,20}(?:remov|prun|dropp)", re.I
)
_INFINITE = re.compile(r"\binf(?:init\w{0,8})?\b|∞", re.I)


@dataclass(frozen=True)
class Suggestion:
    """What a page seems to describe.

    Attributes:
        why: what of the page says so, in words.
        recipe: YAML of a recipe; empty where an import by name is better.
        command: what to run instead; empty where there is a recipe.
        open: what the page does not say, in words.
    """

    why: str
    recipe: str = ""
    command: str = ""
    open: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.command:
            return f"{self.why}: {self.command}"
        left = f"; not said there, and assumed: {', '.join(self.open)}" if self.open else ""
        return f"{self.why}, as this recipe does{left}:\n\n{self.recipe}"


def suggestion(text: str, name: str) -> Suggestion | None:
    """What a text without a config describes; ``None`` if it describes nothing that is known.

    Args:
        text: a page, or a model card.
        name: of its repository or file.
    """
    text = text[:_LONGEST]
    models = [found[1] for found in _HUB_ID.finditer(text) if not _NO_MODEL.search(found[1])]
    own = next((model for model in models if names(name, model.rpartition("/")[2])), None)
    others = [model for model in models if model != own]
    facts = [fact for fact in layer_facts(text, {name}) if not fact.model]
    if _UPSCALED.search(text):
        return _upscaled(text, name, others, facts)
    if _fact(facts, "removed") or (_PRUNED.search(text) and _REMOVED.search(text)):
        return _pruned(text, name, others, facts)
    if stacked := _fact(facts, "in order") or _fact(facts, "kept"):
        return _stacked(name, others, stacked)
    if own is not None and re.search(r"\b(?:merge\w*|slerp|ties|dare|layer_range)\b", text, re.I):
        return Suggestion(
            "the page shows no config, but names the repository, which may have one",
            command=f"merge-assets import {own}",
        )
    return None


def _fact(facts: Sequence[LayerFact], what: What) -> LayerFact | None:
    return next((fact for fact in facts if fact.what == what), None)


def _upscaled(text: str, name: str, models: list[str], facts: Sequence[LayerFact]) -> Suggestion:
    missing: list[str] = []
    if (order := _fact(facts, "in order")) is not None:
        settings = _settings_of(order.layers)
        if settings is None:
            return _stacked(name, models, order)
        body = f"depth_upscale: {{model: {_model(models, missing)}, {settings}}}"
        why = f"the page describes depth up-scaling, and {order.at} has its layers"
        return Suggestion(why, _recipe(name, body), open=tuple(missing))
    repeated = _fact(facts, "repeated")
    overlap = _number(_OVERLAP, text) or (repeated.runs[0][0] if repeated and len(repeated.runs) == 1 else None)
    counts = [int(number) for found in _ARROW.finditer(text) for number in found.groups()]
    counts = counts or [number for found in _LAYERS.finditer(text) if (number := int(found[1])) >= _FEWEST]
    before, after = (min(counts), max(counts)) if counts else (0, 0)
    if overlap is None and before < after < 2 * before and (2 * before - after) % 2 == 0:
        overlap = (2 * before - after) // 2
    if overlap is None:
        overlap = 8
        missing.append("overlap: 8")
    block = ""
    if _INTERLOCKED.search(text):
        found = _number(_BLOCK, text)
        missing += [] if found else ["block: 1"]
        block = f", block: {found or 1}"
    model = _model(models, missing)
    body = f"depth_upscale: {{model: {model}, overlap: {overlap}{block}}}"
    return Suggestion("the page describes depth up-scaling", _recipe(name, body), open=tuple(missing))


def _settings_of(order: tuple[int, ...]) -> str | None:
    """The overlap, and the block if there is one, with which depth up-scaling gives layers in this order."""
    layers, model = max(order) + 1, ModelReference("org/name")
    overlap = layers - len(order) // 2
    if len(order) % 2 or not 0 <= overlap < layers:
        return None
    for block in (None, *range(1, layers - overlap)):
        template = DepthUpscale(model=model, overlap=overlap, block=block)
        ranges = [piece.sources[0].layer_range or (0, 0) for piece in expand_depth_upscale(template, layers)]
        if tuple(layer for start, end in ranges for layer in range(start, end)) == order:
            return f"overlap: {overlap}" + (f", block: {block}" if block else "")
    return None


def _stacked(name: str, models: list[str], fact: LayerFact) -> Suggestion:
    """Layers in an order that no template gives, as slices."""
    missing: list[str] = []
    model = _model(models, missing)
    slices = "\n".join(
        f"  - sources: [{{model: {model}, layer_range: [{first}, {last + 1}]}}]" for first, last in fact.runs
    )
    return Suggestion(f"{fact.at} has layers {fact.what}", _recipe(name, f"slices:\n{slices}"), open=tuple(missing))


def _pruned(text: str, name: str, models: list[str], facts: Sequence[LayerFact]) -> Suggestion:
    missing: list[str] = []
    if (removed := _fact(facts, "removed")) is not None:
        layers = ", ".join(map(str, sorted(removed.layers)))
        body = f"prune_layers: {{model: {_model(models, missing)}, by: list, remove: [{layers}]}}"
        return Suggestion(f"{removed.at} has layers removed", _recipe(name, body), open=tuple(missing))
    tensor = _TENSOR.search(text)
    if tensor is None:
        missing.append("tensor: self_attn.v_proj")
    count = _number(_COUNT, text)
    remove = "infinite" if _INFINITE.search(text) else str(count) if count else ""
    if not remove:
        remove = "infinite"
        missing.append("remove: infinite")
    chosen = tensor[1] if tensor else "self_attn.v_proj"
    body = f"prune_layers: {{model: {_model(models, missing)}, by: snr, tensor: {chosen}, remove: {remove}}}"
    infinite = _fact(facts, "of infinite SNR")
    note = f"# To be compared with the layers that the plan removes: {infinite}.\n" if infinite else ""
    return Suggestion("the page describes layers removed by their SNR", note + _recipe(name, body), open=tuple(missing))


def _model(models: list[str], missing: list[str]) -> str:
    if not models:
        missing.append("the model")
    return models[0] if models else "ORG/NAME"


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    number = next((int(group) for group in found.groups() if group), 0) if found else 0
    return number or None


def _recipe(name: str, body: str) -> str:
    return f"name: {name}\n{body}\nmerge_method: passthrough\ndtype: bfloat16\n"
