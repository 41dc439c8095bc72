"""Contract: what a table, a card or a page says of scores is of the version that was scored, and what is stale is called so.

Variants are built and models scored for real, but for the numbers: see :mod:`tests.scored`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_assets import api
from merge_assets.api.rank import leaderboard_entries
from merge_assets.cli.housekeeping import show_version
from merge_assets.cli.show import show_leaderboard, show_recipes
from merge_assets.evaluation.leaderboard import Delta, LeaderboardEntry
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.ranking import leaderboard_metadata
from merge_assets.pipeline.results import scores_metadata
from merge_assets.pipeline.scores import parents_of
from merge_assets.settings import Settings
from merge_assets.workspace.results import KnownScores, variant_code
from merge_assets.workspace.samples import StoredSamples
from merge_assets.workspace.staleness import Staleness
from tests.scored import SUITE, answered, evaluated, write_inputs

MEAN = "description: of both\nmerge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
SECOND = "merge_method: linear\nmodels: [{model: mean}, {model: b}]\nparameters: {weight: 1}\n"
OTHER = MEAN.replace("linear", "slerp").replace("{weight: 1}", "{t: 0.25}").replace("of both", "of both, bent")
OTHER += "base_model: a\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_inputs(tmp_path)
    (tmp_path / "merge-assets.toml").write_text("default_suites = ['demo']\n")
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, "mean", MEAN)
    return tmp_path


def recipe(root: Path, name: str, text: str) -> None:
    (root / "recipes" / f"{name}.yaml").write_text(text)


def change(root: Path, model: str, number: float) -> None:
    """Other bytes in a base checkpoint."""
    file = root / model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], number)
    save_file(tensors, file, {"format": "pt"})


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, default_suites=["demo"]))


def build(root: Path, name: str = "mean") -> str:
    space = opened(root)
    return api.build(space, space.recipe(name)).artifact.version


def score(root: Path, value: float, model: str = "mean") -> api.Scored:
    return evaluated(opened(root), model, value)


def entries(root: Path) -> dict[str, LeaderboardEntry]:
    return {entry.model: entry for entry in leaderboard_entries(opened(root))}


def deltas(root: Path, model: str = "mean") -> tuple[tuple[Delta, ...], list[str]]:
    """Differences of a model's headline, and what is said of them."""
    board = api.rank(opened(root)).leaderboard
    (line,) = (row for row in board.rows if row.entry.model == model)
    assert board.rank_column is not None
    return line.cells[board.rank_column].deltas, line.notes


# -- a recipe edited, not built ------------------------------------------------------------------------------------------


def test_of_an_edited_recipe_the_text_and_method_are_shown_that_made_what_was_scored(root: Path) -> None:
    version = build(root)
    score(root, 0.5)
    assert entries(root)["mean"].stale is None
    recipe(root, "mean", OTHER)
    entry = entries(root)["mean"]
    assert (entry.recipe, entry.method, entry.description) == (MEAN, "linear", "of both")
    assert entry.fingerprint == version
    code, digest = variant_code(opened(root).recipe("mean"), ())[:12], version[:12]
    assert entry.stale is not None
    assert entry.stale.startswith("the recipe changed: ")
    assert entry.stale.endswith(f" then, {code} now; this is version {digest}")


def test_words_of_a_recipe_make_nothing_stale_but_are_those_of_the_version(root: Path) -> None:
    build(root)
    score(root, 0.5)
    recipe(root, "mean", MEAN.replace("of both", "of the two"))
    entry = entries(root)["mean"]
    assert (entry.stale, entry.description) == (None, "of both")


def test_a_version_that_came_out_again_of_another_recipe_is_not_stale(root: Path) -> None:
    version = build(root)
    score(root, 0.5)
    recipe(root, "mean", MEAN.replace("weight: 1", "weight: 2"))  # of all that are summed: the same mean
    assert entries(root)["mean"].stale is not None
    assert build(root) == version
    assert entries(root)["mean"].stale is None


def test_what_is_made_of_a_stale_variant_is_stale_too(root: Path) -> None:
    recipe(root, "second", SECOND)
    build(root), build(root, "second")
    score(root, 0.5), score(root, 0.6, "second")
    recipe(root, "mean", OTHER)
    assert entries(root)["second"].stale == "mean, which it is made of, is out of date"
    first = build(root)
    assert entries(root)["second"].stale.startswith("mean has other bytes: ")
    assert f" then, {first[:12]} now; this is version " in entries(root)["second"].stale


def test_of_a_variant_that_was_built_again_the_scores_of_before_are_shown_as_such(root: Path) -> None:
    before = build(root)
    score(root, 0.5)
    recipe(root, "mean", OTHER)
    now = build(root)
    entry = entries(root)["mean"]
    assert entry.stale == f"scores are of version {before[:12]}, current is {now[:12]}"
    assert (entry.fingerprint, entry.recipe, entry.method) == (before, MEAN, "linear")
    score(root, 0.7)
    entry = entries(root)["mean"]
    assert (entry.fingerprint, entry.recipe, entry.stale) == (now, OTHER, None)
    assert [scores.headline for scores in entry.scores] == [0.7]


NO_SAMPLES = "cannot tell: mean: no samples of arc_easy are kept"


# -- a base changed ------------------------------------------------------------------------------------------------------


def test_a_difference_is_to_the_bytes_that_were_merged_or_there_is_none(root: Path) -> None:
    build(root)
    score(root, 0.4, "a"), score(root, 0.5, "b"), score(root, 0.7)
    (to_a, to_b), notes = deltas(root)
    unjudged = [f"a: {NO_SAMPLES}", f"b: {NO_SAMPLES}"]
    assert (to_a.parent_value, to_b.parent_value, notes) == (0.4, 0.5, unjudged)

    change(root, "a", 3.0)
    build(root)
    score(root, 0.8)
    now = opened(root).store.current("variants/mean").manifest.fingerprints["a"]
    found, notes = deltas(root)
    assert found == (Delta("b", to_b.version, 0.5, pytest.approx(0.3), pytest.approx(0.3), found[0].verdict),)
    assert notes == [
        f"b: {NO_SAMPLES}",
        f"not compared with a: no scores of the version it was made from, {now[:12]}",
    ]
    assert entries(root)["a"].stale == f"scores are of version {to_a.version[:12]}, current is {now[:12]}"

    score(root, 0.45, "a")
    (to_a, _), notes = deltas(root)
    assert (to_a.version, to_a.parent_value, notes) == (now, 0.45, unjudged)
    assert entries(root)["a"].stale is None


def test_scores_of_the_bytes_that_were_merged_count_also_when_those_of_others_were_made_since(root: Path) -> None:
    build(root)
    score(root, 0.4, "a"), score(root, 0.7)
    (before, *_), _ = deltas(root)
    change(root, "a", 3.0)
    score(root, 0.9, "a")
    (after, *_), _ = deltas(root)
    assert after == before
    entry = entries(root)["mean"]
    assert entry.stale is not None
    assert entry.stale.startswith(f"a has other bytes: {before.version[:12]} then, ")


def test_a_base_that_changed_is_looked_at_before_its_scores_are_ranked(root: Path) -> None:
    build(root)
    score(root, 0.4, "a")
    change(root, "a", 3.0)
    stale = entries(root)["a"].stale
    assert stale is not None
    assert stale.startswith("scores are of version ")


def test_where_nothing_may_be_read_bytes_that_are_not_known_count_as_those_that_they_were(root: Path) -> None:
    build(root)
    change(root, "a", 3.0)
    space = opened(root)
    mean = space.recipe("mean")
    assert Staleness(space, thorough=False).reason(mean) is None
    assert Staleness(space, thorough=True).reason(mean) is not None
    assert Staleness(space, thorough=False).reason(mean) is not None, "it was digested"


def test_a_model_that_is_gone_is_called_as_it_was(root: Path) -> None:
    build(root)
    score(root, 0.5)
    (root / "a").rename(root / "elsewhere")
    parents = {parent.model: list(parent.scores) for parent in entries(root)["mean"].parents}
    assert parents == {"a": [], "b": []}


# -- cards ---------------------------------------------------------------------------------------------------------------


def card_of(scored: api.Scored) -> str:
    return scored.artifact.read_bytes("README.md").decode()


def test_a_card_with_the_scores_of_all_suites_lies_with_them_and_the_variant_is_as_it_was(root: Path) -> None:
    (root / "suites" / "more.yaml").write_text(f"seed: 7\n{SUITE}")
    version = build(root)
    space = opened(root)
    built = space.store.current("variants/mean")
    assert "## Scores" not in built.read_bytes("README.md").decode()
    first = evaluated(space, "mean", 0.5, "more")
    second = evaluated(space, "mean", 0.6)
    assert f"## Scores\n\nOf version `{version[:12]}`.\n" in card_of(first)
    assert "| more | arc_easy | acc | 50.0 |\n" in card_of(first)
    assert "| demo |" not in card_of(first)
    assert (
        "| demo | arc_easy | acc | 60.0 |\n| more | average |  | 50.0 |\n| more | arc_easy | acc | 50.0 |\n"
        in card_of(second)
    )
    assert space.store.verify(built) == []
    assert MEAN.strip() in card_of(second)


def test_a_base_has_no_card(root: Path) -> None:
    assert "README.md" not in score(root, 0.5, "a").artifact.manifest.files


def merged_card(root: Path, name: str = "mean") -> str:
    space = opened(root)
    api.merge(space, space.recipe(name), root / "out", overwrite=True)
    return (root / "out" / "README.md").read_text()


def test_merge_writes_scores_into_the_card_of_exactly_the_bytes_that_were_scored(root: Path) -> None:
    version = build(root)
    assert "## Scores" not in merged_card(root)
    score(root, 0.5)
    assert f"Of version `{version[:12]}`." in merged_card(root)
    recipe(root, "mean", OTHER)
    assert "## Scores" not in merged_card(root)
    other = build(root)
    assert "## Scores" not in merged_card(root)
    score(root, 0.6)
    assert f"Of version `{other[:12]}`." in merged_card(root)
    recipe(root, "mean", MEAN)
    card = merged_card(root)
    assert f"Of version `{version[:12]}`." in card, "also of a version that is not the current one"
    assert "| demo | arc_easy | acc | 50.0 |" in card


def test_merge_of_a_recipe_that_the_project_does_not_have(root: Path) -> None:
    build(root)
    score(root, 0.5)
    (root / "mine.yaml").write_text(MEAN)
    space = opened(root)
    api.merge(space, space.recipe("mine.yaml"), root / "out")
    assert "## Scores" not in (root / "out" / "README.md").read_text()


# -- better, worse, cannot tell -------------------------------------------------------------------------------------------


def judged(root: Path) -> api.Scored:
    """A variant of which 30 of 40 answers are right, and parents with 10 and 29."""
    build(root)
    for model, count in (("a", 10), ("b", 29)):
        answered(opened(root), model, [1.0] * count + [0.0] * (40 - count))
    return answered(opened(root), "mean", [1.0] * 30 + [0.0] * 10)


def test_a_difference_is_judged_by_the_samples_of_the_store(root: Path) -> None:
    judged(root)
    found, notes = deltas(root)
    assert [(delta.parent, delta.verdict.word, delta.verdict.why) for delta in found] == [
        ("a", "better", ""),
        ("b", "cannot tell", ""),
    ]
    assert notes == []
    assert {file.suffix for file in (root / "var/cache/samples").iterdir()} == {".npz"}
    for file in (root / "var/cache/samples").iterdir():
        file.write_bytes(b"damaged")
    again, _ = deltas(root)
    assert again == found


def test_the_card_and_the_page_of_the_scores_say_the_same(root: Path) -> None:
    scored = judged(root)
    row = "| demo | arc_easy | acc | 75.0 | ▲ +50.0 better than a; ≈ +2.5 cannot tell from b |\n"
    assert row in card_of(scored)
    assert row in merged_card(root)
    space = opened(root)
    (node,) = (node for node in build_graph(space).scores if node.model.title == "mean")
    known = KnownScores(space)
    parents = parents_of(space, node, scored.artifact, known)
    table = scores_metadata(scored, parents, None, StoredSamples(known, space.cache))["scores"]
    assert [(record.data["Δ a"], record.data["Δ b"]) for record in table.records] == [
        ("+50.0 better", "+2.5 cannot tell")
    ] * 2


def test_scores_without_samples_say_that_they_have_none(root: Path) -> None:
    build(root)
    answered(opened(root), "a", [1.0] * 10 + [0.0] * 30)
    score(root, 0.9)
    found, notes = deltas(root)
    assert [(delta.verdict.word, delta.verdict.why) for delta in found] == [
        ("cannot tell", "mean: no samples of arc_easy are kept")
    ]
    assert "a: cannot tell: mean: no samples of arc_easy are kept" in notes


# -- whoever shows it ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stale(root: Path) -> str:
    """The version of a scored variant whose recipe was edited since."""
    version = build(root)
    score(root, 0.5)
    recipe(root, "mean", OTHER)
    return version


def leaderboard_text(capsys: pytest.CaptureFixture[str]) -> str:
    show_leaderboard(as_json=False)
    return capsys.readouterr().out


def leaderboard_json(capsys: pytest.CaptureFixture[str]) -> str:
    show_leaderboard(as_json=True)
    return str(json.loads(capsys.readouterr().out)[0]["stale"])


def recipes_text(capsys: pytest.CaptureFixture[str]) -> str:
    show_recipes(as_json=False)
    return capsys.readouterr().out


def recipes_json(capsys: pytest.CaptureFixture[str]) -> str:
    show_recipes(as_json=True)
    return str(json.loads(capsys.readouterr().out)["recipes"][0]["stale"])


def store_text(capsys: pytest.CaptureFixture[str]) -> str:
    show_version("variants/mean", as_json=False)
    return capsys.readouterr().out


def store_json(capsys: pytest.CaptureFixture[str]) -> str:
    show_version("variants/mean", as_json=True)
    return str(json.loads(capsys.readouterr().out)["stale"])


def parquet(_: Any) -> str:
    artifact = api.rank(api.Workspace.open()).artifact
    assert artifact.path is not None
    return str(pd.read_parquet(artifact.path / "leaderboard.parquet")["stale"][0])


def markdown(_: Any) -> str:
    return api.rank(api.Workspace.open()).artifact.read_bytes("leaderboard.md").decode()


def page(_: Any) -> str:
    return api.rank(api.Workspace.open()).artifact.read_bytes("leaderboard.html").decode()


def dagster_leaderboard(_: Any) -> str:
    return str(leaderboard_metadata(api.rank(api.Workspace.open()), "").get("out_of_date"))


@pytest.mark.parametrize(
    "shown",
    [
        *(leaderboard_text, leaderboard_json, recipes_text, recipes_json, store_text, store_json),
        *(parquet, markdown, page, dagster_leaderboard),
    ],
)
def test_what_is_stale_is_shown_as_stale_with_both_recipes_and_the_version(
    shown: Callable[[Any], str], stale: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys)
    assert "the recipe changed: " in text
    assert f"{variant_code(opened(root).recipe('mean'), ())[:12]} now; this is version {stale[:12]}" in text


def test_scores_of_a_base_that_changed_are_shown_as_stale_in_the_store(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(root, 0.5, "a")
    change(root, "a", 3.0)
    api.rank(opened(root))
    show_version("scores/a/demo", as_json=False)
    assert "scores are of version " in capsys.readouterr().out


def test_dagster_says_what_scores_are_of_and_what_they_are_not_compared_with(root: Path) -> None:
    version = build(root)
    score(root, 0.4, "a")
    scored = score(root, 0.5)
    space = opened(root)
    (node,) = (node for node in build_graph(space).scores if node.model.title == "mean")
    metadata = scores_metadata(scored, parents_of(space, node, scored.artifact), "why")
    assert metadata["version"] == version
    assert "Δ a" in [column.name for column in metadata["scores"].schema.columns]
    assert metadata["no_difference"].startswith("not compared with b: no scores of the version it was made from, ")
    assert metadata["out_of_date"] == "why"


def test_in_a_browser_a_recipe_that_was_edited_and_not_built_is_seen_to_be_stale(
    stale: str, root: Path, chromium: Any
) -> None:
    artifact = api.rank(opened(root)).artifact
    assert artifact.path is not None
    view = chromium.new_page()
    view.goto((artifact.path / "leaderboard.html").as_uri())
    mark = view.locator("#board tr.stale th .stale")
    assert mark.is_visible()
    assert mark.locator("b").inner_text() == "out of date"
    assert (
        f"{variant_code(opened(root).recipe('mean'), ())[:12]} now; this is version {stale[:12]}" in mark.inner_text()
    )
    assert "1 out of date" in view.locator(".lead").inner_text()
    view.get_by_role("link", name="mean").click()
    assert view.locator("dialog p.stale").is_visible()
    assert "merge_method: linear" in view.locator("dialog pre").inner_text()
    assert "slerp" not in view.locator("dialog").inner_text()
