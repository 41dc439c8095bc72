"""Contract: whether a result is out of date is one answer from keys, whoever asks: a build, a table, a card or a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api.rank import leaderboard_entries
from merge_assets.api.score import known_scores
from merge_assets.evaluation.scores import Scores
from merge_assets.freshness import Basis, stale_reason
from merge_assets.identity import analysis_line, scores_line, variant_line
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.scores import parent_scores
from merge_assets.records import AnalysisDetails, Details, StoredBuildReport, VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import results
from tests.leaderboard_support import row
from tests.recipe_graphs import merge

OLD, NEW = "0" * 64, "1" * 64


@pytest.mark.parametrize(
    ("was", "now", "reason"),
    [
        pytest.param(None, Basis("x", {}), "never built", id="nothing"),
        pytest.param(Basis("x", {"a": "1"}), Basis("x", {"a": "1"}), None, id="the same"),
        pytest.param(Basis("x", {"a": "1"}), Basis("y", {"a": "2"}), "other words", id="other code, said first"),
        pytest.param(Basis("x", {}), Basis(None, {}), None, id="nothing that says how"),
        pytest.param(Basis(None, {}), Basis("x", {}), "other words", id="something that says how, now"),
        pytest.param(Basis("x", {"a": "1"}), Basis("x", {"a": "2"}), "a has other bytes", id="other bytes"),
        pytest.param(Basis("x", {"a": "1"}), Basis("x", {"a": None}), None, id="bytes not known now"),
        pytest.param(Basis("x", {}), Basis("x", {"a": None}), "a is a new input", id="new input, bytes not known"),
        pytest.param(Basis("x", {"b": "1", "a": "1"}), Basis("x", {}), "a is no longer an input", id="inputs gone"),
        pytest.param(
            Basis("x", {"a": "1", "b": "1"}), Basis("x", {"b": "2", "a": "2"}), "b has other bytes", id="in given order"
        ),
    ],
)
def test_a_result_is_out_of_date_when_it_would_follow_from_other_keys_now(
    was: Basis | None, now: Basis, reason: str | None
) -> None:
    assert stale_reason(was, now, "other words") == reason


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def space(tmp_path: Path) -> api.Workspace:
    """``second`` is made of ``mean``, of which a version is in the store, and of the folder ``a``."""
    for folder in ("recipes", "suites", "a"):
        (tmp_path / folder).mkdir()
    (tmp_path / "suites" / "demo.yaml").write_text("tasks: [{task: arc_easy, metric: acc}]\n")
    for name, text in {"mean": merge("./a"), "second": merge("mean", "./a")}.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    made = api.Workspace.open(Settings(root=tmp_path))
    keep(made, variant_line("mean"), NEW, VARIANT, {})
    return made


REPORT = {name: 0 for name, field in StoredBuildReport.model_fields.items() if field.is_required()} | {"device": "cpu"}
VARIANT = VariantDetails(recipe="mean", method="linear", layers=1, parameters=1, checks=(), report=REPORT)


def keep(
    space: api.Workspace, line: str, version: str, details: Details, files: Mapping[str, str], *, key: str | None = None
) -> None:
    with space.store.draft(line) as draft:
        for name, text in files.items():
            (draft.directory / name).write_text(text)
        draft.commit(version, key=key or version, inputs=[], details=details)


def score(
    space: api.Workspace,
    model: str,
    *,
    fingerprint: str = NEW,
    suite: str | None = None,
    lm_eval: str | None = None,
) -> None:
    """Scores of a model as an evaluation leaves them."""
    scores = Scores(
        model=model,
        fingerprint=fingerprint,
        suite="demo",
        suite_digest=suite or space.suites["demo"].digest,
        tasks=(row("arc_easy", "acc", 0.5),),
        headline=0.5,
        headline_stderr=None,
        seed=0,
        versions={},
    )
    identity = space.names.identify(ModelReference(model))
    key = suite or results.scores_key(space.suites["demo"], fingerprint, lm_eval=lm_eval)
    files = {results.SCORES_FILE: scores.model_dump_json()}
    keep(space, scores_line(identity, "demo"), scores.digest, Details(), files, key=key)


def on_the_leaderboard(space: api.Workspace) -> set[str]:
    return {entry.model for entry in leaderboard_entries(space)}


def on_the_page_of_what_is_made_of_it(space: api.Workspace) -> set[str]:
    (node,) = (node for node in build_graph(space).scores if node.model.title == "second")
    return {scores.model for scores in parent_scores(space, node)}


def on_its_card(space: api.Workspace) -> set[str]:
    return {"mean"} if known_scores(space, space.recipe("mean")) else set()


@pytest.mark.parametrize("shown", [on_the_leaderboard, on_the_page_of_what_is_made_of_it, on_its_card])
@pytest.mark.parametrize(
    ("stale", "expected"),
    [
        pytest.param({}, {"mean"}, id="of this version and suite"),
        pytest.param({"fingerprint": OLD}, set(), id="of another version"),
        pytest.param({"suite": "edited-since"}, set(), id="of an earlier text of the suite"),
        pytest.param({"lm_eval": "0.0.1"}, set(), id="measured by another lm-eval"),
    ],
)
def test_scores_that_are_out_of_date_are_shown_nowhere(
    stale: dict[str, str], expected: set[str], shown: Callable[[api.Workspace], set[str]], space: api.Workspace
) -> None:
    score(space, "mean", **stale)
    assert shown(space) == expected


@pytest.mark.parametrize("shown", [on_the_leaderboard, on_the_page_of_what_is_made_of_it])
@pytest.mark.parametrize(("suite", "expected"), [(None, {"a"}), ("edited-since", set())])
def test_of_a_base_checkpoint_whose_bytes_are_not_known_the_latest_scores_count(
    suite: str | None, expected: set[str], shown: Callable[[api.Workspace], set[str]], space: api.Workspace
) -> None:
    score(space, "a", fingerprint=OLD, suite=suite)
    assert shown(space) == expected


def test_scores_of_a_variant_that_is_gone_are_shown_nowhere(space: api.Workspace, tmp_path: Path) -> None:
    empty = api.Workspace.open(Settings(root=tmp_path, store=str(tmp_path / "elsewhere")))
    score(empty, "mean")
    shown = (on_the_leaderboard, on_the_page_of_what_is_made_of_it, on_its_card)
    assert [look(empty) for look in shown] == [set()] * 3


# -- analyses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingerprint", "version", "found"),
    [
        pytest.param(NEW, "1", True, id="of these bytes"),
        pytest.param(None, "1", True, id="bytes not known"),
        pytest.param(OLD, "1", False, id="of other bytes"),
        pytest.param(NEW, "2", False, id="of an earlier version of the analysis"),
        pytest.param(None, "2", False, id="of an earlier version, bytes not known"),
    ],
)
def test_an_analysis_counts_while_the_same_would_be_made(
    fingerprint: str | None, version: str, found: bool, space: api.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = space.names.identify(ModelReference("a"))
    key = results.analysis_key(NEW, ["v_proj"])
    figures = dict.fromkeys(("weights", "infinite", "seconds", "bytes_read", "spectra_reused"), 1)
    keep(
        space, analysis_line(model), key, AnalysisDetails(model="a", fingerprint=NEW, modules=["v_proj"], **figures), {}
    )
    monkeypatch.setattr(results, "ANALYSIS_VERSION", version)
    assert (results.current_analysis(space.store, model, fingerprint) is not None) == found
