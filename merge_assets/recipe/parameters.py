"""Parameter settings: what a recipe may write for a value, and the value that one tensor gets.

A setting is a number, ``true``/``false``, a word (which words a parameter knows is the method's business), a gradient (a
list of numbers along the depth), or a list of ``{value, filter}``, of which the first whose filter is a part of the
tensor's name counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

Scalar = bool | int | float | str
Gradient = tuple[int | float, ...]

_WORD = re.compile(r"[A-Za-z][A-Za-z_-]*")


class Misfit(ValueError):
    """A value of the wrong shape inside a field; ``path`` leads from the field to it."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


def shown(raw: Any) -> str:
    """A value as it is written in messages."""
    if raw is None:
        return "an empty value"
    text = repr(raw)
    return text if len(text) <= 60 else text[:57] + "..."


class Conditional(BaseModel):
    """One ``{value, filter}`` entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Scalar | Gradient = Field(description="a number, `true`/`false`, a word or a gradient")
    filter: str | None = Field(
        default=None,
        description="part of the tensor's name, case-sensitive; left out or `*` matches every tensor",
    )


ParameterValue = Scalar | Gradient | tuple[Conditional, ...]


def _read_number(raw: Any, path: tuple[str | int, ...]) -> int | float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        hint = " (without quotes)" if isinstance(raw, str) else ""
        raise Misfit(f"{shown(raw)} is not a number{hint}", path)
    if not math.isfinite(raw):
        raise Misfit(f"{raw} is not a finite number", path)
    return raw


def _read_plain(raw: Any, path: tuple[str | int, ...]) -> Scalar | Gradient:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, (list, tuple)):
        if not raw:
            raise Misfit("the list is empty; write at least one number", path)
        return tuple(_read_number(item, (*path, index)) for index, item in enumerate(raw))
    if isinstance(raw, (int, float)):
        return _read_number(raw, path)
    if isinstance(raw, str) and _WORD.fullmatch(raw):
        return raw
    hint = " (without quotes)" if isinstance(raw, str) else ""
    raise Misfit(f"{shown(raw)} is not a number{hint}, true/false, a word, or a list of numbers", path)


def _read_conditional(raw: Mapping[str, Any], path: tuple[str | int, ...]) -> Conditional:
    for key in raw:
        if key not in Conditional.model_fields:
            raise Misfit(f"unknown key {shown(key)}; an entry has the keys value and filter", path)
    if "value" not in raw:
        raise Misfit("the entry has no value", path)
    text = raw.get("filter")
    if text is not None and not isinstance(text, str):
        raise Misfit(f"{shown(text)} is not text; a filter is a part of a tensor's name", (*path, "filter"))
    return Conditional(value=_read_plain(raw["value"], (*path, "value")), filter=text)


def read_setting(raw: Any) -> ParameterValue:
    """Check one setting as YAML gives it and bring it into its canonical form.

    A single ``{value, filter}`` becomes a tuple of one :class:`Conditional`; lists become tuples.

    Raises:
        Misfit: if it is of none of the forms; its ``path`` leads to the part that is wrong.
    """
    if isinstance(raw, Conditional):
        return (raw,)
    if isinstance(raw, Mapping):
        return (_read_conditional(raw, ()),)
    if isinstance(raw, (list, tuple)) and any(isinstance(item, (Mapping, Conditional)) for item in raw):
        entries: list[Conditional] = []
        for index, item in enumerate(raw):
            if isinstance(item, Conditional):
                entries.append(item)
            elif isinstance(item, Mapping):
                entries.append(_read_conditional(item, (index,)))
            else:
                raise Misfit("numbers and {value, filter} entries are mixed in one list", (index,))
        return tuple(entries)
    return _read_plain(raw, ())


def write_setting(setting: ParameterValue) -> Any:
    """A setting as plain data: the inverse of :func:`read_setting`."""
    if not isinstance(setting, tuple):
        return setting
    return [_write_conditional(item) if isinstance(item, Conditional) else item for item in setting]


def _write_conditional(entry: Conditional) -> dict[str, Any]:
    value = list(entry.value) if isinstance(entry.value, tuple) else entry.value
    return {"value": value} if entry.filter is None else {"filter": entry.filter, "value": value}


Parameters = dict[
    str,
    Annotated[
        ParameterValue,
        PlainValidator(read_setting),
        PlainSerializer(write_setting, return_type=Any),
        WithJsonSchema({"format": "parameter setting"}),
    ],
]


def gradient(values: Sequence[float], t: float) -> float:
    """Piecewise linear interpolation of evenly spaced ``values`` at ``t``.

    With n values: ``x = t (n-1)``, ``k = floor(x)``, ``f = x-k``, result ``(1-f) values[k] + f values[k+1]``.

    Args:
        values: one number or more; the first is reached at t = 0, the last at t = 1.
        t: position along the depth, 0 to 1.

    Raises:
        ValueError: no values, or t outside 0 to 1.
    """
    if not values:
        raise ValueError("a gradient needs at least one value")
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t = {t} is outside 0 to 1")
    last = len(values) - 1
    x = t * last
    k = math.floor(x)
    f = x - k
    return (1 - f) * values[k] + f * values[min(last, k + 1)]


def _evaluate(value: Scalar | Gradient, t: float) -> Scalar:
    return gradient(value, t) if isinstance(value, tuple) else value


def resolve(setting: ParameterValue, tensor_name: str, t: float) -> Scalar | None:
    """The value that ``setting`` gives to a tensor.

    Args:
        setting: as :func:`read_setting` returns it.
        tensor_name: full name of the input tensor (per-model parameters) or output tensor (whole-method ones).
        t: position of the tensor's layer in its slice, 0 to 1; 0 for tensors outside the layers.

    Returns:
        The value, or ``None`` if the setting has filters and none of them matches.
    """
    if isinstance(setting, tuple) and isinstance(setting[0], Conditional):
        for entry in setting:
            assert isinstance(entry, Conditional)
            if entry.filter is None or entry.filter == "*" or entry.filter in tensor_name:
                return _evaluate(entry.value, t)
        return None
    return _evaluate(setting, t)


def lookup(name: str, tensor_name: str, t: float, scopes: Sequence[Mapping[str, ParameterValue]]) -> Scalar | None:
    """The value of parameter ``name`` from the first scope that has one for this tensor.

    Args:
        name: parameter name.
        tensor_name: see :func:`resolve`.
        t: see :func:`resolve`.
        scopes: innermost first: source or model, slice, module, whole recipe.

    Returns:
        The value; ``None`` if no scope sets it for this tensor, so that the method's default applies.
    """
    for scope in scopes:
        if name in scope:
            value = resolve(scope[name], tensor_name, t)
            if value is not None:
                return value
    return None


def position(index: int, count: int) -> float:
    """Gradient position of layer ``index`` of a slice of ``count`` layers: i/(L-1), and 1 for a slice of one layer."""
    return index / (count - 1) if count > 1 else 1.0
