"""What may stand where in a recipe, read off the schema: which keys, which items, whether a plain value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from merge_assets.recipe.parameters import Conditional
from merge_assets.recipe.problems import HIDDEN_KEYS
from merge_assets.recipe.schema import Recipe
from merge_assets.reference import ModelReference


@dataclass(frozen=True, eq=False)
class Shape:
    """The forms that one value of a recipe may have; several at once where the schema leaves a choice.

    Attributes:
        keys: as a mapping: its keys and the shapes under them.
        values: as a mapping of free keys, such as ``parameters``: the shape under every key.
        item: as a list: the shape of its items.
        scalar: whether it may be a plain value.
        types: the types of the schema that it may be of; empty where the schema does not say.
    """

    keys: Mapping[str, Shape] = field(default_factory=dict)
    values: Shape | None = None
    item: Shape | None = None
    scalar: bool = False
    types: tuple[Any, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it may be a mapping or a list, which lines below it hold."""
        return bool(self.keys) or self.values is not None or self.item is not None

    def fits(self, value: object) -> bool:
        """Whether the schema takes a value here, as YAML gives it."""
        return not self._adapters or any(_is_valid(adapter, value) for adapter in self._adapters)

    @cached_property
    def _adapters(self) -> tuple[TypeAdapter[Any], ...]:
        return tuple(TypeAdapter(kind) for kind in self.types)


PLAIN = Shape(scalar=True)

_PART = Shape(keys={"path": PLAIN, "revision": PLAIN}, scalar=True)
_REFERENCE = Shape(keys={"model": _PART, "lora": _PART, "override_architecture": PLAIN}, scalar=True)


@cache
def recipe_shape() -> Shape:
    """The shape of a whole recipe."""
    shape = _of_model(Recipe)
    return Shape(keys={key: below for key, below in shape.keys.items() if key not in HIDDEN_KEYS})


@cache
def anything(levels: int = 4) -> Shape:
    """The shape of what stands under a key that only holds anchors."""
    below = anything(levels - 1) if levels else None
    return Shape(values=below, item=below, scalar=True)


@cache
def schema_keys() -> frozenset[str]:
    """Every key that the schema names anywhere."""
    return frozenset(_keys(recipe_shape()))


def _keys(shape: Shape) -> Iterator[str]:
    for key, below in shape.keys.items():
        yield key
        yield from _keys(below)
    for other in (shape.values, shape.item):
        if other is not None:
            yield from _keys(other)


def _is_valid(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def _of_model(model: type[BaseModel]) -> Shape:
    return Shape(keys={name: _of_field(info) for name, info in model.model_fields.items()})


def _of_field(info: FieldInfo) -> Shape:
    whole = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return replace(_of(info.annotation), types=(whole,))


def _of(annotation: Any) -> Shape:
    if annotation is ModelReference:
        return _REFERENCE
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _of_model(annotation)
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        # What may be written, where that is more than what it is read as.
        written = (each.json_schema_input_type for each in inside[1:] if isinstance(each, BeforeValidator))
        return _of(next((one for one in written if one is not PydanticUndefined), inside[0]))
    if origin in (Union, UnionType):
        return _either(_of(side) for side in inside if side is not NoneType)
    if origin is dict:
        return Shape(values=replace(_of(inside[1]), types=(inside[1],)))
    if origin is tuple:
        item = _either(_of(side) for side in inside if side is not Ellipsis)
        # A single {value, filter} needs no list around it.
        return _either((Shape(item=item), item)) if inside[0] is Conditional else Shape(item=item)
    return PLAIN


def _either(shapes: Iterable[Shape]) -> Shape:
    """One shape for several that may stand in the same place."""
    keys: dict[str, Shape] = {}
    values: Shape | None = None
    item: Shape | None = None
    scalar = False
    types: list[tuple[Any, ...]] = []
    for shape in shapes:
        for key, below in shape.keys.items():
            keys[key] = _either((keys[key], below)) if key in keys else below
        values = shape.values if values is None else values
        if shape.item is not None:
            item = shape.item if item is None else _either((item, shape.item))
        scalar |= shape.scalar
        types.append(shape.types)
    return Shape(keys, values, item, scalar, sum(types, ()) if all(types) else ())
