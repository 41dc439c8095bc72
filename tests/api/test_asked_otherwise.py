"""Contract: a variant is asked as its recipe has it, wherever that shows: its scores, what is out of date, plans, lists, the
leaderboard. Other models are asked as the suite says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.evaluation.leaderboard_files import leaderboard_markdown
from merge_assets.evaluation.leaderboard_tables import models_table
from merge_assets.evaluation.page import leaderboard_page
from merge_assets.markup import escape_markdown
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace.results import KnownScores
from tests.commands import run_command
from tests.evaluation_support import write_checkpoint, write_suite
from tests.scored import evaluated, write_inputs

MEAN = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
BRIEF = "evaluate: [{suite: demo, system_prompt: Be brief., max_length: 64}]\n"
SAID = 'its recipe has it asked otherwise than the suite says: system_prompt "Be brief.", max_length 64'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, BRIEF)
    return tmp_path


def write(root: Path, more: str = "") -> None:
    (root / "recipes" / "mean.yaml").write_text(MEAN + more)


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, default_suites=["demo"]))


def build(root: Path) -> None:
    space = opened(root)
    api.build(space, space.recipe("mean"))


def code_versions(root: Path) -> dict[str, str | None]:
    space = opened(root)
    specs = build_definitions(space, build_graph(space)).resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec.code_version for spec in specs}


def test_editing_it_makes_the_scores_out_of_date_and_neither_the_variant_nor_its_parents_scores(root: Path) -> None:
    before = code_versions(root)
    write(root, BRIEF.replace("64", "65"))
    after = code_versions(root)
    assert {key for key in before if before[key] != after[key]} == {"scores/demo/mean"}
    write(root, "evaluate: [{suite: demo, max_length: null}]\n")
    plain = code_versions(root)
    write(root)
    assert code_versions(root) == plain


def test_scores_of_another_way_of_asking_count_as_none(root: Path) -> None:
    build(root)
    first = evaluated(opened(root), "mean", 0.5)
    assert first.scores.otherwise == {"system_prompt": "Be brief.", "max_length": 64}
    assert f"\n- demo: {escape_markdown(SAID)}\n" in first.artifact.read_bytes("README.md").decode()
    assert evaluated(opened(root), "mean", 0.5).reused
    write(root)
    space = opened(root)
    identity = space.names.identify(next(iter(build_graph(space).variants)).model.reference)
    assert KnownScores(space).of(identity, space.suites["demo"], first.scores.fingerprint) is None
    plain = evaluated(opened(root), "mean", 0.6)
    assert not plain.reused
    assert plain.scores.otherwise == {}
    assert plain.scores.suite_digest != first.scores.suite_digest


def test_a_run_works_with_the_settings_that_it_was_planned_with(root: Path) -> None:
    planned = opened(root).snapshot()
    write(root)
    space = api.Workspace.open(Settings(root=root, default_suites=["demo"]), planned)
    assert space.suite_of("demo", space.recipe("mean")).system_prompt == "Be brief."


def test_the_leaderboard_marks_the_row_and_says_what_differs_from_each_parent(root: Path) -> None:
    build(root)
    for model, value in (("a", 0.4), ("b", 0.3), ("mean", 0.5)):
        evaluated(opened(root), model, value)
    board = api.rank(opened(root)).leaderboard
    row = next(row for row in board.rows if row.entry.model == "mean")
    assert f"demo: {SAID}" in row.notes
    caveats = {delta.parent: delta.caveats for cell in row.cells.values() for delta in cell.deltas}
    theirs = ('system_prompt "Be brief." and the suite\'s', "max_length 64 and the suite's")
    assert caveats == {"a": theirs, "b": theirs}
    markdown = leaderboard_markdown(board)
    assert "| **mean** ‡ |" in markdown
    assert "| **a** |" in markdown
    assert "asked otherwise" in leaderboard_page(board)
    assert models_table(board).set_index("model")["asked otherwise"].dropna().to_dict() == {"mean": f"demo: {SAID}"}


def test_plan_and_recipes_say_it(root: Path) -> None:
    (row,) = json.loads(run_command("recipes", "--json", root=root).stdout)["recipes"]
    assert row["suites"] == "demo (system_prompt, max_length)"
    found = json.loads(run_command("plan", "mean", "--json", root=root).stdout)["evaluations"]["demo"]
    assert [(one["kind"], one["fails"]) for one in found if one["kind"] == "settings"] == [("settings", False)]
    assert any(one["text"].endswith(SAID) for one in found)


def test_what_does_not_go_together_with_the_suite_is_a_broken_node_and_an_error_of_the_list(root: Path) -> None:
    write(root, "evaluate: [{suite: demo, generation: {top_k: 5}}]\n")
    graph = build_graph(opened(root))
    (broken,) = graph.broken
    assert broken.name == "mean-demo"
    assert "mean.yaml:4: evaluate[0].generation: with what" in broken.message
    assert [node.recipe.name for node in graph.variants] == ["mean"]
    listed = run_command("recipes", root=root)
    assert listed.code == 1
    assert "mean.yaml:4: evaluate[0].generation: with what" in listed.stderr


def test_a_real_evaluation_asks_so_and_records_the_command_of_it(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "suites").mkdir()
    write_suite(tmp_path / "suites", documents=2)
    (tmp_path / "suites" / "tiny.yaml").write_text(
        "include_path: tasks\ntasks: [{task: tiny_generate, metric: exact_match, shots: 0, headline: false}]\n"
    )
    write_checkpoint(tmp_path / "a")
    (tmp_path / "recipes" / "same.yaml").write_text(
        "merge_method: passthrough\nmodels: [{model: a}]\n"
        "evaluate: [{suite: tiny, system_prompt: the king, generation: {max_gen_toks: 3}}]\n"
    )
    space = api.Workspace.open(Settings(root=tmp_path, device="cpu"))
    api.build(space, space.recipe("same"))
    scored = {name: api.score(space, ModelReference.parse(name), "tiny") for name in ("a", "same")}
    results = {
        name: next(one.artifact.path.glob("tasks/*/result.json")).read_text()
        for name, one in scored.items()
        if one.artifact.path is not None
    }
    assert '"--system_instruction"' in results["same"] and '"the king"' in results["same"]
    assert "max_gen_toks" in results["same"]
    assert '"--system_instruction"' not in results["a"]
    assert scored["same"].scores.otherwise == {"system_prompt": "the king", "generation.max_gen_toks": 3}
