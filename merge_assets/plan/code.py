"""Code that a variant carries: whose it is, and whether it may be run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from merge_assets.checkpoint.files import CODE_FILES
from merge_assets.plan.model import Plan
from merge_assets.recipe import Recipe, RecipeBook


def code_files(plan: Plan) -> tuple[str, ...]:
    """The files of code that a variant carries."""
    return tuple(c.file for c in plan.carried if any(fnmatchcase(c.file, pattern) for pattern in CODE_FILES))


def code_models(plan: Plan) -> tuple[str, ...]:
    """The models whose code a variant carries, as the recipe names them; most carry none."""
    files = set(code_files(plan))
    return tuple(dict.fromkeys(plan.models[c.model].reference for c in plan.carried if c.file in files))


def trusted_in(book: RecipeBook, recipe: Recipe) -> frozenset[str]:
    """The models whose code may be run, as a recipe and those that are folded into it say."""
    return frozenset(str(model) for one in (recipe, *book.folded(recipe)) for model in one.trust_remote_code)


def is_trusted(needed: Sequence[str], trusted: Collection[str]) -> bool:
    """Whether there is code, and all of it is of models that are trusted."""
    return bool(needed) and set(needed) <= set(trusted)


def code_summary(plan: Plan, trusted: Collection[str]) -> str:
    """Whose code a variant carries and whether it is run, for people; empty if it carries none."""
    needed = code_models(plan)
    if not needed:
        return ""
    named = f"{', '.join(code_files(plan))} of {', '.join(needed)}"
    if is_trusted(needed, trusted):
        return f"{named}: run to check and evaluate the variant, without a network (trust_remote_code)"
    return f"{named}: carried, not run (trust_remote_code does not name {'it' if len(needed) == 1 else 'them all'})"
