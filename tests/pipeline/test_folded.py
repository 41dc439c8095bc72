"""Contract: a recipe that is not stored has no asset; what it is made of stands behind every variant made of it."""

from __future__ import annotations

import dagster as dg
import pytest

from merge_assets.errors import RecipeError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.selection import select
from tests.pipeline_support import MEAN, PRUNED, SECOND, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

UNSTORED = "materialize: false\n"


@pytest.fixture
def folded(project: Project) -> Project:
    """``second`` is made of ``mean``, which is not stored, and of ``three``."""
    project.recipe("mean", UNSTORED + MEAN)
    project.recipe("second", SECOND)
    return project


def specs(project: Project) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in project.definitions().resolve_all_asset_specs()}


def deps(spec: dg.AssetSpec) -> set[str]:
    return {dep.asset_key.to_user_string() for dep in spec.deps}


def test_it_has_no_asset_and_no_scores(folded: Project) -> None:
    found = specs(folded)
    assert {key for key in found if key.startswith(("variants/", "scores/", "broken/"))} == {
        "variants/second",
        "scores/quick/second",
        *(f"scores/quick/checkpoints/{name}" for name in ("one", "two", "three")),
    }


def test_what_is_made_of_it_depends_on_its_models(folded: Project) -> None:
    bases = {f"base/checkpoints/{name}" for name in ("one", "two", "three")}
    assert deps(specs(folded)["variants/second"]) == bases


def test_what_is_made_of_it_says_so(folded: Project) -> None:
    spec = specs(folded)["variants/second"]
    assert spec.metadata["folds_in"] == "mean"
    first, *_ = (spec.description or "").split("\n\n")
    assert first == "Merge of mean, checkpoints/three by linear."
    assert "Folds in: mean." in (spec.description or "")
    assert MEAN.strip() in (spec.description or "")


def test_stored_variants_inside_it_are_dependencies(project: Project) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", UNSTORED + SECOND)
    project.recipe("third", SECOND.replace("model: mean", "model: second"))
    assert deps(specs(project)["variants/third"]) == {"variants/mean", "base/checkpoints/three"}


def test_the_analysis_that_it_prunes_by_is_a_dependency(project: Project) -> None:
    project.recipe("pruned", UNSTORED + PRUNED)
    project.recipe("second", SECOND.replace("model: mean", "model: pruned"))
    assert deps(specs(project)["variants/second"]) == {"base/checkpoints/three", "snr/checkpoints/three"}


def test_nothing_is_analysed_for_a_recipe_that_nothing_uses(project: Project) -> None:
    project.recipe("pruned", UNSTORED + PRUNED)
    assert set(specs(project)) == {"base/checkpoints/three"}


def test_layers_of_it_cannot_be_chosen_by_an_analysis(folded: Project) -> None:
    folded.recipe("pruned", PRUNED.replace("checkpoints/three", "mean"))
    broken = specs(folded)["broken/pruned"]
    assert "mean is not stored (materialize: false), so it cannot be analysed" in (broken.description or "")
    dg.Definitions.validate_loadable(folded.definitions())


def test_a_missing_checkpoint_inside_breaks_both(folded: Project) -> None:
    folded.recipe("mean", UNSTORED + MEAN.replace("checkpoints/one", "checkpoints/nowhere/at-all"))
    assert {key for key in specs(folded) if not key.startswith("base/")} == {"broken/mean", "broken/second"}


def test_asking_to_build_it_names_what_it_is_folded_into(folded: Project) -> None:
    graph = build_graph(folded.workspace())
    with pytest.raises(RecipeError, match=r"mean is not stored .* folded into \(second\)"):
        select(graph, ["mean"])


def test_selecting_its_consumer_selects_its_models(folded: Project) -> None:
    selection = select(build_graph(folded.workspace()), ["second"])
    assert [base.title for base in selection.bases] == ["one", "three", "two"]


def test_a_recipe_on_the_hub_inside_needs_to_be_enabled(folded: Project) -> None:
    folded.recipe("mean", UNSTORED + MEAN.replace("checkpoints/one", "some-org/some-model"))
    assert specs(folded)["variants/second"].tags["automation"] == "off"


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        (lambda text: text.replace("weight: 1", "weight: 2"), True),
        (lambda text: text.removeprefix(UNSTORED), True),
        (lambda text: f"description: other words\n{text}", False),
    ],
    ids=["its parameters", "stored from now on", "its description"],
)
def test_the_code_version_covers_the_recipe_inside(edit: object, changes: bool, folded: Project) -> None:
    before = specs(folded)["variants/second"].code_version
    assert callable(edit)
    folded.recipe("mean", edit(UNSTORED + MEAN))
    assert (specs(folded)["variants/second"].code_version != before) == changes


def test_a_change_underneath_rebuilds_what_is_made_of_it(folded: Project, fake: FakeApi) -> None:
    daemon = Daemon(folded)
    daemon.observe()
    daemon.settle()
    assert "second" in fake.calls and "mean" not in fake.calls
    fake.calls.clear()
    folded.checkpoint("two", "other weights")
    daemon.observe()
    assert "variants/second" in daemon.settle()
    assert fake.calls.count("second") == 1


def test_an_edit_of_it_rebuilds_what_is_made_of_it(folded: Project, fake: FakeApi) -> None:
    daemon = Daemon(folded)
    daemon.observe()
    daemon.settle()
    folded.recipe("mean", UNSTORED + MEAN.replace("merge_method: linear", "merge_method: karcher"))
    daemon.reload()
    assert "variants/second" in daemon.settle()
