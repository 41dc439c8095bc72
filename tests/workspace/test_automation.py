"""Contract: what automation may build is answered once, the same for the list of recipes and for Dagster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merge_assets.pipeline.graph import build_graph
from merge_assets.settings import Settings
from merge_assets.workspace import Automation, Workspace
from tests.recipe_graphs import merge

UNSTORED = "materialize: false\n"
RECIPES = {
    "here": merge("./a"),
    "here-too": merge("here"),
    "hub": merge("./a", "org/model"),
    "hub-through-another": merge("hub", "./a"),
    "hub-through-two": merge("hub-through-another"),
    "hub-by-adapter": merge("./a+org/adapter"),
    "hub-inside": merge("./a", "org/model", head=UNSTORED),
    "hub-by-what-is-folded-in": merge("hub-inside", "./a"),
    "lost": merge("./nowhere", "org/model"),
    "lost-last": merge("org/model", "./nowhere"),
    "made-of-lost": merge("lost", "org/model"),
    "made-of-lost-last": merge("org/model", "lost"),
}
OF_THE_HUB = {name for name in RECIPES if name.startswith("hub")}
LOST = {name for name in RECIPES if "lost" in name}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "recipes").mkdir()
    for name, text in RECIPES.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, {"here", "here-too"}, id="nothing of the Hub unless it is enabled"),
        pytest.param({"enabled": ["*"]}, RECIPES.keys() - LOST, id="nothing of a model that is nowhere"),
        pytest.param({"enabled": ["hub-through-another"]}, {"here", "here-too", "hub-through-another"}, id="by name"),
        pytest.param({"enabled": ["*"], "automate": ["*-too", "lost"]}, {"here-too"}, id="both lists"),
    ],
)
def test_what_automation_may_build(settings: dict[str, Any], expected: set[str], root: Path) -> None:
    space = Workspace.open(Settings(root=root, default_suites=[], **settings))
    automation = Automation(space)
    assert {name for name, recipe in space.book.recipes.items() if automation.allows(recipe)} == expected
    nodes = {node.recipe.name: node.model.automated for node in build_graph(space).variants}
    assert {name for name, automated in nodes.items() if automated} == {n for n in expected if n != "hub-inside"}


def test_who_needs_the_hub(root: Path) -> None:
    needs = Automation(Workspace.open(Settings(root=root))).needs_hub
    assert needs == {name: name in OF_THE_HUB for name in RECIPES if name not in LOST}


def test_a_model_that_comes_or_goes_is_seen_by_who_asks_next(root: Path) -> None:
    space = Workspace.open(Settings(root=root))
    before = Automation(space).needs_hub
    (root / "org" / "model").mkdir(parents=True)
    (root / "nowhere").mkdir()
    after = Automation(space).needs_hub
    assert before["hub"] and not after["hub"]
    assert after.keys() - before.keys() == LOST
