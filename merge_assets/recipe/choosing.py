"""Which recipes a person means by a few words: names, sweeps, patterns, tags, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from merge_assets.errors import RecipeError
from merge_assets.recipe.book import RecipeBook
from merge_assets.recipe.schema import Recipe

_TAG = "tag:"
_GROUP = "group:"
_PATTERN = frozenset("*?[")


def choose(book: RecipeBook, words: Sequence[str]) -> list[str]:
    """Names of recipes, each once, in the order of the words.

    Args:
        book: all recipes.
        words: each a name, which need not be one of the book; a sweep, for all its points; a pattern of names with ``*``,
            ``?`` and ``[…]``; ``tag:KEY`` or ``tag:KEY=VALUE``; ``group:NAME``. With ``+`` behind it: also every stored recipe
            that is made of these.

    Raises:
        RecipeError: for a pattern, tag or group of no recipe.
    """
    chosen: dict[str, None] = {}
    for word in words:
        plain = word.removesuffix("+")
        found = _found(book, plain)
        chosen |= dict.fromkeys(found)
        if word != plain:
            below = (other for name in found if name in book.recipes for other in book.descendants(name))
            chosen |= dict.fromkeys(other for other in below if book.recipes[other].materialize)
    return list(chosen)


def _found(book: RecipeBook, word: str) -> list[str]:
    if word in book.recipes:
        return [word]
    if word in book.sweeps:
        return [recipe.name for recipe in book.sweeps[word]]
    if word.startswith(_TAG):
        return _some(word, (one for one in book.recipes.values() if _has_tag(one, word.removeprefix(_TAG))))
    if word.startswith(_GROUP):
        return _some(word, (one for one in book.recipes.values() if one.group == word.removeprefix(_GROUP)))
    if _PATTERN & set(word):
        return _some(word, (one for one in book.recipes.values() if fnmatchcase(one.name, word)))
    return [word]


def _has_tag(recipe: Recipe, text: str) -> bool:
    key, _, value = text.partition("=")
    return key in recipe.tags and (text == key or recipe.tags[key] == value)


def _some(word: str, recipes: Iterable[Recipe]) -> list[str]:
    """The names of those that can be built."""
    if names := [recipe.name for recipe in recipes if recipe.materialize]:
        return names
    raise RecipeError(f"no stored recipe is meant by {word!r}; `merge-assets recipes` lists them")
