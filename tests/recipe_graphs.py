"""Graphs of recipes in shapes that cost too much where something is done for every way instead of every recipe.

Each is a project's recipes by name, made of the models ``a`` and ``b``, with one called ``top``.
"""

from __future__ import annotations


def merge(*models: str, head: str = "") -> str:
    listed = ", ".join(f"{{model: {model}}}" for model in models)
    return f"{head}merge_method: linear\nmodels: [{listed}]\nparameters: {{weight: 1}}\n"


def diamonds(levels: int, head: str = "") -> dict[str, str]:
    """Each level is made of both recipes of the level below: 2 to the number of levels ways lead down."""
    recipes: dict[str, str] = {}
    below = ("a", "b")
    for level in range(levels):
        pair = (f"left-{level:03}", f"right-{level:03}")
        recipes |= dict.fromkeys(pair, merge(*below, head=head))
        below = pair
    return recipes | {"top": merge(*below)}


def chain(links: int, head: str = "") -> dict[str, str]:
    """Each is made of the one before; by name they come in the other order."""
    names = [f"link-{links - link:03}" for link in range(links)]
    recipes = {name: merge(below, "b", head=head) for name, below in zip(names, ["a", *names], strict=False)}
    return recipes | {"top": merge(names[-1], "b")}


def fan(size: int, head: str = "") -> dict[str, str]:
    """All are made of the same two models."""
    return {f"one-{number:03}": merge("a", "b", head=head) for number in range(size)} | {"top": merge("a", "b")}


def crown(size: int) -> dict[str, str]:
    """One recipe is made of all others, which are made of the same two models."""
    recipes = fan(size)
    return recipes | {"top": merge(*(name for name in recipes if name != "top"))}


def folded_diamonds(levels: int) -> dict[str, str]:
    return diamonds(levels, "materialize: false\n")


def folded_fan(size: int) -> dict[str, str]:
    """Every recipe folds in the same one."""
    recipes = {name: merge("inner", "b") for name in fan(size)}
    return recipes | {"inner": merge("a", "b", head="materialize: false\n")}


def scheduled(size: int) -> dict[str, str]:
    return fan(size, 'schedule: "0 3 * * *"\n')


def below_a_broken_one(size: int) -> dict[str, str]:
    """A chain whose first recipe has a key that there is not."""
    recipes = chain(size)
    return recipes | {f"link-{size:03}": f"nonsense: 1\n{merge('a', 'b')}", "top": merge("a", "b")}


def below_a_cycle(size: int) -> dict[str, str]:
    recipes = chain(size)
    return recipes | {f"link-{size:03}": merge(f"link-{size - 1:03}", "b"), "top": merge("a", "b")}


def of_models_that_are_nowhere(size: int) -> dict[str, str]:
    lost = {f"one-{number:03}": merge("a", "./nowhere") for number in range(size)}
    return lost | {"top": merge("a", "b")}
