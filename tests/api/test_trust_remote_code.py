"""Code that comes with a checkpoint is run where a recipe or a suite names the model, without a network, and nowhere else.

The checkpoint is a tiny Llama under a name of its own, whose classes are those of transformers' Llama, so that what is right is
what the same weights give without any code. The code writes down that it ran, and what became of a call over the network.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api.rank import leaderboard_entries
from merge_assets.errors import EvaluationError, RecipeError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.results import scores_metadata, variant_metadata
from merge_assets.pipeline.scores import build_scores
from merge_assets.pipeline.variants import variant_spec
from merge_assets.plan.code import trusted_in
from merge_assets.recipe import load_recipe
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from tests.evaluation_support import write_checkpoint, write_suite

pytestmark = pytest.mark.slow

CODE = """
import socket
from transformers import LlamaConfig, LlamaForCausalLM

try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
    found = "reached"
except OSError as error:
    found = type(error).__name__
with open({trace!r}, "a") as trace:
    trace.write(found + "\\n")


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
UPSIDE_DOWN = """
    def forward(self, *arguments, **options):
        found = super().forward(*arguments, **options)
        found.logits = -found.logits
        return found
"""
AUTO = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
COPY = "merge_method: passthrough\nmodels: [{model: ./MODEL}]\n"
SUITE = """
include_path: tasks
tasks:
  - {task: tiny_perplexity, metric: byte_perplexity, higher_is_better: false, headline: false}
"""
NAMES_THE_KEY = (
    "needs code that comes with the checkpoint, which is not executed unless trust_remote_code, of the recipe or the suite, "
    "names the model"
)


@dataclass(frozen=True)
class Project:
    """A folder with ``own``, which needs its code, and ``plain``, the same weights without; recipes copy them."""

    root: Path
    listener: socket.socket

    def open(self, recipe: str = "", suite: str = "") -> api.Workspace:
        """The project, with more keys in the recipe of the copy of ``own`` and in the suite."""
        for name in ("own", "plain"):
            (self.root / f"recipes/copy-{name}.yaml").write_text(
                COPY.replace("MODEL", name) + (recipe if name == "own" else "")
            )
        (self.root / "suites/tiny.yaml").write_text(SUITE + suite)
        return api.Workspace.open(Settings(root=self.root, device="cpu", default_suites=["tiny"]))

    def traces(self) -> list[str]:
        """What became of the calls of the code, each time that it was run since this was asked."""
        file = self.root / "trace"
        lines = file.read_text().splitlines() if file.is_file() else []
        file.unlink(missing_ok=True)
        return lines

    def write_code(self, folder: str, auto: dict[str, str] = AUTO, more: str = "") -> None:
        code = CODE.format(port=self.listener.getsockname()[1], trace=str(self.root / "trace"))
        config = json.loads((self.root / folder / "config.json").read_text())
        config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": auto}
        (self.root / folder / "config.json").write_text(json.dumps(config))
        (self.root / folder / "modeling_own.py").write_text(code + more)


@pytest.fixture
def project(tmp_path: Path, plain: Path) -> Iterator[Project]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        made = Project(tmp_path, listener)
        for name in ("own", "plain"):
            shutil.copytree(plain, tmp_path / name)
        made.write_code("own")
        (tmp_path / "recipes").mkdir()
        write_suite(tmp_path / "suites", documents=4)
        yield made
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("plain") / "model")


def loads(built: api.Built) -> api.Check:
    (check,) = (one for one in built.checks if one.name == "loads_and_generates")
    return check


def values(scored: api.Scored) -> list[float]:
    return [row.value for row in scored.scores.tasks]


def test_without_the_key_nothing_of_it_runs_and_the_key_is_named(project: Project) -> None:
    space = project.open()
    check = loads(api.build(space, space.recipe("copy-own")))
    assert check.metadata == {"tried": False}
    assert NAMES_THE_KEY in check.description
    for reference in ("./own", "copy-own"):
        with pytest.raises(EvaluationError, match=NAMES_THE_KEY) as caught:
            api.score(space, ModelReference(reference), "tiny")
        assert "\n" not in str(caught.value)
    with pytest.raises(EvaluationError, match=NAMES_THE_KEY):
        api.evaluate(space, project.root / "own", "tiny")
    assert project.traces() == []


def valued(space: api.Workspace) -> list[str]:
    """Models with a value; of the others the leaderboard has why there is none."""
    return [entry.model for entry in leaderboard_entries(space) if any(one.tasks for one in entry.scores)]


def test_a_recipe_that_names_the_model_has_its_variant_loaded_and_scored_by_the_code(project: Project) -> None:
    space = project.open(recipe="trust_remote_code: [./own]\n")
    built, other = (api.build(space, space.recipe(f"copy-{name}")) for name in ("own", "plain"))
    assert "generates, by code of ./own" in loads(built).description
    assert loads(built).metadata == loads(other).metadata
    assert loads(built).metadata["text"]
    traces = project.traces()
    assert traces
    assert "reached" not in traces
    scored, right = (api.score(space, ModelReference(f"copy-{name}"), "tiny") for name in ("own", "plain"))
    assert values(scored) == values(right)
    assert project.traces()
    assert (scored.scores.trust_remote_code, right.scores.trust_remote_code) == (True, False)
    recipe = space.recipe("copy-own")
    shown = variant_metadata(recipe, built, trusted_in(space.book, recipe))["trust_remote_code"]
    assert shown.startswith("modeling_own.py of ./own: run to check and evaluate")
    card = built.artifact.read_bytes("README.md").decode()
    assert "`modeling_own.py` of `./own`: code that this model asks for" in card
    assert "lets it be run" in card
    assert "may have been run" in scores_metadata(scored, [], None)["trust_remote_code"]
    assert "trust_remote_code" not in scores_metadata(right, [], None)
    assert "trust_remote_code=True" in (scored.artifact.read_bytes(_result(scored))).decode()

    with pytest.raises(EvaluationError, match=NAMES_THE_KEY):  # the recipe's key is of its variant, not of the model
        api.score(space, ModelReference("./own"), "tiny")
    assert project.traces() == []

    untrusting = project.open()
    with pytest.raises(EvaluationError, match=NAMES_THE_KEY):  # what was found by the code does not stand any more
        api.score(untrusting, ModelReference("copy-own"), "tiny")
    assert valued(untrusting) == ["copy-plain"]
    trusting = project.open(recipe="trust_remote_code: [./own]\n")
    assert api.score(trusting, ModelReference("copy-own"), "tiny").reused
    assert valued(trusting) == ["copy-own", "copy-plain"]
    assert project.traces() == []


def _result(scored: api.Scored) -> str:
    return next(name for name in scored.artifact.manifest.files if name.endswith("result.json"))


def test_a_suite_that_names_the_model_has_it_scored_by_the_code_that_its_fingerprint_covers(project: Project) -> None:
    space = project.open(suite="trust_remote_code: [own]\n")  # a folder is the same however it is written
    scored, right = (api.score(space, ModelReference(f"./{name}"), "tiny") for name in ("own", "plain"))
    assert values(scored) == values(right)
    traces = project.traces()
    assert traces
    assert "reached" not in traces
    assert space.suites["tiny"].digest == project.open().suites["tiny"].digest, "it is no matter to other models"

    project.write_code("own", more=UPSIDE_DOWN)
    again = api.score(project.open(suite="trust_remote_code: [own]\n"), ModelReference("./own"), "tiny")
    assert not again.reused
    assert again.scores.fingerprint != scored.scores.fingerprint
    assert values(again) != values(scored)


@pytest.mark.parametrize(
    ("auto", "says"),
    [
        (lambda name: f"evil/repository--{name}", "code of another repository, evil/repository, which is not executed"),
        (lambda name: f"sub/{name}", "does not lie beside its config.json"),
    ],
)
def test_code_that_is_not_the_models_own_never_runs(auto: Callable[[str], str], says: str, project: Project) -> None:
    shutil.copytree(project.root / "own", project.root / "own/sub")
    project.write_code("own", {key: auto(name) for key, name in AUTO.items()})
    space = project.open(suite="trust_remote_code: [./own]\n")
    with pytest.raises(EvaluationError, match=says) as caught:
        api.score(space, ModelReference("./own"), "tiny")
    assert "\n" not in str(caught.value)
    assert project.traces() == []


def test_it_is_shown_with_the_assets(project: Project) -> None:
    space = project.open(recipe="trust_remote_code: [./own]\n", suite="trust_remote_code: [./plain]\n")
    graph = build_graph(space)
    (variant,) = (node for node in graph.variants if node.recipe.name == "copy-own")
    assert "May run code of ./own (`trust_remote_code`)" in str(variant_spec(variant).description)
    described = {
        str(node.model.reference): str(build_scores(space, node, f"op{number}").get_asset_spec(node.key).description)
        for number, node in enumerate(graph.scores)
    }
    assert "May run code of ./own (`trust_remote_code`)" in described["copy-own"]
    assert "May run code of ./plain (`trust_remote_code`)" in described["./plain"]
    assert "trust_remote_code" not in described["./own"] + described["copy-plain"]


def test_a_recipe_names_models_of_its_own_alone(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(COPY + "trust_remote_code: [./other]\n")
    with pytest.raises(
        RecipeError, match=r"trust_remote_code\[0\].*\./other is no model of this recipe; it names \./MODEL"
    ):
        load_recipe(tmp_path / "r.yaml")
