"""What `keep` of a recipe leaves in the store, what it lets go, and that nobody makes again at once what went.

Variants are built and models scored for real, but for the numbers: see :mod:`tests.scored`.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets import api
from merge_assets.api import housekeeping
from merge_assets.api.rank import leaderboard_entries
from merge_assets.api.retention import Contender, fates
from merge_assets.cli.housekeeping import collect_garbage
from merge_assets.cli.show import show_recipes
from merge_assets.errors import CheckpointError
from merge_assets.identity import variant_line
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.automation import Reconciler
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reconciler.decide import decide
from merge_assets.pipeline.reconciler.facts import Facts
from merge_assets.pipeline.reconciler.memory import Memory
from merge_assets.pipeline.selection import reasons_to_build
from merge_assets.pipeline.versions import Recorded, topological
from merge_assets.recipe.schema_keep import KeepRule
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.store.collect import RemovalPlan
from merge_assets.store.inventory import survey
from tests.scored import SUITE, evaluated, write_inputs

NOW = timedelta(0)
SWEEP = """\
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: [1, 1]}
keep: best 2
sweep: {"models[0].parameters.weight": [0.2, 0.4, 0.6, 0.8]}
"""
POINTS = [f"grid-weight0.{number}" for number in (2, 4, 6, 8)]
PLAIN = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_inputs(tmp_path)
    (tmp_path / "merge-assets.toml").write_text("default_suites = ['demo']\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, default_suites=["demo"]))


def recipe(root: Path, name: str, text: str) -> None:
    (root / "recipes" / f"{name}.yaml").write_text(text)


def build(root: Path, name: str) -> str:
    space = opened(root)
    return api.build(space, space.recipe(name)).artifact.version


def swept(root: Path, values: dict[str, float | None], text: str = SWEEP) -> dict[str, str]:
    """The versions of the points of a sweep, built and scored; those of ``None`` are not scored."""
    recipe(root, "grid", text)
    versions = {}
    for name, value in values.items():
        versions[name] = build(root, name)
        if value is not None:
            evaluated(opened(root), name, value)
    return versions


def collected(root: Path) -> RemovalPlan:
    """What a collection decides, which is carried out."""
    space = opened(root)
    plan = housekeeping.collect(space, keep=1, older_than=NOW)
    housekeeping.carry_out_plan(space, plan)
    return plan


def lines(root: Path, kind: str = "variants") -> set[str]:
    return {line.partition("/")[2] for line in survey(opened(root).store).versions if line.startswith(f"{kind}/")}


VALUES: dict[str, float | None] = dict(zip(POINTS, (0.1, 0.4, 0.3, 0.2), strict=True))


# -- the rule alone ----------------------------------------------------------------------------------------------------


def contenders(*scores: float | None) -> list[Contender]:
    return [Contender((f"variants/{place}", "v"), 0, True, score) for place, score in enumerate(scores)]


@given(st.lists(st.none() | st.integers(0, 5).map(float), max_size=8), st.integers(1, 6))
def test_as_many_better_ones_as_are_to_stay_let_a_version_go(scores: list[float | None], count: int) -> None:
    found = fates([KeepRule("best", count)], contenders(*scores), "demo headline")
    for one, fate in zip(scores, found.values(), strict=True):
        better = sum(other is not None and one is not None and other > one for other in scores)
        assert fate.stays == (one is None or better < count)


def test_what_one_rule_keeps_stays_whatever_the_others_say() -> None:
    of = [Contender(("variants/x", str(age)), age, True, float(age)) for age in range(4)]
    found = fates([KeepRule("best", 1), KeepRule("last", 2)], of, "demo headline")
    assert {name[1]: fate.why for name, fate in found.items()} == {
        "0": "among the last 2",
        "1": "among the last 2",
        "2": "not among the best by demo headline, not among the last 2",
        "3": "among the best by demo headline",
    }


# -- a sweep -----------------------------------------------------------------------------------------------------------


def test_of_a_sweep_the_best_points_stay_and_of_the_others_the_scores(root: Path) -> None:
    versions = swept(root, VALUES)

    plan = collected(root)

    assert lines(root) == {POINTS[1], POINTS[2]}
    assert plan.goes == {
        (variant_line(name), versions[name]): "not among the best 2 by demo headline" for name in (POINTS[0], POINTS[3])
    }
    assert "among the best 2 by demo headline" in plan.kept[variant_line(POINTS[1]), versions[POINTS[1]]]
    assert lines(root, "scores") == {f"{name}/demo" for name in POINTS}
    assert not survey(opened(root).store).pointers.keys() & {variant_line(POINTS[0]), variant_line(POINTS[3])}
    shown = {entry.model: entry for entry in leaderboard_entries(opened(root)) if entry.kind == "variant"}
    assert {name: entry.scores[0].headline for name, entry in shown.items()} == VALUES
    gone = shown[POINTS[0]]
    assert (gone.fingerprint, gone.parents, gone.method) == (versions[POINTS[0]], [], None)
    assert gone.stale == f"scores are of version {versions[POINTS[0]][:12]}, whose bytes went by keep of its recipe"
    assert not collected(root).doomed


def test_recipes_says_of_which_points_there_are_scores_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = swept(root, VALUES)
    collected(root)
    show_recipes(as_json=True)
    rows = json.loads(capsys.readouterr().out)["recipes"]
    assert {row["name"]: row["built"] for row in rows} == {
        name: version[:12] if name in (POINTS[1], POINTS[2]) else "scores alone" for name, version in versions.items()
    }


def test_a_point_without_a_score_stays_until_it_has_one_and_takes_no_place(root: Path) -> None:
    swept(root, {**VALUES, POINTS[1]: None})
    plan = collected(root)
    assert lines(root) == {POINTS[1], POINTS[2], POINTS[3]}
    assert any("kept until it is scored by demo headline" in why for why in plan.kept.values())

    evaluated(opened(root), POINTS[1], 0.05)
    collected(root)
    assert lines(root) == {POINTS[2], POINTS[3]}


def test_a_point_stays_if_no_rule_is_about_scores(root: Path) -> None:
    swept(root, VALUES, SWEEP.replace("best 2", "last 1"))
    assert not collected(root).doomed


def test_whoever_wants_the_bytes_of_a_point_that_went_is_told_how_to_make_them(root: Path) -> None:
    swept(root, VALUES)
    collected(root)
    with pytest.raises(CheckpointError, match=f"not in the store; run `merge-assets build --force {POINTS[0]}`"):
        api.score(opened(root), ModelReference(POINTS[0]), "demo")
    build(root, POINTS[0])
    assert lines(root) == {POINTS[0], POINTS[1], POINTS[2]}
    assert all(entry.stale is None for entry in leaderboard_entries(opened(root)) if entry.model == POINTS[0])


def test_nothing_goes_before_every_suite_has_a_value(root: Path) -> None:
    (root / "suites" / "more.yaml").write_text(SUITE)
    swept(root, VALUES, f"{SWEEP}evaluate: [demo, more]\n")
    collected(root)
    assert lines(root) == set(POINTS)
    for name in POINTS:
        evaluated(opened(root), name, 0.5, "more")
    collected(root)
    assert lines(root) == {POINTS[1], POINTS[2]}


def test_what_a_recipe_or_a_variant_is_made_of_stays(root: Path) -> None:
    swept(root, VALUES)
    recipe(
        root,
        "child",
        f"merge_method: linear\nmodels: [{{model: {POINTS[0]}}}, {{model: b}}]\nparameters: {{weight: 1}}\n",
    )
    plan = collected(root)
    assert lines(root) == {POINTS[0], POINTS[1], POINTS[2]}
    assert any("recipe child names it" in why for why in plan.kept.values())
    version = build(root, "child")
    (root / "recipes/child.yaml").unlink()
    plan = collected(root)
    assert ("variants/child", version) in plan.kept
    assert any("variants/child was made from it" in why for why in plan.kept.values())


def test_what_is_young_stays_with_all_that_it_was_made_from(root: Path) -> None:
    swept(root, VALUES)
    assert not housekeeping.collect(opened(root), keep=1).doomed


def test_of_a_recipe_that_is_broken_by_now_everything_stays(root: Path) -> None:
    swept(root, VALUES)
    recipe(root, "grid", SWEEP.replace("linear", "linear\nunknown: 1"))
    assert not collected(root).doomed
    assert lines(root) == set(POINTS)


def test_what_is_shown_says_why_each_stays_or_goes(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    swept(root, VALUES)
    collect_garbage(2, "0", yes=False, as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("goes: not among the best 2 by demo headline") == 2
    assert shown.count("among the best 2 by demo headline") == 4
    collect_garbage(2, "0", yes=False, as_json=True)
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert {(one["line"], one["why"]) for one in removed} == {
        (variant_line(name), "not among the best 2 by demo headline") for name in (POINTS[0], POINTS[3])
    }


# -- a single variant --------------------------------------------------------------------------------------------------


def versions_of(root: Path, keep: str, values: list[float]) -> list[str]:
    """Versions of one recipe, the oldest first, each scored."""
    made = []
    for number, value in enumerate(values):
        recipe(root, "mine", f"{PLAIN.replace('weight: 2', f'weight: {number + 2}')}keep: {keep}\n")
        made.append(build(root, "mine"))
        evaluated(opened(root), "mine", value)
    return made


def left(root: Path) -> set[str]:
    return {stored.artifact.version for stored in survey(opened(root).store).versions["variants/mine"]}


def test_the_best_versions_stay_and_the_current_one_whatever_it_came_to(root: Path) -> None:
    made = versions_of(root, "best 2", [0.4, 0.1, 0.3, 0.2])
    collected(root)
    assert left(root) == {made[0], made[2], made[3]}
    collected(root)  # their scores are there still, which tell
    assert left(root) == {made[0], made[2], made[3]}


def test_the_last_versions_stay(root: Path) -> None:
    made = versions_of(root, "last 3", [0.4, 0.1, 0.3, 0.2])
    collected(root)
    assert left(root) == set(made[1:])


def test_both_rules_together(root: Path) -> None:
    made = versions_of(root, "[best 1, last 2]", [0.4, 0.1, 0.3, 0.2])
    collected(root)
    assert left(root) == {made[0], made[2], made[3]}


# -- nobody makes again what went --------------------------------------------------------------------------------------


def recorded(root: Path, versions: dict[str, str]) -> tuple[Reconciler, Facts]:
    """A project as Dagster has recorded it: everything is up to date."""
    space = opened(root)
    reconciler = Reconciler(space, build_graph(space))
    records: dict[str, Recorded] = {key: Recorded("bytes", None, {}) for key in reconciler.roster.bases}
    for asset in reconciler.roster.assets:
        inputs = {key: records[key].data_version for key in asset.inputs}
        name = asset.key.removeprefix("variants/")
        records[asset.key] = Recorded(versions.get(name, asset.key), asset.code, inputs)
    return reconciler, Facts(1e6, reconciler.roster.assets, records)


def test_automation_does_not_ask_for_points_that_went(root: Path) -> None:
    versions = swept(root, VALUES)
    collected(root)
    reconciler, facts = recorded(root, versions)
    assert not reconciler._let_go(facts)
    assert {each.state for each in decide(facts, Memory())} == {"current"}


def test_a_point_that_went_is_made_again_when_something_is_to_be_measured_of_it(root: Path) -> None:
    versions = swept(root, VALUES)
    collected(root)
    reconciler, facts = recorded(root, versions)
    scores = {key: record for key, record in facts.records.items() if not key.startswith("scores/demo/grid")}
    facts = Facts(facts.now, facts.assets, scores)  # another suite, say
    facts = Facts(facts.now, facts.assets, scores, let_go=reconciler._let_go(facts))
    assert facts.let_go == {f"variants/{name}" for name in (POINTS[0], POINTS[3])}
    asked = {each.key for each in decide(facts, Memory()) if each.state == "requested"}
    assert asked >= {*facts.let_go, *(f"scores/demo/{name}" for name in POINTS)}
    assert not asked & {f"variants/{name}" for name in (POINTS[1], POINTS[2])}


def test_a_build_counts_points_that_went_as_made_unless_something_is_made_of_them(root: Path) -> None:
    versions = swept(root, VALUES)
    collected(root)
    recipe(
        root,
        "child",
        f"merge_method: linear\nmodels: [{{model: {POINTS[0]}}}, {{model: b}}]\nparameters: {{weight: 1}}\n",
    )
    space = opened(root)
    graph = build_graph(space)
    _, facts = recorded(root, versions)
    known = {dg.AssetKey.from_user_string(key): record for key, record in facts.records.items()}
    variants = {node.model.key: node for node in graph.variants}
    specs = topological(
        spec for spec in build_definitions(space, graph).resolve_all_asset_specs() if spec.key in variants
    )
    points = [spec for spec in specs if spec.key.path[1] in POINTS]

    assert reasons_to_build(space, graph, points, known) == {}
    unbuilt = {**known, dg.AssetKey(["variants", "child"]): None}
    assert {key.path[1] for key in reasons_to_build(space, graph, specs, unbuilt)} == {POINTS[0], "child"}
    (root / "suites" / "demo.yaml").write_text(SUITE.replace("acc}", "acc_norm}"))
    space = opened(root)
    assert {key.path[1] for key in reasons_to_build(space, build_graph(space), points, known)} == {POINTS[0], POINTS[3]}
