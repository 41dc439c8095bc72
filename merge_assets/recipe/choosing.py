"""Which recipes a person means by a few words: names, sweeps, patterns, tags, and what is made of them.

All commands that take names of recipes ask here. A *selection* is a word that may mean several.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from merge_assets.errors import RecipeError, did_you_mean
from merge_assets.recipe.book import RecipeBook
from merge_assets.recipe.schema import Recipe

_TAG = "tag:"
_GROUP = "group:"
_PATTERN = frozenset("*?[")
_SHOWN = 4


def is_pattern(word: str) -> bool:
    """Whether a word is a pattern of names."""
    return not word.startswith((_TAG, _GROUP)) and bool(_PATTERN & set(word))


def matches(name: str, pattern: str) -> bool:
    """Whether a name is one that a pattern means: ``*`` is anything, ``?`` one character, ``[ab]`` one of these."""
    return fnmatchcase(name, pattern)


def is_selection(book: RecipeBook, word: str) -> bool:
    """Whether a word is more than a name: a sweep, a pattern, ``tag:…``, ``group:…``, or one of these or a recipe and ``+``."""
    plain = word.removesuffix("+")
    if plain in book.recipes:
        return word != plain
    return plain in book.sweeps or plain.startswith((_TAG, _GROUP)) or is_pattern(plain)


def choose(book: RecipeBook, words: Sequence[str]) -> list[str]:
    """Names of recipes, each once, in the order of the words.

    Args:
        book: all recipes.
        words: each a name, which need not be one of the book; a sweep, for all its points; a pattern of names with ``*``,
            ``?`` and ``[…]``; ``tag:KEY`` or ``tag:KEY=VALUE``; ``group:NAME``. With ``+`` behind it: also every stored recipe
            that is made of these.

    Raises:
        RecipeError: for a pattern, tag or group of no recipe, with what is near.
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


def choose_known(book: RecipeBook, words: Sequence[str]) -> list[str]:
    """The same, where nothing but recipes of the book can be meant.

    Raises:
        RecipeError: also for a name of none, with what is near; for that of a broken one, its own.
    """
    chosen = choose(book, words)
    for name in chosen:
        if name not in book.recipes:
            for broken in book.broken:
                if broken.name == name:
                    raise broken.error
            near = did_you_mean(name, [*book.recipes, *book.sweeps])
            raise RecipeError(f"there is no recipe {name!r}{near}; `merge-assets recipes` lists them")
    return chosen


def only(book: RecipeBook, word: str) -> str:
    """The name of the one recipe that a word means.

    Raises:
        RecipeError: it means several, or none.
    """
    names = choose(book, [word])
    if len(names) > 1:
        raise RecipeError(several(word, "recipes", names))
    return names[0]


def several(word: str, what: str, names: Sequence[str]) -> str:
    """What to say where one is wanted and a word means several."""
    more = ", …" if len(names) > _SHOWN else ""
    return f"{word!r} means {len(names)} {what} ({', '.join(names[:_SHOWN])}{more}); name one"


def _found(book: RecipeBook, word: str) -> list[str]:
    recipes = book.recipes.values()
    if word in book.recipes:
        return [word]
    if word in book.sweeps:
        return [recipe.name for recipe in book.sweeps[word]]
    if word.startswith(_TAG):
        tags = [text for one in recipes for key, value in one.tags.items() for text in (key, f"{key}={value}")]
        return _some(word, (one for one in recipes if _has_tag(one, word.removeprefix(_TAG))), _TAG, tags)
    if word.startswith(_GROUP):
        groups = [one.group for one in recipes if one.group]
        return _some(word, (one for one in recipes if one.group == word.removeprefix(_GROUP)), _GROUP, groups)
    if is_pattern(word):
        names = [*book.recipes, *book.sweeps]
        return _some(word, (one for one in recipes if matches(one.name, word)), "", names)
    return [word]


def _has_tag(recipe: Recipe, text: str) -> bool:
    key, _, value = text.partition("=")
    return key in recipe.tags and (text == key or recipe.tags[key] == value)


def _some(word: str, recipes: Iterable[Recipe], prefix: str, known: Iterable[str]) -> list[str]:
    """The names of those that can be built."""
    if names := [recipe.name for recipe in recipes if recipe.materialize]:
        return names
    near = did_you_mean(word.strip("*?"), [f"{prefix}{one}" for one in dict.fromkeys(known)])
    raise RecipeError(f"no stored recipe is meant by {word!r}{near}; `merge-assets recipes` lists them")
