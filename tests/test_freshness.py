"""Contract: whether a result is out of date is one answer from keys, whoever asks: a build, a table, a card or a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api import joined
from merge_assets.api.joined import scores_of
from merge_assets.api.rank import leaderboard_entries
from merge_assets.evaluation.scores import Scores
from merge_assets.freshness import Basis, stale_reason
from merge_assets.identity import analysis_line, scores_line, variant_line
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.scores import parents_of
from merge_assets.records import AnalysisDetails, Details, Input, StoredBuildReport, VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import results
from merge_assets.workspace.results import KnownScores
from tests.leaderboard_support import row
from tests.recipe_graphs import merge

OLD, NEW = "0" * 64, "1" * 64


@pytest.mark.parametrize(
    ("was", "now", "reason"),
    [
        pytest.param(None, Basis("x", {}), "never built", id="nothing"),
        pytest.param(Basis("x", {"a": "1"}), Basis("x", {"a": "1"}), None, id="the same"),
        pytest.param(
            Basis("x" * 16, {"a": "1"}),
            Basis("y" * 16, {"a": "2"}),
            f"other words: {'x' * 12} then, {'y' * 12} now",
            id="other code, said first",
        ),
        pytest.param(Basis("x", {}), Basis(None, {}), None, id="nothing that says how"),
        pytest.param(
            Basis(None, {}), Basis("x", {}), "other words: unknown then, x now", id="something that says how, now"
        ),
        pytest.param(
            Basis("x", {"a": OLD}),
            Basis("x", {"a": NEW}),
            f"a has other bytes: {OLD[:12]} then, {NEW[:12]} now",
            id="other bytes",
        ),
        pytest.param(
            Basis("x", {"a": None}),
            Basis("x", {"a": "2"}),
            "a has other bytes: unknown then, 2 now",
            id="bytes that were not known",
        ),
        pytest.param(Basis("x", {"a": "1"}), Basis("x", {"a": None}), None, id="bytes not known now"),
        pytest.param(Basis("x", {}), Basis("x", {"a": None}), "a is a new input", id="new input, bytes not known"),
        pytest.param(Basis("x", {"b": "1", "a": "1"}), Basis("x", {}), "a is no longer an input", id="inputs gone"),
        pytest.param(
            Basis("x", {"a": "1", "b": "1"}),
            Basis("x", {"b": "2", "a": "2"}),
            "b has other bytes: 1 then, 2 now",
            id="in given order",
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
    """``second`` is made of ``mean`` and of the folder ``a``; of both a version is in the store."""
    for folder in ("recipes", "suites", "a"):
        (tmp_path / folder).mkdir()
    (tmp_path / "suites" / "demo.yaml").write_text("tasks: [{task: arc_easy, metric: acc}]\n")
    for name, text in {"mean": merge("./a"), "second": merge("mean", "./a")}.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    made = api.Workspace.open(Settings(root=tmp_path, default_suites=["demo"]))
    as_it_is = VARIANT.model_copy(update={"code": results.variant_code(made.recipe("mean"), ())})
    for version in (OLD, NEW):
        keep(made, variant_line("mean"), version, as_it_is, RECIPE)
    return made


REPORT = {name: 0 for name, field in StoredBuildReport.model_fields.items() if field.is_required()} | {"device": "cpu"}
VARIANT = VariantDetails(recipe="mean", method="linear", layers=1, parameters=1, checks=(), report=REPORT)
RECIPE = {"recipe.yaml": merge("./a")}


def keep(
    space: api.Workspace,
    line: str,
    version: str,
    details: Details,
    files: Mapping[str, str],
    inputs: Mapping[str, str] | None = None,
    *,
    key: str | None = None,
) -> None:
    with space.store.draft(line) as draft:
        for name, text in files.items():
            (draft.directory / name).write_text(text)
        used = [Input(kind="local", name=name, fingerprint=value) for name, value in (inputs or {}).items()]
        draft.commit(version, key=key or version, inputs=used, details=details)


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
    keep(space, scores_line(identity, "demo"), scores.digest, Details(), files, {model: fingerprint}, key=key)


def on_the_leaderboard(space: api.Workspace) -> dict[str, str | None]:
    return {entry.fingerprint: entry.stale for entry in leaderboard_entries(space)}


def on_the_page_of_what_is_made_of_it(space: api.Workspace) -> dict[str, str | None]:
    """Where what is made of it was made of the version that is the current one."""
    (node,) = (node for node in build_graph(space).scores if node.model.title == "second")
    keep(space, variant_line("second"), OLD, VARIANT, RECIPE, {"mean": NEW, "./a": OLD})
    keep(space, "scores/second/demo", OLD, Details(), {}, {"second": OLD})
    scored = space.store.current("scores/second/demo")
    assert scored is not None
    return {scores.fingerprint: None for parent in parents_of(space, node, scored) for scores in parent.scores}


def on_its_card(space: api.Workspace) -> dict[str, str | None]:
    variant = space.store.current(variant_line("mean"))
    known = scores_of(space, KnownScores(space), variant) if variant else []
    return {scores.fingerprint: None for scores in known}


SHOWN = [on_the_leaderboard, on_the_page_of_what_is_made_of_it, on_its_card]
OTHER = {OLD: f"scores are of version {OLD[:12]}, current is {NEW[:12]}"}


@pytest.mark.parametrize(
    ("shown", "stale", "expected"),
    [
        *(pytest.param(shown, {"suite": "edited-since"}, {}, id=f"suite, {shown.__name__}") for shown in SHOWN),
        *(pytest.param(shown, {"fingerprint": OLD}, {}, id=f"version, {shown.__name__}") for shown in SHOWN[1:]),
        pytest.param(on_the_leaderboard, {"fingerprint": OLD}, OTHER, id="version, said on the leaderboard"),
        *(pytest.param(shown, {"lm_eval": "0.0.1"}, {}, id=f"lm-eval, {shown.__name__}") for shown in SHOWN),
    ],
)
def test_scores_that_are_out_of_date_are_called_so_or_shown_nowhere(
    shown: Callable[[api.Workspace], dict[str, str | None]],
    stale: dict[str, str],
    expected: dict[str, str | None],
    space: api.Workspace,
) -> None:
    score(space, "mean", **stale)
    assert shown(space) == expected


@pytest.mark.parametrize("shown", SHOWN)
def test_scores_of_this_version_are_shown_also_where_others_were_made_since(
    shown: Callable[[api.Workspace], dict[str, str | None]], space: api.Workspace
) -> None:
    score(space, "mean")
    score(space, "mean", fingerprint=OLD)
    assert list(shown(space)) == [NEW]


@pytest.mark.parametrize("shown", [on_the_leaderboard, on_the_page_of_what_is_made_of_it])
@pytest.mark.parametrize(("suite", "expected"), [(None, {OLD: None}), ("edited-since", {})])
def test_of_a_base_checkpoint_whose_bytes_are_not_known_the_latest_scores_count(
    suite: str | None,
    expected: dict[str, str | None],
    shown: Callable[[api.Workspace], dict[str, str | None]],
    space: api.Workspace,
) -> None:
    score(space, "a", fingerprint=OLD, suite=suite)
    assert shown(space) == expected


def test_scores_of_a_variant_that_is_gone_are_shown_nowhere(space: api.Workspace, tmp_path: Path) -> None:
    empty = api.Workspace.open(Settings(root=tmp_path, default_suites=["demo"], store=str(tmp_path / "elsewhere")))
    score(empty, "mean")
    assert on_the_leaderboard(empty) == on_its_card(empty) == {}


def test_adapters_are_no_parents_and_a_model_with_two_of_them_is_one(space: api.Workspace) -> None:
    inputs = {"./a+./one": OLD, "./one": NEW, "./a+./two": OLD, "./two": NEW, "mean": NEW}
    keep(space, variant_line("second"), OLD, VARIANT, RECIPE, inputs)
    variant = space.store.get(variant_line("second"), OLD)
    assert variant is not None
    parents = joined.parents_of(space, KnownScores(space), variant, [])
    assert [(parent.model, parent.fingerprint) for parent in parents] == [("a", OLD), ("mean", NEW)]


# -- analyses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingerprint", "version", "found"),
    [
        pytest.param(NEW, results.ANALYSIS_VERSION, True, id="of these bytes"),
        pytest.param(None, results.ANALYSIS_VERSION, True, id="bytes not known"),
        pytest.param(OLD, results.ANALYSIS_VERSION, False, id="of other bytes"),
        pytest.param(NEW, "a later one", False, id="of an earlier version of the analysis"),
        pytest.param(None, "a later one", False, id="of an earlier version, bytes not known"),
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
