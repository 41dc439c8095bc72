"""Every setting, and every word that a setting may take, does something that can be seen from outside the settings.

The walk takes all settings from the schema and fails where one has no example.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from merge_assets import api
from merge_assets.api.preflight import endpoint_of
from merge_assets.engine.memory import Room
from merge_assets.errors import CheckpointError, MergeAssetsError
from merge_assets.identity import variant_line
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.executor import choose_executor
from merge_assets.pipeline.graph import build_graph
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.store import foreign, reuse
from merge_assets.store.place.factory import open_place
from merge_assets.workspace import Models
from tests.recipe.test_schema_keys import words
from tests.synthetic import write_llama

Look = Callable[[api.Workspace], object]
SLERP = "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.5}\n"
SUITE = "tasks: [{task: arc_easy, metric: acc}]\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for folder in (root, root / "elsewhere"):
        for seed, name in enumerate("ab"):
            write_llama(folder / name, 2, seed=seed)
    for folder, name in (("recipes", "mix"), ("more", "other")):
        (root / folder).mkdir()
        (root / folder / f"{name}.yaml").write_text(SLERP)
    (root / "recipes" / "far.yaml").write_text("merge_method: passthrough\nmodels: [{model: org/far}]\nevaluate: []\n")
    for folder, name in (("suites", "quick"), ("suites", "long"), ("own", "mine")):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}.yaml").write_text(SUITE)
    pickled = root / "pickled"
    write_llama(pickled, 2)
    (pickled / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.ones(16)}, pickled / "pytorch_model.bin", pickle_module=pickle)
    return root


# -- where to look -----------------------------------------------------------------------------------------------------


def place(workspace: api.Workspace) -> object:
    return workspace.names.identify(ModelReference("a")), workspace.names.local_path(ModelReference("a"))


def graph(workspace: api.Workspace) -> object:
    made = build_graph(workspace)
    scores = [(str(node.key), node.automated) for node in made.scores]
    return sorted(workspace.book.recipes), sorted(workspace.suites), sorted(map(str, made.automated_keys())), scores


def answering(workspace: api.Workspace) -> object:
    """The server that suites of backend endpoint ask."""
    return endpoint_of(workspace)


def merged(workspace: api.Workspace) -> object:
    """Threads, device and tile of a merge, or its error."""
    from merge_assets.engine import execute

    seen: list[object] = []
    room = execute.cpu_room

    def spied(*arguments: Any) -> Room:
        seen.append(room(*arguments))
        return room(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "cpu_room", spied)
        try:
            report = api.merge(workspace, workspace.recipe("mix"), workspace.settings.root / "out", overwrite=True)
        except MergeAssetsError as error:
            return str(error)
    return report.threads, report.device, seen


def shards(workspace: api.Workspace) -> object:
    return len(api.plan(workspace, workspace.recipe("mix")).shards)


def hub(workspace: api.Workspace) -> object:
    """What requests to the Hub would be made with."""
    return vars(workspace.hub._client)


def pickles(workspace: api.Workspace) -> object:
    try:
        return sorted(Models(workspace).headers(ModelReference("pickled")).checkpoint.tensors)
    except MergeAssetsError as error:
        return str(error)


def links(workspace: api.Workspace) -> object:
    model, elsewhere = workspace.settings.root / "linked", workspace.settings.root / "link-target"
    if not model.exists():
        shutil.copytree(workspace.settings.root / "a", model)
        elsewhere.mkdir()
        (model / "model.safetensors").rename(elsewhere / "weights")
        (model / "model.safetensors").symlink_to(elsewhere / "weights")
    try:
        return sorted(Models(workspace).headers(ModelReference("linked")).checkpoint.tensors)
    except MergeAssetsError as error:
        return str(error)


def store(workspace: api.Workspace) -> object:
    return workspace.store.url, vars(workspace.store.place).get("_fs")


def elsewhere(workspace: api.Workspace) -> object:
    """The options with which the file system of a model at a URL is opened."""
    file_system = fsspec.filesystem("memory")
    file_system.pipe_file("/models/a/config.json", b"{}")
    opened: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "open_place", lambda root, options: opened.append(options) or open_place(root, options))
        with pytest.raises(CheckpointError):  # it has no weights
            Models(workspace).headers(ModelReference("memory://models/a"))
    file_system.rm("/models", recursive=True)
    return opened


def caches(workspace: api.Workspace) -> object:
    """Where digests land, and how much of a bucket is kept."""
    Models(workspace).fetch(ModelReference("a"))
    kept = vars(workspace.stored._cache)
    return [file.parent for file in sorted(workspace.settings.root.rglob("digests/*"))], kept["_folder"], kept["_limit"]


def checking(workspace: api.Workspace) -> object:
    """The limits within which transformers is asked about a config, and a model is evaluated."""
    kept: list[object] = []

    def spied(*_: object, limits: object, **__: object) -> Any:
        kept.append(limits)
        raise MergeAssetsError("not now")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["merge_assets.api.plan"], "check_agreement", spied)
        patch.setattr("merge_assets.evaluation.runner.evaluate_suite", spied)
        with pytest.raises(MergeAssetsError, match="not now"):
            api.plan(workspace, workspace.recipe("mix"))
        with pytest.raises(MergeAssetsError, match="not now"):
            api.score(workspace, ModelReference("a"), "quick")
    assert kept[0] == kept[1]
    return kept


def executor(workspace: api.Workspace) -> object:
    return choose_executor(workspace.settings).name


def gate(workspace: api.Workspace) -> object:
    """The gate that `ui` puts before Dagster's web server: the names it knows, its login, whether it lets changes through."""
    from merge_assets.cli import pipeline
    from merge_assets.pipeline.front import serve, warden

    served: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_settings", lambda: workspace.settings)
        patch.setattr(pipeline, "_open_home", lambda settings: None)
        patch.setattr(warden, "watched", lambda command: command())
        patch.setattr(serve, "serve", lambda settings, serving, on_ready: served.append((settings, serving)))
        patch.setattr(serve, "Gate", lambda app, names, *, login, read_only: (vars(names), login is None, read_only))
        pipeline.run_ui("127.0.0.1", 3000, None, daemon=False, read_only=False, login=True)
        return serve.guarded(lambda *_: None, *served[0])


def sensors(workspace: api.Workspace) -> object:
    return sorted(sensor.name for sensor in build_definitions(workspace).sensors or [])


def reading(workspace: api.Workspace) -> object:
    """Pieces that are read before they are reused."""
    recipe = workspace.recipe("mix")
    plan = api.build(workspace, recipe).plan
    read: list[object] = []
    digest = reuse._digest

    def spied(place: Any, origin: Any) -> str:
        read.append(origin.piece.name)
        return digest(place, origin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse, "_digest", spied)
        origins = workspace.store.origins({tensor.key for tensor in plan.tensors}, variant_line(recipe.name))
        workspace.store.sound({origin.piece.name: origin for origin in origins.values()}, workspace.settings.verify)
    return len(read)


def looking(workspace: api.Workspace) -> object:
    """Whether inputs are hashed as they are read, and whether their files are looked at again at the end."""
    from merge_assets.engine.files import InputFiles
    from merge_assets.engine.witness import ReadThrough

    seen: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((ReadThrough, "saw"), (InputFiles, "check_unchanged")):
            method = getattr(owner, name)
            patch.setattr(owner, name, lambda *given, method=method, name=name: (seen.add(name), method(*given))[1])
        api.build(workspace, workspace.recipe("mix"), force=True)
    return seen


def searched(workspace: api.Workspace) -> object:
    """Where trials are kept."""
    from merge_assets.recipe import Search
    from merge_assets.search.trials import Trials

    workspace.settings.path("var").mkdir(exist_ok=True)
    search = Search.model_validate({"space": {"seed": [1, 2]}, "objective": {"size": "parameters"}})
    Trials(workspace.settings.searches_url, "study", search, (False,)).ask()
    return sorted(str(file.relative_to(workspace.settings.root)) for file in workspace.settings.root.rglob("*.db"))


EXAMPLES: dict[str, tuple[Look, dict[str, Any], dict[str, Any]]] = {
    "root": (place, {}, {"root": "elsewhere"}),
    "recipes": (graph, {}, {"recipes": ["more"]}),
    "suites": (graph, {}, {"suites": ["own"]}),
    "store": (store, {}, {"store": "other"}),
    "store_options": (
        store,
        {"store": "memory://one"},
        {"store": "memory://one", "store_options": {"use_listings_cache": True}},
    ),
    "model_options": (
        elsewhere,
        {"store": "memory://one"},
        {"store": "memory://one", "model_options": {"memory": {"use_listings_cache": True}}},
    ),
    "device": (merged, {"device": "cpu"}, {"device": "cuda"}),
    "device: auto": (merged, {"device": "auto"}, {"device": "cuda"}),
    "device: cpu": (merged, {"device": "cpu"}, {"device": "cuda"}),
    "device: cuda": (merged, {"device": "cuda"}, {"device": "cpu"}),
    "executor": (executor, {}, {"executor": "in_process"}),
    "executor: in_process": (executor, {"executor": "in_process"}, {"executor": "multiprocess"}),
    "executor: multiprocess": (executor, {"executor": "multiprocess"}, {"executor": "kubernetes"}),
    "executor: kubernetes": (executor, {"executor": "kubernetes"}, {"executor": "in_process"}),
    "threads": (merged, {"threads": 1}, {"threads": 2}),
    "memory": (merged, {"memory": "1MB"}, {"memory": "2MB"}),
    "shard_size": (shards, {}, {"shard_size": 4000}),
    "hub_endpoint": (hub, {}, {"hub_endpoint": "http://127.0.0.1:9"}),
    "hub_token": (hub, {"hub_token": "one"}, {"hub_token": "other"}),
    "hub_cache": (hub, {}, {"hub_cache": "hub"}),
    "searches": (searched, {}, {"searches": "other.db"}),
    "default_suites": (graph, {}, {"default_suites": ["long"]}),
    "automate": (graph, {}, {"automate": []}),
    "enabled": (graph, {}, {"enabled": ["far"]}),
    "cache_dir": (caches, {}, {"cache_dir": "cache"}),
    "cache_size": (caches, {}, {"cache_size": "1GB"}),
    "ui_token": (gate, {}, {"ui_token": "a token of some length"}),
    "ui_hosts": (gate, {}, {"ui_hosts": ["merges.example.org"]}),
    "ui_read_only": (gate, {}, {"ui_read_only": True}),
    "verify_inputs": (looking, {}, {"verify_inputs": "off"}),
    "verify_inputs: full": (looking, {"verify_inputs": "full"}, {"verify_inputs": "stat"}),
    "verify_inputs: stat": (looking, {"verify_inputs": "stat"}, {"verify_inputs": "off"}),
    "verify_inputs: off": (looking, {"verify_inputs": "off"}, {"verify_inputs": "full"}),
    "verify": (reading, {"verify": "full"}, {"verify": "off"}),
    "verify: full": (reading, {"verify": "full"}, {"verify": "sampled"}),
    "verify: sampled": (reading, {"verify": "sampled"}, {"verify": "off"}),
    "verify: off": (reading, {"verify": "off"}, {"verify": "full"}),
    "load_seconds": (checking, {}, {"load_seconds": 5}),
    "answer_seconds": (checking, {}, {"answer_seconds": 5}),
    "silence_seconds": (checking, {}, {"silence_seconds": 5}),
    "model_memory": (checking, {}, {"model_memory": "1GB"}),
    "allow_unconfined": (checking, {}, {"allow_unconfined": True}),
    "allow_pickle": (pickles, {}, {"allow_pickle": True}),
    "link_targets": (links, {}, {"link_targets": ["link-target"]}),
    "endpoint": (answering, {}, {"endpoint": "http://127.0.0.1:9/v1"}),
    "endpoint_model": (answering, {}, {"endpoint_model": "org/{name}"}),
    "endpoint_key": (answering, {"endpoint_key": "one"}, {"endpoint_key": "other"}),
    "endpoint_serve": (answering, {}, {"endpoint_serve": "vllm serve {model} --port {port}"}),
    "alerts": (sensors, {}, {"alerts": {"email_to": ["team@example.org"]}}),
}


def walk() -> Iterator[str]:
    described = Settings.model_json_schema()["properties"]
    for name in Settings.model_fields:
        yield name
        yield from (f"{name}: {word}" for word in words(described[name]))


def test_every_setting_and_every_word_has_an_example() -> None:
    assert sorted(walk()) == sorted(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_does_something(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look, one, other = EXAMPLES[name]
    if look is merged and torch.cuda.is_available():
        pytest.skip("the examples tell CUDA from the CPU by its absence")
    monkeypatch.chdir(project)
    seen = []
    for settings in (one, other):
        given = {"root": project, "default_suites": ["quick"], "device": "cpu", **settings}
        given["root"] = project / given["root"]
        seen.append(look(api.Workspace.open(Settings(**given))))
    assert seen[0] != seen[1]
