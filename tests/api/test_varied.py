"""Which values a variant has where its kin have others: of the version that was made, by sweeps and by searches."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api.varied import Kin
from merge_assets.recipe import candidate
from merge_assets.settings import Settings
from tests.api.test_search import PLACE, RECIPE
from tests.api.test_sweep import SWEEP

LIKE = RECIPE.partition("search:")[0]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/grid.yaml").write_text(SWEEP)
    (tmp_path / "recipes/best.yaml").write_text(RECIPE)
    (tmp_path / "recipes/other.yaml").write_text(LIKE.replace("value: 0.4", "value: 0.6"))
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path


def test_points_of_a_sweep_and_what_a_search_found_have_values_and_others_have_none(project: Path) -> None:
    space = api.Workspace.open(Settings(root=project, default_suites=[]))
    found = candidate(space.book.searches["best"], 7, {PLACE: 0.125})
    (project / "recipes/best-best.yaml").write_text(found.source.text.replace("best-trial-7", "best-best"))
    space = api.Workspace.open(Settings(root=project, default_suites=[]))
    kin, recipes = Kin(space), space.book.recipes

    def values(name: str) -> object:
        return kin.values(recipes[name], recipes[name].source.text)

    assert values("grid-t0.5") == {PLACE: 0.5}
    assert values("best-best") == {PLACE: 0.125}
    assert values("other") == {}


def test_the_values_are_those_of_the_text_by_which_it_was_made(project: Path) -> None:
    space = api.Workspace.open(Settings(root=project, default_suites=[]))
    recipe = space.book.recipes["grid-t0.5"]
    kin = Kin(space)
    assert kin.values(recipe, recipe.source.text.replace("value: 0.5", "value: 0.25")) == {PLACE: 0.25}
    assert kin.values(recipe, "merge_method: slerp\nparameters: {t: 0.5}\n") == {}
    assert kin.values(recipe, "not: [yaml") == {}
