"""Validation errors of the schema as messages that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from merge_assets.errors import RecipeError, did_you_mean
from merge_assets.recipe.parameters import shown
from merge_assets.yamlfile import Document, Path_, is_free, spell

MAX_SHOWN = 5
HIDDEN_KEYS = frozenset({"source", "swept", "found"})
"""Fields of the top level that are not keys of the file."""

_EXPERTS = ("experts", "gate_mode", "shared_experts", "router_aux_loss_coef")
"""Keys of mergekit-moe, which makes a mixture of experts out of models."""
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def problem_path(problem: Mapping[str, Any]) -> Path_:
    """Key path of one entry of ``ValidationError.errors()``."""
    loc = tuple(part for part in problem["loc"] if part != "[key]")
    cause = problem.get("ctx", {}).get("error")
    return loc + getattr(cause, "path", ())


def problem_text(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    """What is wrong, for one entry of ``ValidationError.errors()`` of ``model``."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(problem["loc"], model)
    if kind == "missing":
        return "is missing; the key is required"
    if kind in _TYPES:
        return f"{shown(problem['input'])} is not {_TYPES[kind]}{_quote_hint(kind, problem['input'])}"
    if kind == "literal_error":
        return f"{shown(problem['input'])} is not one of {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    message = str(problem["msg"])
    return f"{shown(problem['input'])}: {message[:1].lower()}{message[1:]}"


def explain(
    error: ValidationError, model: type[BaseModel], document: Document, file: Path, ending: str = ""
) -> RecipeError:
    """One error for everything that pydantic found in ``document``, at most five problems shown; ``ending`` comes last."""
    problems = error.errors(include_url=False)
    found = [(problem_path(problem), problem_text(problem, model)) for problem in problems[:MAX_SHOWN]]
    if len(problems) == 1:
        path, text = found[0]
        return RecipeError(f"{text}{ending}", file=f"{file}:{document.line_of(path)}", key=spell(path) or None)
    shown = [f"\n  line {document.line_of(path)}: {spell(path) or 'recipe'}: {text}" for path, text in found]
    rest = f"\n  and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    return RecipeError(f"{len(problems)} problems:{''.join(shown)}{rest}{ending}", file=file)


def _unknown_key(loc: Path_, model: type[BaseModel]) -> str:
    key = str(loc[-1])
    owner = _owner(model, loc[:-1])
    top = len(loc) == 1
    if top and key in _EXPERTS:
        return (
            "is a key of mergekit-moe, which builds a mixture of experts out of whole models; only merges are made here"
        )
    known = [name for name in owner.model_fields if not (top and name in HIDDEN_KEYS)]
    close = did_you_mean(key, known)
    listing = "" if close else f"; known keys: {', '.join(known)}"
    anchors = "; keys that only hold anchors start with x-" if top and not close and not is_free(key) else ""
    return f"unknown key{close}{listing}{anchors}"


def _owner(model: type[BaseModel], loc: Path_) -> type[BaseModel]:
    """The model class that the mapping at ``loc`` is read with."""
    current, in_dict = model, False
    for part in loc:
        if in_dict:
            in_dict = False
        elif isinstance(part, str) and part in current.model_fields:
            annotation = current.model_fields[part].annotation
            in_dict = any(get_origin(side) is dict for side in (annotation, *get_args(annotation)))
            current = _first_model(annotation) or current
    return current


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if found := _first_model(inner):
            return found
    return None


def _quote_hint(kind: str, value: Any) -> str:
    return "; write it in quotes" if kind == "string_type" and isinstance(value, (int, float)) else ""
