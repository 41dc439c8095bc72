"""Building into the store and into a folder: reuse, descendants, checks, and folders that every loader reads."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Mamba2Config, Mamba2ForCausalLM

from merge_assets import api
from merge_assets.errors import CheckpointError, EngineError, PlanError, RecipeError, Stopped
from merge_assets.plan.difference import difference
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.variant import checks
from merge_assets.work import Work
from tests.commands import command_environment
from tests.synthetic import read_tensors, write_checkpoint, write_llama

REPOSITORY = Path(__file__).parents[2]
BASE = REPOSITORY / "examples" / "checkpoints" / "base"


def workspace(root: Path, **recipes: str) -> api.Workspace:
    (root / "recipes").mkdir(exist_ok=True)
    for name, text in recipes.items():
        (root / "recipes" / f"{name.replace('_', '-')}.yaml").write_text(text)
    return api.Workspace.open(Settings(root=root))


def build(root: Path, name: str) -> api.Built:
    space = api.Workspace.open(Settings(root=root))
    return api.build(space, space.recipe(name))


LINEAR = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_llama(tmp_path / "a", seed=1)
    write_llama(tmp_path / "b", seed=2)
    return tmp_path


def test_a_second_build_reuses_the_version(project: Path) -> None:
    workspace(project, mean=LINEAR)
    first, second = build(project, "mean"), build(project, "mean")
    assert not first.reused
    assert second.reused
    assert second.artifact.version == first.artifact.version
    assert second.checks == first.checks


def test_a_description_changes_nothing_and_a_weight_everything(project: Path) -> None:
    workspace(project, mean=LINEAR)
    first = build(project, "mean")
    workspace(project, mean=LINEAR + "description: other words\n")
    assert build(project, "mean").reused
    workspace(project, mean=LINEAR.replace("weight: 3", "weight: 2"))
    changed = build(project, "mean")
    assert not changed.reused
    assert changed.artifact.version != first.artifact.version
    workspace(project, mean=LINEAR)
    assert build(project, "mean").artifact.version == first.artifact.version


def test_changed_weights_of_an_input_are_noticed(project: Path) -> None:
    workspace(project, mean=LINEAR)
    first = build(project, "mean")
    file = project / "a" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-32:] = bytes(32)
    file.write_bytes(raw)
    second = build(project, "mean")
    assert not second.reused
    assert second.artifact.version != first.artifact.version


def test_the_version_is_that_of_the_bytes_wherever_they_lie(project: Path) -> None:
    workspace(project, mean=LINEAR, same=LINEAR.replace("weight: 3", "weight: 3.0"), other=LINEAR + "dtype: float32\n")
    mean = build(project, "mean")
    elsewhere = api.Workspace.open(Settings(root=project, store=str(project / "elsewhere")))
    assert api.build(elsewhere, elsewhere.recipe("mean")).artifact.version == mean.artifact.version
    assert build(project, "same").artifact.version == mean.artifact.version
    assert build(project, "other").artifact.version != mean.artifact.version


def test_a_variant_of_a_variant_is_planned_before_and_built_after_it(project: Path) -> None:
    chain = (
        "merge_method: linear\nmodels: [{model: mean, parameters: {weight: 1}}, {model: a, parameters: {weight: 1}}]\n"
    )
    space = workspace(project, mean=LINEAR, chain=chain)
    assert api.plan(space, space.recipe("chain")).layer_count == 4
    with pytest.raises(CheckpointError, match=r"merge-assets build mean"):
        build(project, "chain")
    mean = build(project, "mean")
    chained = build(project, "chain")
    assert chained.artifact.manifest.fingerprints["mean"] == mean.artifact.version
    assert chained.plan.models[0].fingerprint == mean.artifact.version
    resolved = yaml.safe_load(chained.artifact.read_bytes("mergekit_config.yml"))
    assert [Path(entry["model"]).parts[-2:] for entry in resolved["models"]] == [
        ("mean", mean.artifact.version),
        ("a",),
    ]


def test_merging_a_variant_of_a_variant_builds_what_is_missing(project: Path) -> None:
    chain = "merge_method: linear\nmodels: [{model: mean}, {model: a}]\nparameters: {weight: 1}\ndtype: float32\n"
    space = workspace(project, mean=LINEAR + "dtype: float32\n", chain=chain)
    api.merge(space, space.recipe("chain"), project / "out", device="cpu")
    a, b, result = (read_tensors(project / name) for name in ("a", "b", "out"))
    for name, tensor in result.items():
        torch.testing.assert_close(tensor, (a[name].float() / 4 + 3 * b[name].float() / 4 + a[name].float()) / 2)


@pytest.mark.slow
def test_pruning_reads_the_stored_analysis_of_exactly_these_bytes(tmp_path: Path) -> None:
    rows = torch.eye(4, 16)
    low = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0])) @ rows
    edit = {f"model.layers.{n}.self_attn.v_proj.weight": (rows if n == 2 else low).bfloat16() for n in range(4)}
    write_llama(tmp_path / "m", edit=edit)
    prune = "merge_method: passthrough\nprune_layers: {model: m, by: snr, tensor: v_proj, remove: infinite}\n"
    space = workspace(tmp_path, pruned=prune)
    with pytest.raises(PlanError, match="needs the layer analysis"):
        build(tmp_path, "pruned")
    assert not api.analyse(space, ModelReference("m")).reused
    assert api.analyse(space, ModelReference("m")).reused
    built = build(tmp_path, "pruned")
    assert built.plan.layer_count == 3
    assert [figure["layer"] for figure in built.plan.removed_layers] == [2]
    assert "| 2 | model.layers.2.self_attn.v_proj.weight | ∞ |" in built.artifact.read_bytes("README.md").decode()
    file = tmp_path / "m" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(PlanError, match="needs the layer analysis"):
        build(tmp_path, "pruned")


@pytest.fixture(scope="module")
def upscaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deeper variant of the demo base, built into a folder in several shards."""
    root = tmp_path_factory.mktemp("real")
    space = workspace(root, deep=f"merge_method: passthrough\ndepth_upscale: {{model: {BASE}, overlap: 4}}\n")
    api.merge(space, space.recipe("deep"), root / "deep", shard_size=1_000_000)
    return root / "deep"


def test_the_folder_loads_without_missing_or_unexpected_keys_and_generates(upscaled: Path) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(upscaled, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.num_hidden_layers == 24
    tokenizer = AutoTokenizer.from_pretrained(upscaled)
    output = model.generate(**tokenizer("And God said", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert output.shape[1] > 5


def test_the_folder_has_all_that_belongs_to_a_model(upscaled: Path) -> None:
    names = {path.name for path in upscaled.iterdir()}
    assert {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("model.safetensors.index.json", "recipe.yaml", "mergekit_config.yml", "plan.json", "README.md"),
    } <= names
    index = json.loads((upscaled / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {name for name in names if name.endswith(".safetensors")}
    assert len(set(index["weight_map"].values())) > 1
    card = (upscaled / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| 12–23 |" in card
    assert "depth_upscale" in card


def test_checks_pass_for_a_good_variant_and_fail_for_a_damaged_one(upscaled: Path, tmp_path: Path) -> None:
    space = workspace(tmp_path, deep=f"merge_method: passthrough\ndepth_upscale: {{model: {BASE}, overlap: 4}}\n")
    plan = api.plan(space, space.recipe("deep"), shard_size=1_000_000)
    outcomes = {outcome.name: outcome for outcome in checks.check_variant(upscaled, plan, {})}
    assert tuple(outcomes) == checks.CHECKS
    assert all(outcome.passed for outcome in outcomes.values()), outcomes
    config = json.loads((upscaled / "config.json").read_text())
    (upscaled / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 25}))
    try:
        damaged = {outcome.name: outcome for outcome in checks.check_variant(upscaled, plan, {})}
    finally:
        (upscaled / "config.json").write_text(json.dumps(config, indent=2))
    assert not damaged["config_agrees"].passed
    assert "model.layers.24" in damaged["config_agrees"].description
    assert not damaged["loads_and_generates"].passed


def test_whether_config_and_tensors_agree_is_asked_once_for_the_same_config_names_and_shapes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(checks, "loading_report", lambda config, *_: asked.append(config) or {})
    workspace(project, mean=LINEAR)
    first = build(project, "mean")
    assert len(asked) == 1
    shutil.rmtree(project / "b")
    write_llama(project / "b", seed=3)
    second = build(project, "mean")
    assert second.artifact.version != first.artifact.version
    assert second.checks[1] == first.checks[1]
    assert len(asked) == 1
    config = json.loads((project / "a" / "config.json").read_text())
    (project / "a" / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))
    build(project, "mean")
    assert len(asked) == 2


def test_nan_in_copied_bytes_is_found(tmp_path: Path) -> None:
    bad = torch.ones(16, 16).bfloat16()
    bad[0, 0] = float("nan")
    write_llama(tmp_path / "m", edit={"model.layers.0.self_attn.q_proj.weight": bad})
    workspace(tmp_path, copy="merge_method: passthrough\nmodels: [{model: m}]\n")
    outcome = build(tmp_path, "copy").checks[0]
    assert (outcome.name, outcome.passed) == ("finite", False)
    assert outcome.metadata == {"model.layers.0.self_attn.q_proj.weight": 1}


# -- recipes that are not stored ---------------------------------------------------------------------------------------

CHAIN = "merge_method: linear\nmodels: [{model: mean, parameters: {weight: 1}}, {model: a, parameters: {weight: 1}}]\n"
UNSTORED = "materialize: false\n"


def test_a_recipe_that_is_not_stored_is_built_inside_its_consumer(project: Path) -> None:
    space = workspace(project, mean=UNSTORED + LINEAR, chain=CHAIN + "dtype: float32\n")
    built = build(project, "chain")
    assert space.store.versions("variants/mean") == []
    assert set(built.artifact.manifest.fingerprints) == {"a", "b"}
    assert {model.reference: bool(model.fingerprint) for model in built.plan.models} == {
        "mean": False,
        "a": True,
        "b": True,
    }
    a, b, result = (
        read_tensors(folder)
        for folder in (project / "a", project / "b", built.artifact.directory(project / "var" / "cache"))
    )
    for name, tensor in result.items():
        expected = (a[name].double() / 4 + 3 * b[name].double() / 4 + a[name].double()) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)
    assert build(project, "chain").reused


def test_editing_what_is_folded_in_changes_the_variant(project: Path) -> None:
    workspace(project, mean=UNSTORED + LINEAR, chain=CHAIN)
    first = build(project, "chain")
    workspace(project, mean=UNSTORED + LINEAR.replace("weight: 3", "weight: 2"))
    changed = build(project, "chain")
    assert not changed.reused
    assert changed.artifact.version != first.artifact.version
    workspace(project, mean=f"{UNSTORED}description: words\n{LINEAR}")
    assert build(project, "chain").artifact.version == first.artifact.version


def test_changed_weights_under_what_is_folded_in_are_noticed(project: Path) -> None:
    workspace(project, mean=UNSTORED + LINEAR, chain=CHAIN)
    first = build(project, "chain")
    file = project / "b" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-32:] = bytes(32)
    file.write_bytes(raw)
    assert build(project, "chain").artifact.version != first.artifact.version


def test_building_what_is_not_stored_names_what_it_is_folded_into(project: Path) -> None:
    space = workspace(project, mean=UNSTORED + LINEAR, chain=CHAIN)
    with pytest.raises(RecipeError, match=r"mean is not stored .* folded into \(chain\).*merge-assets merge mean OUT"):
        api.build(space, space.recipe("mean"))
    lonely = workspace(project, chain=UNSTORED + CHAIN)
    with pytest.raises(RecipeError, match="no stored recipe is made of it"):
        api.build(lonely, lonely.recipe("mean"))


def test_what_is_not_stored_can_be_merged_into_a_folder(project: Path) -> None:
    space = workspace(project, mean=UNSTORED + LINEAR, stored=LINEAR)
    for name in ("mean", "stored"):
        api.merge(space, space.recipe(name), project / "out" / name, device="cpu")
    ours, expected = (read_tensors(project / "out" / name) for name in ("mean", "stored"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_stored_recipes_under_one_that_is_not_are_built_first(project: Path) -> None:
    middle = UNSTORED + CHAIN
    last = "merge_method: linear\nmodels: [{model: middle}, {model: b}]\nparameters: {weight: 1}\n"
    space = workspace(project, mean=LINEAR, middle=middle, last=last)
    api.merge(space, space.recipe("last"), project / "out", device="cpu")
    assert len(space.store.versions("variants/mean")) == 1
    assert space.store.versions("variants/middle") == []


@pytest.mark.slow
def test_pruning_inside_reads_the_stored_analysis_of_exactly_these_bytes(tmp_path: Path) -> None:
    rows = torch.eye(4, 16)
    low = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.0])) @ rows
    edit = {f"model.layers.{n}.self_attn.v_proj.weight": (rows if n == 2 else low).bfloat16() for n in range(4)}
    write_llama(tmp_path / "m", edit=edit)
    prune = "merge_method: passthrough\nprune_layers: {model: m, by: snr, tensor: v_proj, remove: infinite}\n"
    scale = "merge_method: passthrough\nmodels: [{model: pruned, parameters: {scale: 2}}]\n"
    space = workspace(tmp_path, pruned=UNSTORED + prune, scaled=scale)
    with pytest.raises(PlanError, match="needs the layer analysis"):
        build(tmp_path, "scaled")
    api.analyse(space, ModelReference("m"))
    assert build(tmp_path, "scaled").plan.layer_count == 3
    write_llama(tmp_path / "other", edit=edit, seed=1)
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "m" / "model.safetensors")
    with pytest.raises(PlanError, match="needs the layer analysis"):
        build(tmp_path, "scaled")


def test_what_is_not_stored_is_not_ranked(project: Path) -> None:
    """Nor does a variant count that was stored before; bases inside are parents as any."""
    from merge_assets.api.rank import _models

    space = workspace(project, mean=UNSTORED + LINEAR, chain=CHAIN)
    assert [str(reference) for reference in _models(space, None)] == ["a", "b", "chain"]
    assert sorted(api.build(space, space.recipe("chain")).artifact.manifest.fingerprints) == ["a", "b"]


# -- infinities in a config ----------------------------------------------------------------------------------------------


@pytest.fixture
def unlimited(tmp_path: Path) -> Path:
    """Mamba2 with a config as transformers 4 wrote it, and a key that no library knows."""
    config = Mamba2Config(
        hidden_size=16,
        state_size=4,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        num_hidden_layers=2,
        vocab_size=32,
        chunk_size=8,
    )
    Mamba2ForCausalLM(config).save_pretrained(tmp_path / "a")
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    written |= {"time_step_limit": [0.0, math.inf], "floor": -math.inf, "odd": math.nan}
    (tmp_path / "a" / "config.json").write_text(json.dumps(written))
    (tmp_path / "a" / "generation_config.json").write_text('{"eos_token_id": 2, "x": -Infinity}')
    return tmp_path


STACKED = (
    "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}, "
    "{sources: [{model: a, layer_range: [1, 2]}]}]\n"
)


def test_infinities_of_a_config_are_carried_as_they_are(unlimited: Path) -> None:
    space = workspace(unlimited, same="merge_method: passthrough\nmodels: [{model: a}]\n", stacked=STACKED)
    for name, layers in (("same", 2), ("stacked", 3)):
        built = build(unlimited, name)
        assert [check.name for check in built.checks if not check.passed] == []
        text = built.artifact.read_bytes("config.json").decode()
        assert re.findall(r"-?Infinity|NaN", text) == ["Infinity", "-Infinity", "NaN"]
        assert (
            built.artifact.read_bytes("generation_config.json") == (unlimited / "a/generation_config.json").read_bytes()
        )
        out = unlimited / name
        api.merge(space, space.recipe(name), out)
        assert AutoConfig.from_pretrained(out).time_step_limit[1] == math.inf
        assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == layers
        assert build(unlimited, name).reused


def test_a_plan_with_infinities_is_strict_json_and_differs_from_none(unlimited: Path) -> None:
    space = workspace(unlimited, same="merge_method: passthrough\nmodels: [{model: a}]\n")
    plan = api.plan(space, space.recipe("same"))
    held = json.loads(plan.to_json(), parse_constant=pytest.fail)["config"]
    assert held["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert difference(plan, build(unlimited, "same").artifact.read_bytes("plan.json").decode()).config == ()
    config = (unlimited / "a" / "config.json").read_text()
    (unlimited / "a" / "config.json").write_text(config.replace("[0.0, Infinity]", '[0.0, {"__float__": "Infinity"}]'))
    assert api.plan(space, space.recipe("same")).key != plan.key, "other bytes of config.json"


# -- NaN that a recipe allows --------------------------------------------------------------------------------------------


@pytest.fixture
def poisoned(project: Path) -> Path:
    bad = torch.ones(16, 16).bfloat16()
    bad[0, :3] = float("inf")
    write_llama(project / "bad", edit={"model.layers.0.self_attn.q_proj.weight": bad})
    return project


ODD = "merge_method: linear\nmodels: [{model: bad}, {model: a}]\nparameters: {weight: 1}\n"


def test_nan_is_accepted_and_reported_where_the_recipe_allows_it(poisoned: Path) -> None:
    space = workspace(poisoned, odd=ODD)
    with pytest.raises(EngineError, match=r"q_proj\.weight \(3\)"):
        build(poisoned, "odd")
    with pytest.raises(EngineError, match="allow_nonfinite: true"):
        api.merge(space, space.recipe("odd"), poisoned / "out", device="cpu")
    space = workspace(poisoned, odd=ODD + "allow_nonfinite: true\n")
    assert api.merge(space, space.recipe("odd"), poisoned / "out", device="cpu").nonfinite == {
        "model.layers.0.self_attn.q_proj.weight": 3
    }
    finite = build(poisoned, "odd").checks[0]
    assert (finite.name, finite.passed) == ("finite", True)
    assert finite.metadata == {"model.layers.0.self_attn.q_proj.weight": 3}
    assert "1 tensors hold NaN or infinite elements, which allow_nonfinite accepts" in finite.description


def test_copied_nan_is_judged_as_the_recipe_says_now(poisoned: Path) -> None:
    """The bytes stay those of the first build; only the judgement changes, in both directions."""
    copy = "merge_method: passthrough\nmodels: [{model: bad}]\n"
    verdicts, versions = [], set()
    for text in (copy, f"{copy}allow_nonfinite: true\n", copy):
        workspace(poisoned, copy=text)
        built = build(poisoned, "copy")
        verdicts.append((built.reused, built.checks[0].passed))
        versions.add(built.artifact.version)
    assert verdicts == [(False, False), (True, True), (True, False)]
    assert len(versions) == 1


def test_what_is_built_decides_about_nan_not_what_is_folded_in(poisoned: Path) -> None:
    chain = "merge_method: linear\nmodels: [{model: odd}, {model: b}]\nparameters: {weight: 1}\n"
    workspace(poisoned, odd=f"{UNSTORED}allow_nonfinite: true\n{ODD}", chain=chain)
    with pytest.raises(EngineError, match=r"q_proj\.weight \(3\)"):
        build(poisoned, "chain")


def test_a_stopped_build_leaves_nothing(project: Path) -> None:
    space = workspace(project, mean=LINEAR)
    with pytest.raises(Stopped):
        api.build(space, space.recipe("mean"), work=Work(should_stop=lambda: True))
    assert space.store.versions("variants/mean") == []
    with pytest.raises(Stopped):
        api.merge(space, space.recipe("mean"), project / "out", work=Work(should_stop=lambda: True))
    assert sorted(path.name for path in project.iterdir() if "out" in path.name) == []


def test_overwriting_replaces_the_whole_folder(project: Path) -> None:
    space = workspace(project, mean=LINEAR)
    out = project / "out"
    api.merge(space, space.recipe("mean"), out, shard_size=3000)
    assert (out / "model.safetensors.index.json").is_file()
    with pytest.raises(EngineError, match="--overwrite"):
        api.merge(space, space.recipe("mean"), out)
    api.merge(space, space.recipe("mean"), out, overwrite=True)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_merge_never_shows_a_folder(how: signal.Signals, tmp_path: Path) -> None:
    """At ten moments spread over the merge; the next run, undisturbed, gives the bytes of a run that never stopped."""
    config = {"architectures": ["X"], "model_type": "llama", "num_hidden_layers": 6, "vocab_size": 4}
    tensors = {f"model.layers.{n}.mlp.weight": torch.full((4096, 1024), float(n)) for n in range(6)}
    write_checkpoint(tmp_path / "m", tensors, config)
    text = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 0.5}}]\nparameters: {normalize: false}\n"
    workspace(tmp_path, half=text)
    chance = random.Random(int(how))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "merge_assets", "merge", "half", str(out)]
    environment = command_environment(tmp_path)
    for _ in range(10):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(tmp_path.glob(".out.merging-*")):
            time.sleep(0.002)
        time.sleep(chance.random() * 0.15)
        if process.poll() is None:
            os.kill(process.pid, how)
        process.wait()
        if out.exists():  # it was quicker than the signal
            assert read_tensors(out).keys() == tensors.keys()
            for file in out.iterdir():
                file.unlink()
            out.rmdir()
        elif how == signal.SIGTERM:
            assert not list(tmp_path.glob(".out.*"))
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for name, tensor in read_tensors(out).items():
        assert torch.equal(tensor, tensors[name] * 0.5)
