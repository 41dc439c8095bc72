"""A recipe that asks for what is not built yet is refused where it asks, and is shown as broken; nothing pretends."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.errors import PlanError
from merge_assets.settings import Settings
from tests.pipeline_support import MEAN, SECOND, Project, project
from tests.recipe_support import read, write

__all__ = ["project"]  # fixture

HUB = "merge_method: passthrough\nmodels: [{model: some-org/some-model}]\n"

UNBUILT = {
    "publish": (
        f"{HUB}publish: {{repo_id: me/mine}}\n",
        3,
        "publish: pushing to the Hub is not built yet; leave it out",
    ),
}


@pytest.mark.parametrize("case", UNBUILT)
def test_what_is_not_built_yet_is_an_error_of_the_plan_before_the_hub_is_asked(case: str, tmp_path: Path) -> None:
    text, line, message = UNBUILT[case]
    workspace = api.Workspace.open(
        Settings(root=tmp_path, recipes=[], hub_endpoint="http://127.0.0.1:9")  # nobody listens there
    )
    with pytest.raises(PlanError) as caught:
        api.plan(workspace, read(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml:{line}: {message}")


@pytest.mark.parametrize("case", UNBUILT)
def test_a_project_shows_such_a_recipe_as_broken(case: str, project: Project) -> None:
    text, line, message = UNBUILT[case]
    project.recipe("mean", MEAN)
    project.recipe("odd", text)
    (broken,) = project.workspace().book.broken
    assert str(broken.error).startswith(f"{project.root}/recipes/odd.yaml:{line}: {message}")
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    shown = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert message in (shown["broken/odd"].description or "")
    assert {"variants/mean", "broken/odd"} <= set(shown) and "variants/odd" not in shown


def test_what_is_made_of_such_a_recipe_is_broken_too(project: Project) -> None:
    project.recipe("mean", f"{MEAN}publish: {{repo_id: me/mine}}\n")
    project.recipe("second", SECOND)
    assert [entry.name for entry in project.workspace().book.broken] == ["mean", "second"]


def test_such_a_recipe_can_be_read(tmp_path: Path) -> None:
    """It is well-formed; only planning it is refused."""
    assert api.load_recipe(write(tmp_path, UNBUILT["publish"][0])).publish is not None
