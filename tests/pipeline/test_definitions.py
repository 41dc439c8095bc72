"""Contract of the definitions: they load without torch and without the network, whatever the recipes hold.

The snapshot holds every asset spec of a small project, so that a change of keys, groups, edges, tags or versions is seen
in review.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from merge_assets.errors import RecipeError
from merge_assets.pipeline.checks import CHECKS_OF_A_STEP
from merge_assets.pipeline.keys import group_name, op_names, tag_value
from merge_assets.pipeline.variants import CHECKS
from merge_assets.workspace.results import lm_eval_version
from tests.pipeline_support import HUB, MEAN, PRUNED, PRUNED_BY_TEXT, SEARCH, SECOND, Project, project

__all__ = ["project"]  # fixture

pytestmark = pytest.mark.filterwarnings("ignore")

SNAPSHOT = Path(__file__).with_name("assets.json")


@pytest.fixture
def full(project: Project) -> Project:
    project.recipe("demo/mean", f"owners: ['team:merges']\ntags: {{family: tiny}}\n{MEAN}")
    project.recipe("demo/second", f"group: stacks/deep\n{SECOND}")
    project.recipe("demo/pruned", PRUNED)
    project.recipe("demo/shorter", PRUNED_BY_TEXT)
    (project.root / "words.txt").write_text("some words")
    project.recipe("demo/best", SEARCH)
    project.recipe("hub/far", HUB)
    project.recipe("wrong", "merge_methd: linear\nmodels: []\n")
    return project


def test_everything_loads(full: Project) -> None:
    dg.Definitions.validate_loadable(full.definitions())


def test_asset_specs_are_those_of_the_snapshot(full: Project) -> None:
    found = json.loads(json.dumps([describe(spec, full.root) for spec in specs(full.definitions())]))
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    expected = json.loads(SNAPSHOT.read_text())
    assert found == expected, (
        "the assets differ from tests/pipeline/assets.json; if that is intended, run "
        "UPDATE_SNAPSHOTS=1 python -m pytest tests/pipeline/test_definitions.py and review the difference"
    )


def test_every_description_begins_with_one_sentence(full: Project) -> None:
    for spec in specs(full.definitions()):
        first = (spec.description or "").split("\n\n")[0]
        assert first.endswith((".", "?")) and "\n" not in first and "`" not in first, spec.key


def test_a_broken_recipe_is_shown_and_takes_nothing_down(full: Project) -> None:
    definitions = full.definitions()
    shown = {spec.key.to_user_string(): spec for spec in specs(definitions)}
    assert "merge_methd" in (shown["broken/wrong"].description or "")
    assert shown["broken/wrong"].tags["state"] == "broken"
    assert "variants/mean" in shown
    result = definitions.get_sensor_def("broken_recipes_sensor")(dg.build_sensor_context())
    (evaluation,) = result.asset_events
    assert not evaluation.passed
    assert "merge_methd" in evaluation.description
    assert evaluation.metadata["error_kind"].value == "recipe"
    assert shown["broken/wrong"].metadata["error_kind"] == "recipe"


def test_checks_of_many_broken_recipes_are_of_several_steps_each_of_a_bounded_number(project: Project) -> None:
    names = {f"r{number}" for number in range(2 * CHECKS_OF_A_STEP + 1)}
    for name in names:
        project.recipe(name, "nonsense: 1\n")
    steps = [list(checks.check_keys) for checks in project.definitions().asset_checks or ()]
    assert sorted(map(len, steps)) == [1, CHECKS_OF_A_STEP, CHECKS_OF_A_STEP]
    assert {key.asset_key.path[1] for step in steps for key in step} == names


def test_validation_fails_on_a_broken_recipe(full: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")
    with pytest.raises(RecipeError, match="merge_methd"):
        full.definitions()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (MEAN.replace("checkpoints/one", "checkpoints/nowhere/at-all"), "checkpoints/nowhere/at-all"),
        (f"evaluate: [no-such-suite]\n{MEAN}", "no-such-suite"),
        (f'schedule: "0 0 31 2 *"\n{MEAN}', "0 0 31 2 *"),
    ],
    ids=["missing checkpoint", "unknown suite", "impossible schedule"],
)
def test_what_only_shows_in_the_graph_is_broken_too(project: Project, text: str, shown: str) -> None:
    project.recipe("mean", MEAN)
    project.recipe("odd", text)
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    broken = [spec for spec in specs(definitions) if spec.key.path[0] == "broken"]
    assert len(broken) == 1
    assert shown in (broken[0].description or "")


def test_recipes_on_a_broken_recipe_are_broken(project: Project) -> None:
    project.recipe("mean", MEAN.replace("checkpoints/one", "checkpoints/nowhere/at-all"))
    project.recipe("second", SECOND)
    keys = {spec.key.to_user_string() for spec in specs(project.definitions())}
    assert keys == {"broken/mean", "broken/second"}


def test_no_recipes_is_no_error(project: Project) -> None:
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    assert not specs(definitions)


def test_names_that_differ_only_in_punctuation_are_different_steps(project: Project) -> None:
    for name in ("a-b", "a_b", "a.b"):
        project.recipe(name, f"name: {name}\n{MEAN}")
    definitions = project.definitions()
    ops = {definitions.resolve_assets_def(dg.AssetKey(["variants", name])).op.name for name in ("a-b", "a_b", "a.b")}
    assert len(ops) == 3
    dg.Definitions.validate_loadable(definitions)


def test_a_broken_recipe_says_why_in_the_line_that_the_catalogue_shows(full: Project) -> None:
    (spec,) = [spec for spec in specs(full.definitions()) if spec.key.path[0] == "broken"]
    first = (spec.description or "").split("\n\n")[0]
    assert first.startswith("BROKEN, nothing is built of wrong: wrong.yaml") and "merge_methd" in first


def test_schedules_are_named_after_their_recipes(project: Project) -> None:
    for number in range(4):
        project.recipe(f"night-{number}", f'schedule: "0 3 * * *"\n{MEAN}')
    project.recipe("a-b", f'schedule: "0 5 * * *"\n{MEAN}')
    names = {schedule.name for schedule in project.definitions().schedules or ()}
    assert names - {"nightly"} == {"recipes_night_0_night_1_night_2_and_1_more", "recipes_a_b"}


def test_schedules_whose_recipes_differ_in_punctuation_alone_have_two_names(project: Project) -> None:
    project.recipe("a-b", f'schedule: "0 3 * * *"\n{MEAN}')
    project.recipe("a_b", f'schedule: "0 5 * * *"\n{MEAN}')
    definitions = project.definitions()
    dg.Definitions.validate_loadable(definitions)
    assert len({schedule.name for schedule in definitions.schedules or ()} - {"nightly"}) == 2


def test_plain_names_stay_plain() -> None:
    key = dg.AssetKey(["variants", "slerp-gradient"])
    assert op_names([key]) == {key: "variants__slerp_gradient"}
    assert group_name("variants", "yi-34b/pruned") == "variants/yi_34b/pruned"
    assert tag_value("org/model") == "org_model"
    assert len(tag_value("x" * 100)) == 63


def test_checks_are_those_that_a_build_reports() -> None:
    from merge_assets.variant.checks import CHECKS as made

    assert tuple(CHECKS) == made


def test_importing_definitions_imports_no_heavy_package_and_reaches_no_network(full: Project) -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import definitions\n"
        "definitions.defs.get_repository_def()\n"
        "heavy = ('torch', 'transformers', 'lm_eval', 'matplotlib', 'pandas', 'datasets', 'optuna')\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    (full.root / "merge-assets.toml").write_text('default_suites = ["quick"]\n')
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MERGE_ASSETS_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=full.root, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_secret_reaches_the_snapshot(full: Project) -> None:
    definitions = full.definitions(
        hub_token="hf_secret", store="memory://secret-bucket", store_options={"secret": "s3cr3t"}
    )
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    text = serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))
    assert "hf_secret" not in text
    assert "s3cr3t" not in text


def specs(definitions: dg.Definitions) -> list[dg.AssetSpec]:
    return sorted(definitions.resolve_all_asset_specs(), key=lambda spec: spec.key)


def describe(spec: dg.AssetSpec, root: Path) -> dict[str, Any]:
    condition = spec.automation_condition
    return {
        "key": spec.key.to_user_string(),
        "group": spec.group_name,
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "kinds": sorted(spec.kinds),
        "tags": {key: value for key, value in sorted(spec.tags.items()) if not key.startswith("dagster/kind")},
        "owners": list(spec.owners),
        "code_version": spec.code_version
        and spec.code_version.replace(f"lm-eval-{lm_eval_version()}", "lm-eval-VERSION"),
        "automation": condition.get_label() if condition else None,
        "description": (spec.description or "").replace(str(root), "ROOT"),
    }
