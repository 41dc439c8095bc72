"""Contract: a recipe that prunes by what layers do on a text depends on that measurement; it is made again when the text, its
settings or the model change, and not otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.errors import AnalysisError, PlanError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reloading import Changes
from merge_assets.recipe import TextSample
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.pipeline_support import PRUNED_BY_TEXT, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore")

BASE = Path(__file__).parents[2] / "examples" / "checkpoints" / "base"
LABEL = TextSample(file="words.txt").label
MEASURED = f"importance/activations-{LABEL}/checkpoints/three"


@pytest.fixture
def texts(project: Project) -> Project:
    (project.root / "words.txt").write_text("some words")
    project.recipe("pruned", PRUNED_BY_TEXT)
    return project


def test_a_variant_depends_on_the_measurement_and_that_on_the_model(texts: Project) -> None:
    specs = {spec.key.to_user_string(): spec for spec in texts.definitions().resolve_all_asset_specs()}
    assert {dep.asset_key.to_user_string() for dep in specs["variants/pruned"].deps} == {
        "base/checkpoints/three",
        MEASURED,
    }
    assert [dep.asset_key.to_user_string() for dep in specs[MEASURED].deps] == ["base/checkpoints/three"]


def test_metrics_of_one_text_share_a_measurement_and_other_settings_have_their_own(texts: Project) -> None:
    for name, change in {
        "angular": ("block_influence", "angular_distance"),
        "perplexity": ("block_influence", "perplexity"),
        "shorter": ("text: words.txt", "text: {file: words.txt, tokens: 100}"),
    }.items():
        texts.recipe(name, PRUNED_BY_TEXT.replace(*change))
    nodes = build_graph(texts.workspace()).importance
    assert sorted((node.kind, node.sample.tokens) for node in nodes) == [
        ("activations", 100),
        ("activations", 16384),
        ("perplexity", 16384),
    ]


@pytest.mark.slow
def test_other_words_in_the_file_are_measured_again_and_nothing_else_is(texts: Project, fake: FakeApi) -> None:
    daemon = Daemon.begun(texts)
    assert fake.calls.count("activations checkpoints/three") == fake.calls.count("pruned") == 1
    fake.calls.clear()
    os.utime(texts.root / "words.txt")
    daemon.reload()
    assert daemon.settle() == []
    (texts.root / "words.txt").write_text("other words")
    daemon.reload()
    assert {MEASURED, "variants/pruned"} <= set(daemon.settle())
    assert fake.calls.count("activations checkpoints/three") == fake.calls.count("pruned") == 1


def test_a_text_that_changes_is_seen_by_what_reloads_the_definitions(texts: Project) -> None:
    changes = Changes(texts.workspace().settings)
    changes.look()
    changes.has_read(changes.look())
    (texts.root / "words.txt").write_text("more words than before")
    assert changes.changed(changes.look()) == [texts.root / "words.txt"]


def test_without_the_text_the_definitions_load_and_the_plan_says_what_is_missing(texts: Project) -> None:
    (texts.root / "words.txt").unlink()
    keys = {spec.key.to_user_string() for spec in texts.definitions().resolve_all_asset_specs()}
    assert MEASURED in keys and not any(key.startswith("broken/") for key in keys)


# -- with real models --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    (root / "recipes").mkdir()
    passages = (BASE.parents[2] / "suites" / "tasks" / "data" / "manual.jsonl").read_text().splitlines()
    (root / "words.txt").write_text("\n".join(json.loads(line)["text"] for line in passages))
    for by, remove in (("block_influence", 2), ("angular_distance", 3), ("perplexity", 1)):
        (root / "recipes" / f"{by.replace('_', '-')}.yaml").write_text(
            f"merge_method: passthrough\nevaluate: []\nprune_layers:\n  model: {BASE}\n  by: {by}\n  remove: {remove}\n"
            "  text: {file: words.txt, tokens: 1024, length: 128}\n"
        )
    return root


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, device="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["block_influence", "angular_distance", "perplexity"])
def test_a_recipe_takes_the_layers_that_the_measurement_calls_least_needed(by: str, real: Path) -> None:
    space = opened(real)
    recipe = space.recipe(by.replace("_", "-"))
    template = recipe.prune_layers
    assert template is not None and template.text is not None and template.importance is not None
    reference = ModelReference.parse(str(BASE))
    made = api.measure_importance(space, reference, template.importance, template.text)
    figures = json.loads(made.artifact.read_bytes("importance.json"))["figures"]
    assert isinstance(template.remove, int)
    if by == "angular_distance":
        runs = {f["layer"]: f["value"] for f in figures if f["metric"] == by and f["count"] == template.remove}
        first = min(runs, key=runs.__getitem__)
        wanted = list(range(first, first + template.remove))
    else:
        values = {f["layer"]: f["value"] for f in figures if f["metric"] == by and f["layer"] is not None}
        wanted = sorted(sorted(values, key=values.__getitem__)[: template.remove])
    plan = api.plan(opened(real), recipe)
    assert [row["layer"] for row in plan.removed_layers] == wanted
    assert plan.layer_count == 16 - template.remove
    assert api.measure_importance(opened(real), reference, template.importance, template.text).reused


@pytest.mark.slow
def test_a_plan_without_the_measurement_of_these_words_says_how_to_make_it(real: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    text = (real / "recipes" / "block-influence.yaml").read_text()
    (tmp_path / "recipes" / "mine.yaml").write_text(text)
    with pytest.raises(AnalysisError, match=r"words\.txt: the text cannot be read: No such file"):
        api.plan(opened(tmp_path), opened(tmp_path).recipe("mine"))
    (tmp_path / "words.txt").write_text("other words")
    with pytest.raises(PlanError, match=r"merge-assets importance .* --kind activations --text words\.txt"):
        api.plan(opened(tmp_path), opened(tmp_path).recipe("mine"))
