"""Resolved parameter values of one expression: scopes, filters and gradients come together here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from merge_assets.errors import did_you_mean
from merge_assets.methods import Method, Parameter, methods
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import Module, Recipe, lookup
from merge_assets.recipe.parameters import Conditional, ParameterValue
from merge_assets.reference import ModelReference

Scope = Mapping[str, Any]
Value = float | bool | str


def resolve_parameters(
    wanted: Iterable[Parameter], scopes: Sequence[Scope], tensor: str, t: float, *, recipe: Recipe, model: str = ""
) -> dict[str, Value]:
    """Values of ``wanted`` for one tensor.

    Args:
        wanted: declared parameters.
        scopes: ``parameters`` mappings, nearest first.
        tensor: name that filters match: the input's for per-model parameters, the output's for others.
        t: position in the gradient, 0 to 1.
        recipe: for errors.
        model: model reference for errors, empty for whole-method parameters.

    Raises:
        PlanError: if a required value is nowhere, is of the wrong kind, or is out of range.
    """
    values: dict[str, Value] = {}
    for parameter in wanted:
        value = lookup(parameter.name, tensor, t, scopes)
        if value is None:
            value = parameter.default
        whose = f" for model {model}" if model else ""
        if value is None:
            if parameter.required:
                raise plan_error(
                    recipe,
                    f"parameters.{parameter.name}",
                    f"missing{whose}, tensor {tensor}; give it a value without a filter or with one that matches",
                )
            continue
        values[parameter.name] = _checked(
            parameter, value, f"parameters.{parameter.name}", f"{whose}, tensor {tensor}", recipe
        )
    return values


def check_weights(
    method: Method, inputs: Iterable[Mapping[str, Value]], whole: Mapping[str, Value], tensor: str, *, recipe: Recipe
) -> None:
    """Refuse weights that sum to zero where the method divides by their sum.

    Args:
        method: of the tensor.
        inputs: resolved parameters of each input.
        whole: resolved parameters of the whole method.
        tensor: name of the output tensor.
        recipe: for errors.

    Raises:
        PlanError: if they do.
    """
    if not method.divides or not whole[method.divides]:
        return
    weights = [float(values["weight"]) for values in inputs if "weight" in values]
    if sum(weights) == 0:
        raise plan_error(
            recipe,
            "parameters.weight",
            f"tensor {tensor}: the weights {weights} sum to 0, so they cannot be normalised; "
            f"change them or set `{method.divides}: false`",
        )


def _checked(parameter: Parameter, value: Any, key: str, whose: str, recipe: Recipe) -> Value:
    if isinstance(value, str):
        if value in parameter.words:
            return value
        raise plan_error(recipe, key, f"{value!r} is not {_kinds(parameter)}{whose}")
    if parameter.boolean:
        if value not in (True, False):
            raise plan_error(recipe, key, f"{value!r} is not {_kinds(parameter)}{whose}")
        return bool(value)
    number = float(value)
    low, high = parameter.at_least, parameter.at_most
    if (low is not None and number < low) or (high is not None and number > high):
        span = f"{low:g} or more" if high is None else f"between {low or 0:g} and {high:g}"
        raise plan_error(recipe, key, f"{value!r} must be {span}{whose}")
    return number


def _kinds(parameter: Parameter) -> str:
    return " or ".join(("true or false" if parameter.boolean else "a number", *map(repr, parameter.words)))


def check_names(recipe: Recipe, method: Method) -> list[str]:
    """Check every parameter name in a recipe against its method.

    Returns:
        Warnings for names of other methods, which have no effect here.

    Raises:
        PlanError: for a name that no method has.
    """
    known = {p.name for p in method.parameters}
    warnings = []
    for where, scope, _ in _scopes(recipe, method):
        for name in scope:
            if name in known:
                continue
            key = f"{where}.{name}"
            anywhere = {p.name for m in methods().values() for p in m.parameters}
            if name not in anywhere:
                near = did_you_mean(name, known or anywhere)
                listing = ", ".join(sorted(known)) or "none"
                raise plan_error(recipe, key, f"unknown parameter{near}; method {method.name} has: {listing}")
            warnings.append(f"{key} has no effect: method {method.name} has no such parameter")
    return warnings


def check_values(recipe: Recipe, method: Method) -> None:
    """Check every value in a recipe that some tensor may get, before it is known which do.

    Raises:
        PlanError: for a value of the wrong kind or out of range, or a parameter that the method needs and that is
            nowhere in the recipe.
    """
    given: set[str] = set()
    for where, scope, is_base in _scopes(recipe, method):
        given |= scope.keys()
        for parameter in method.parameters:
            # The base has no parameters of its own; what is written beside it is never read.
            if parameter.name in scope and not (is_base and parameter.per_model):
                for value in _values(scope[parameter.name]):
                    _checked(parameter, value, f"{where}.{parameter.name}", "", recipe)
    for parameter in method.parameters:
        if parameter.required and parameter.default is None and parameter.name not in given:
            raise plan_error(
                recipe, f"parameters.{parameter.name}", f"missing; method {method.name} needs it, give it a value"
            )


def _values(setting: ParameterValue) -> Iterator[Value]:
    """Every value that a setting can give, and the ends of those that it runs between."""
    if not isinstance(setting, tuple):
        yield setting
        return
    for item in setting:
        yield from _values(item.value) if isinstance(item, Conditional) else (item,)


def _scopes(recipe: Recipe, method: Method) -> Iterator[tuple[str, Scope, bool]]:
    """Key path and content of every ``parameters``, and whether they are those of the base model."""
    base = recipe.base_model if method.has_base else None
    yield "parameters", recipe.parameters, False
    yield from _scopes_in("", recipe, base)
    for name, module in (recipe.modules or {}).items():
        yield f"modules.{name}.parameters", module.parameters, False
        yield from _scopes_in(f"modules.{name}.", module, base)


def _scopes_in(prefix: str, body: Recipe | Module, base: ModelReference | None) -> Iterator[tuple[str, Scope, bool]]:
    for number, entry in enumerate(body.models or ()):
        yield f"{prefix}models[{number}].parameters", entry.parameters, entry.model == base
    for number, piece in enumerate(body.slices or ()):
        yield f"{prefix}slices[{number}].parameters", piece.parameters, False
        own = piece.base_model or base
        for place, source in enumerate(piece.sources):
            where = f"{prefix}slices[{number}].sources[{place}].parameters"
            yield where, source.parameters, source.model == own
