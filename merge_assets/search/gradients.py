"""Lists of values over the layers, of which a search changes entries or tries several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.recipe.places import parse_path
from merge_assets.recipe.schema_search import Choices, Dimension
from merge_assets.yamlfile import spell


@dataclass(frozen=True)
class Gradient:
    """A list of numbers of a recipe, the first for the first layer and the last for the last.

    Attributes:
        path: key path of the list.
        entries: for each entry the place of the space that it is, or the number that the recipe has there; ``None`` where the
            list is itself a place of the space.
    """

    path: str
    entries: tuple[str | float, ...] | None

    def of(self, values: Mapping[str, Any]) -> list[float] | None:
        """The list with the values of a trial; ``None`` where that has none, or a single number for all layers."""
        if self.entries is None:
            found = values.get(self.path)
            made = list(found) if isinstance(found, list | tuple) else []
        else:
            made = [values.get(one) if isinstance(one, str) else one for one in self.entries]
        return [float(one) for one in made] if len(made) > 1 and all(_is_number(one) for one in made) else None


def gradients_of(space: Mapping[str, Dimension], content: Any) -> list[Gradient]:
    """The gradients that a space changes.

    Args:
        space: key path: what is tried there.
        content: the recipe as plain data, which has the entries that are not of the space.
    """
    found: dict[str, Gradient] = {}
    for path, dimension in space.items():
        parts = parse_path(path)
        if isinstance(dimension, Choices):
            if any(_is_gradient(one) for one in dimension.choices):
                found[path] = Gradient(path, None)
            continue
        if isinstance(parts[-1], int):
            before = parts[:-1]
            there = _at(content, before)
            if _is_gradient(there):
                spelled = [spell((*before, index)) for index in range(len(there))]
                entries = tuple(one if one in space else float(there[index]) for index, one in enumerate(spelled))
                found[spell(before)] = Gradient(spell(before), entries)
    return list(found.values())


def _at(content: Any, path: Sequence[str | int]) -> Any:
    """What stands at a path; ``None`` where it leads nowhere."""
    for part in path:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def _is_gradient(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1 and all(_is_number(one) for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
