"""Contract: scores that lack a task are kept and shown with the reason, also by Dagster, and are tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.api.rank import leaderboard_entries
from merge_assets.errors import EvaluationError
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.selection import reasons_to_build
from merge_assets.pipeline.versions import recorded_all, report_observation
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.evaluation_support import write_checkpoint, write_suite

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MODEL = ModelReference.parse("./m")
RECIPE = "merge_method: linear\nmodels: [{model: ./m}, {model: ./m}]\nparameters: {weight: 1}\nevaluate: [tiny]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def root(model: Path, tmp_path: Path) -> Path:
    """A project whose suite has a task that is well, and one that wants more tokens than the context holds."""
    path = write_suite(tmp_path / "suites")
    kept = [line for line in path.read_text().splitlines() if "perplexity" not in line and "group" not in line]
    path.write_text("\n".join(kept))
    generate(tmp_path, 64)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(RECIPE)
    (tmp_path / "m").symlink_to(model)
    return tmp_path


def generate(root: Path, most: int, *, broken: bool = False) -> None:
    tasks = root / "suites" / "tasks"
    file = tasks / "generate.yaml"
    file.write_text(
        "include: _common.yaml\ntask: tiny_generate\noutput_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{question}}"\n'
        f'generation_kwargs: {{until: ["."], max_gen_toks: {most}}}\nmetric_list: [{{metric: exact_match}}]\n'
    )
    if broken:
        choice = tasks / "choice.yaml"
        choice.write_text(choice.read_text().replace('doc_to_choice: "{{choices}}"', "doc_to_choice: nothing"))


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, default_suites=["tiny"], device="cpu"))


def test_the_store_keeps_what_there_is_and_the_next_call_tries_the_rest(root: Path) -> None:
    first = api.score(opened(root), MODEL, "tiny")
    assert [failure.task for failure in first.scores.failures] == ["tiny_generate"]
    assert first.evaluated == ("tiny_choice",)
    again = api.score(opened(root), MODEL, "tiny")
    assert (again.artifact.version, again.reused, again.evaluated) == (first.artifact.version, False, ())
    (entry,) = leaderboard_entries(opened(root))
    assert entry.scores == [first.scores]
    generate(root, 12)
    whole = api.score(opened(root), MODEL, "tiny")
    assert (whole.scores.failures, whole.evaluated) == ((), ("tiny_generate",))
    assert api.score(opened(root), MODEL, "tiny").reused


def test_a_model_of_which_all_tasks_failed_is_on_the_leaderboard_with_its_reasons(root: Path) -> None:
    generate(root, 64, broken=True)
    with pytest.raises(EvaluationError, match="malformed"):
        api.score(opened(root), MODEL, "tiny")
    ranked = api.rank(opened(root))
    (row,) = ranked.leaderboard.rows
    assert row.rank is None
    assert [bool(row.failed(column)) for column in ranked.leaderboard.columns] == [True, True]
    page = ranked.artifact.read_bytes("leaderboard.html").decode()
    assert "malformed node" in page
    assert "requested max tokens to generate (64)" in page


def test_dagster_says_which_tasks_failed_and_a_build_tries_them_again(root: Path) -> None:
    workspace = opened(root)
    graph = build_graph(workspace)
    (node,) = (one for one in graph.scores if one.model.kind != "recipe")
    with dg.DagsterInstance.ephemeral() as instance:
        for base in graph.bases:
            report_observation(instance, base.key, api.observe(workspace, base.reference).fingerprint, {})
        definitions = build_definitions(workspace, graph)
        job = definitions.resolve_job_def("build")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        result = job.execute_in_process(quiet, instance=instance, asset_selection=[node.key])
        assert result.success
        (event,) = result.get_asset_materialization_events()
        found = event.step_materialization_data.materialization.metadata
        metadata: dict[str, Any] = {name: value.value for name, value in found.items()}
        assert metadata["failed_tasks"].startswith("1 of 2 tasks failed: tiny_generate: ")
        assert metadata["work"].startswith("1 of 2 tasks evaluated")
        assert "; 1 failed" in metadata["work"]
        assert "tried_again" not in metadata
        (check,) = result.get_asset_check_evaluations()
        assert (check.check_name, check.passed, check.severity) == ("whole", False, dg.AssetCheckSeverity.WARN)
        assert check.description == metadata["failed_tasks"]
        cells = [row.data for row in found["scores"].records]
        assert [row["value"].startswith("failed: ") for row in cells] == [False, True, False]
        assert cells[-1]["value"].endswith("(1 of 2)")

        specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.key == node.key]
        known = recorded_all(instance, [node.key, *(base.key for base in graph.bases)])
        assert reasons_to_build(workspace, graph, specs, known) == {node.key: metadata["failed_tasks"]}
