"""Contract: what is asked of a project costs a step for each recipe more, whatever the recipes are made of.

Calls of our own functions are counted, never seconds. What a project costs beside its recipes falls out of the difference of
two sizes: if every recipe costs as much as the one before, four more cost what the four before did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count, product
from pathlib import Path
from types import FrameType

import pytest

import merge_assets
from merge_assets import api
from merge_assets.cli.show import show_plan, show_recipes
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.selection import reasons_to_build, select
from merge_assets.pipeline.versions import Recorded, topological
from tests.recipe_graphs import (
    below_a_broken_one,
    below_a_cycle,
    chain,
    crown,
    diamonds,
    fan,
    folded_diamonds,
    folded_fan,
    of_models_that_are_nowhere,
    scheduled,
)
from tests.synthetic import write_llama

OURS = str(Path(merge_assets.__file__).parent)
SUITE = "tasks: [{task: arc_easy, metric: acc}]\n"

GRAPHS: dict[str, Callable[[int], dict[str, str]]] = {
    "diamonds": diamonds,
    "chain": chain,
    "fan": fan,
    "crown": crown,
    "folded diamonds": folded_diamonds,
    "folded fan": folded_fan,
    "scheduled": scheduled,
    "below a broken one": below_a_broken_one,
    "below a cycle": below_a_cycle,
    "models that are nowhere": of_models_that_are_nowhere,
}


def definitions(space: api.Workspace) -> None:
    build_definitions(space, build_graph(space))


def out_of_date(space: api.Workspace) -> None:
    """Where all was built, and nothing of it is in the store any more."""
    graph = build_graph(space)
    chosen = select(graph, ["top"])
    every = build_definitions(space, graph).resolve_all_asset_specs()
    specs = topological(spec for spec in every if spec.key in chosen.keys)
    known = {
        spec.key: Recorded("0" * 64, spec.code_version, {dep.asset_key.to_user_string(): "0" * 64 for dep in spec.deps})
        for spec in specs
    }
    reasons_to_build(space, graph, specs, known)


def leaderboard(space: api.Workspace) -> None:
    api.rank(space)


def consumers(space: api.Workspace) -> None:
    for name in ("top", next(iter(space.book.recipes))):
        space.book.consumers(name)
        space.book.descendants(name)


VERBS: dict[str, Callable[[api.Workspace], object]] = {
    "recipes": lambda _: show_recipes(as_json=False),
    "plan": lambda _: show_plan("top", as_json=False, shard_size=None),
    "definitions": definitions,
    "out of date": out_of_date,
    "leaderboard": leaderboard,
    "consumers": consumers,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        write_llama(folder / name, 1, seed=seed)
    return folder


@pytest.fixture
def projects(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Makes a project of these recipes the current one."""
    numbers = count()

    def make(recipes: dict[str, str]) -> None:
        root = tmp_path / str(next(numbers))
        for folder in ("recipes", "suites"):
            (root / folder).mkdir(parents=True)
        (root / "merge-assets.toml").write_text("")
        (root / "suites" / "demo.yaml").write_text(SUITE)
        for name in "ab":
            (root / name).symlink_to(models / name)
        for name, text in recipes.items():
            (root / "recipes" / f"{name}.yaml").write_text(text)
        monkeypatch.chdir(root)

    return make


def calls(verb: Callable[[api.Workspace], object]) -> int:
    """Calls of functions of ours, loops that generate included, from opening the project on."""
    counted = 0

    def look(frame: FrameType, event: str, _: object) -> None:
        nonlocal counted
        counted += event == "call" and frame.f_code.co_filename.startswith(OURS)

    sys.setprofile(look)
    try:
        verb(api.Workspace.open())
    finally:
        sys.setprofile(None)
    return counted


CASES = [
    (graph, verb) for graph, verb in product(GRAPHS, VERBS) if (graph, verb) != ("folded diamonds", "plan")
]  # an expression holds all that is folded in, once for every way; see tests/workspace/test_models.py


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("graph", "verb"), CASES)
def test_every_recipe_costs_as_much_as_the_one_before(
    graph: str, verb: str, projects: Callable[[dict[str, str]], None]
) -> None:
    costs = []
    for size in (4, 4, 8, 12):  # the first for what is done once in a process
        projects(GRAPHS[graph](size))
        costs.append(calls(VERBS[verb]))
    _, one, two, three = costs
    assert three - two <= 1.01 * (two - one), f"{one}, {two} and {three} calls for 4, 8 and 12"
