"""Which lines and versions of the store a person means by a few words."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from merge_assets.errors import StoreError
from merge_assets.identity import variant_line
from merge_assets.recipe.choosing import choose as choose_recipes
from merge_assets.recipe.choosing import is_pattern, is_selection, matches, several
from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.workspace import Workspace


def lines_below(workspace: Workspace, found: Inventory, words: Sequence[str]) -> list[str]:
    """The lines of these names, or below them; all if there are no names.

    Args:
        workspace: whose recipes are meant.
        found: its store.
        words: lines, kinds such as ``variants``, or selections as of :func:`lines_of`.

    Raises:
        StoreError: a word means no line.
    """
    chosen: dict[str, None] = {}
    for word in words:
        within = [line for line in found.versions if f"{line}/".startswith(f"{word.rstrip('/')}/")]
        if not within:
            within = [one.artifact.line for one in choose(workspace, found, word)]  # or it says what is near
        chosen |= dict.fromkeys(within)
    return list(chosen) if words else list(found.versions)


def lines_of(workspace: Workspace, found: Inventory, selection: str) -> list[str]:
    """The lines that a selection means: those that a pattern matches, with or without ``variants/``; else those of the variants
    of the recipes that it means.

    Args:
        workspace: whose recipes are meant.
        found: its store.
        selection: see :func:`merge_assets.recipe.choosing.choose`.

    Raises:
        RecipeError: no recipe is meant.
        StoreError: none of them is in the store.
    """
    if is_pattern(selection):
        lines = [one for one in found.versions if matches(one, selection) or matches(one, variant_line(selection))]
    else:
        lines = [
            one for name in choose_recipes(workspace.book, [selection]) if (one := variant_line(name)) in found.versions
        ]
    if lines:
        return lines
    raise StoreError(f"{selection}: no line of {found.place.url('')} is meant{_near(found, selection.strip('*?+'))}")


def choose(workspace: Workspace, found: Inventory, text: str) -> list[StoredVersion]:
    """The versions that ``LINE`` or ``LINE@VERSION`` names, of which a version may be cut short, or all that a selection of
    recipes or lines means; see :func:`lines_of`.

    Raises:
        StoreError: if there is none, with what is near.
    """
    if text in found.versions:
        return list(found.versions[text])
    if is_selection(workspace.book, text):
        return [one for line in lines_of(workspace, found, text) for one in found.versions[line]]
    line, at, version = text.rpartition("@")
    if at and line in found.versions:
        meant = [one for one in found.versions[line] if one.artifact.version.startswith(version)] if version else []
        if len(meant) == 1:
            return meant
        names = [one.artifact.version[:12] for one in meant or found.versions[line]]
        problem = "is short for several versions" if meant else "is not there"
        raise StoreError(f"{text}: this version {problem}; {line} has {', '.join(names)}")
    raise StoreError(f"{text}: there is no such line in {found.place.url('')}{_near(found, line if at else text)}")


def choose_one(workspace: Workspace, found: Inventory, text: str) -> StoredVersion:
    """Like :func:`choose`, but of a line its current version, or the newest if it has none.

    Raises:
        StoreError: also if several lines are meant.
    """
    meant = choose(workspace, found, text)
    if len(lines := list(dict.fromkeys(one.artifact.line for one in meant))) > 1:
        raise StoreError(several(text, "lines", lines))
    return next((one for one in meant if found.is_current(one)), meant[-1])


def _near(found: Inventory, text: str) -> str:
    if not found.versions:
        return "; it is empty"
    ends = {line.rpartition("/")[2]: line for line in found.versions}
    near = difflib.get_close_matches(text, found.versions, n=3)
    near += [ends[end] for end in difflib.get_close_matches(text.rpartition("/")[2], ends, n=3)]
    if near:
        return f", did you mean {' or '.join(repr(line) for line in dict.fromkeys(near))}?"
    return "; `merge-assets store ls` lists them"
