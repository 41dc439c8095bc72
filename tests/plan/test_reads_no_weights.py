"""Whatever file headers can tell is told by the plan: here the checkpoints have no tensor data that could be read.

Every weight file is cut off behind its header; only its size, as the checkpoint's listing gives it, is that of the whole file.
So a plan that reads one byte of a tensor fails, in Python, in C or in another library.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merge_assets import api
from merge_assets.checkpoint import open_checkpoint
from merge_assets.checkpoint.open import DirectorySource
from merge_assets.errors import CheckpointError, EngineError, MergeAssetsError, PlanError, RecipeError
from merge_assets.methods import methods
from merge_assets.settings import Settings
from tests.cli.test_errors import MALFORMED
from tests.fuzz.inputs import TOKENIZER
from tests.synthetic import HIDDEN, llama_config, llama_shapes, write_checkpoint, write_llama

PASS = "merge_method: passthrough\n"
LINEAR = "merge_method: linear\nparameters: {weight: 1}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that fit each other and models that do not, in whole."""
    root = tmp_path_factory.mktemp("project")
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        write_llama(root / name, 4, seed=seed, shards=2)
    write_llama(root / "deep", 6)
    write_llama(root / "wordy", 4, vocabulary=48)
    write_llama(root / "tied", 4, tied=True)
    write_llama(root / "numbers", 4, dtype=torch.float64)
    tokens(root / "speaks", [f"t{n}" for n in range(32)])
    tokens(root / "speaks-too", [f"t{n}" for n in range(8, 40)])
    odd = {name: torch.zeros(shape) for name, shape in llama_shapes(4).items()}
    write_checkpoint(
        root / "biased", odd | {"model.layers.2.self_attn.q_proj.bias": torch.zeros(HIDDEN)}, llama_config(4)
    )
    write_checkpoint(root / "headless", {n: t for n, t in odd.items() if n != "model.norm.weight"}, llama_config(4))
    write_checkpoint(root / "gapped", {n: t for n, t in odd.items() if ".2.mlp.up" not in n}, llama_config(4))
    write_checkpoint(
        root / "codes", odd | {"lm_head.weight": torch.zeros(32, HIDDEN, dtype=torch.int32)}, llama_config(4)
    )
    config = llama_config(4) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    write_checkpoint(root / "gptq", odd, config)
    write_checkpoint(root / "uncounted", odd, {k: v for k, v in llama_config(4).items() if k != "num_hidden_layers"})
    adapter(root / "adapter", "q_proj", 4)
    adapter(root / "foreign", "nowhere_proj", 4)
    (root / "gguf").mkdir()
    (root / "gguf" / "model.gguf").write_bytes(b"GGUF")
    (root / "gguf" / "config.json").write_text("{}")
    (root / "pickled").mkdir()
    (root / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (root / "pickled" / "config.json").write_text("{}")
    return root


def tokens(folder: Path, vocabulary: list[str]) -> None:
    write_llama(folder, 4, vocabulary=len(vocabulary))
    content = {
        **TOKENIZER,
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": {t: n for n, t in enumerate(vocabulary)}, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    config |= {"bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))


def adapter(folder: Path, module: str, rank: int) -> None:
    folder.mkdir()
    start = f"base_model.model.model.layers.0.self_attn.{module}.lora_"
    save_file(
        {f"{start}A.weight": torch.ones(rank, HIDDEN), f"{start}B.weight": torch.ones(HIDDEN, rank)},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": [module], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def headers(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, int]:
    """Cut the tensor data off every weight file; returns the sizes that the files had."""
    sizes = {}
    for file in project.rglob("*.safetensors"):
        sizes[file] = file.stat().st_size
        with file.open("r+b") as stream:
            length = int.from_bytes(stream.read(8), "little")
            stream.truncate(8 + length)
    return sizes


@pytest.fixture
def workspace(project: Path, headers: dict[Path, int], monkeypatch: pytest.MonkeyPatch) -> api.Workspace:
    scan: Callable[[DirectorySource], dict[str, int]] = DirectorySource._scan

    def sizes_of_whole_files(self: DirectorySource) -> dict[str, int]:
        return {name: headers.get(self.directory / name, size) for name, size in scan(self).items()}

    monkeypatch.setattr(DirectorySource, "_scan", sizes_of_whole_files)
    return api.Workspace.open(Settings(root=project, recipes=[], store=str(project / "store")))


def plan(workspace: api.Workspace, text: str, folder: Path) -> object:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return api.plan(workspace, api.load_recipe(file))


def test_there_is_no_data_to_read(workspace: api.Workspace, project: Path) -> None:
    checkpoint = open_checkpoint(project / "b")
    assert checkpoint.layer_count == 4
    assert all(
        8 + int.from_bytes(file.read_bytes()[:8], "little") == file.stat().st_size
        for file in (project / "b").glob("*.safetensors")
    )


def merged(name: str) -> str:
    """A recipe with the method ``name`` that fits it."""
    method = methods()[name]
    count = min(method.most or 2, 2)
    models = ", ".join(f"{{model: ./{letter}}}" for letter in "bc"[:count])
    base = "base_model: ./a\n" if method.has_base else ""
    given = {p.name: 0.5 for p in method.parameters if p.required}
    return f"merge_method: {name}\n{base}models: [{models}]\nparameters: {json.dumps(given)}\n"


@pytest.mark.parametrize("name", methods())
def test_every_method_is_planned_from_headers(name: str, workspace: api.Workspace, tmp_path: Path) -> None:
    assert plan(workspace, merged(name), tmp_path)


SOUND = {
    "stack": PASS
    + "slices: [{sources: [{model: ./a, layer_range: [0, 3]}]}, {sources: [{model: ./deep, layer_range: [2, 6]}]}]\n",
    "depth upscaling": PASS + "depth_upscale: {model: ./deep, overlap: 2, block: 1}\n",
    "listed pruning": PASS + "prune_layers: {model: ./deep, by: list, remove: [3]}\n",
    "tied and untied": LINEAR + "models: [{model: ./a}, {model: ./tied}]\n",
    "another dtype": LINEAR + "models: [{model: ./numbers}, {model: ./a}]\ndtype: float16\n",
    "union of tokenizers": LINEAR + "models: [{model: ./speaks}, {model: ./speaks-too}]\ntokenizer: {source: union}\n",
    "adapter": PASS + "models: [{model: ./a+./adapter}]\n",
}


@pytest.mark.parametrize("case", SOUND)
def test_sound_recipes_are_planned_from_headers(case: str, workspace: api.Workspace, tmp_path: Path) -> None:
    assert plan(workspace, SOUND[case], tmp_path)


UNFIT: dict[str, tuple[str, str]] = {
    "layers beyond the end": (PASS + "slices: [{sources: [{model: ./a, layer_range: [2, 5]}]}]\n", "layer_range"),
    "vocabularies that differ": (LINEAR + "models: [{model: ./a}, {model: ./wordy}]\n", "tokenizer"),
    "depths that differ": (LINEAR + "models: [{model: ./a}, {model: ./deep}]\n", "models"),
    "a bias that only one has": (LINEAR + "models: [{model: ./a}, {model: ./biased}]\n", "q_proj.bias"),
    "a norm that one lacks": (LINEAR + "models: [{model: ./a}, {model: ./headless}]\n", "model.norm.weight"),
    "a tensor missing in one layer": (LINEAR + "models: [{model: ./a}, {model: ./gapped}]\n", "mlp.up_proj"),
    "numbers that cannot be averaged": (LINEAR + "models: [{model: ./a}, {model: ./codes}]\n", "lm_head.weight"),
    "too many models": (
        "merge_method: slerp\nbase_model: ./a\nmodels: [{model: ./b}, {model: ./c}]\nparameters: {t: 0.5}\n",
        "models",
    ),
    "too few models": ("merge_method: nuslerp\nmodels: [{model: ./b}]\nparameters: {weight: 1}\n", "models"),
    "a base that is missing": (
        "merge_method: dare_ties\nmodels: [{model: ./b}]\nparameters: {weight: 1}\n",
        "base_model",
    ),
    "a parameter beyond its range": (merged("ties").replace("}\n", ', "density": 2}\n'), "density"),
    "a parameter of the wrong kind": (merged("ties").replace("}\n", ', "normalize": 7}\n'), "normalize"),
    "a word that is no value": (merged("linear").replace("0.5", "much"), "weight"),
    "a parameter that no filter gives": (
        "merge_method: linear\nmodels: [{model: ./a}]\nparameters: {weight: {filter: mlp, value: 1}}\n",
        "parameters.weight",
    ),
    "weights that sum to zero": (
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: -1}}]\n",
        "weight",
    ),
    "weights that sum to zero on a sphere": (
        "merge_method: multislerp\n"
        "models: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: -1}}]\n",
        "weight",
    ),
    "weights that sum to zero in some layers": (
        "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: [2, 1, 1, 1]}}, "
        "{model: ./b, parameters: {weight: -1}}]\n",
        "weight",
    ),
    "a stack without a layer count in the config": (
        PASS + "slices: [{sources: [{model: ./uncounted, layer_range: [0, 2]}]}]\n",
        "num_hidden_layers",
    ),
    "more overlap than layers": (PASS + "depth_upscale: {model: ./a, overlap: 9}\n", "depth_upscale.overlap"),
    "a layer to remove that is not there": (
        PASS + "prune_layers: {model: ./a, by: list, remove: [7]}\n",
        "prune_layers",
    ),
    "pruning without its analysis": (
        PASS + "prune_layers: {model: ./a, by: snr, tensor: v_proj, remove: 1}\n",
        "prune_layers",
    ),
    "a token that no model has": (
        LINEAR + "models: [{model: ./speaks}, {model: ./speaks-too}]\ntokenizer: {source: union, tokens: {new: {}}}\n",
        "tokenizer.tokens.new",
    ),
    "a token that the named model has not": (
        LINEAR + "models: [{model: ./speaks}, {model: ./speaks-too}]\n"
        "tokenizer: {source: union, tokens: {t9: {source: {kind: model_token, model: ./speaks, token: nope}}}}\n",
        "tokenizer.tokens.t9",
    ),
    "a token beyond the embedding": (
        LINEAR + "models: [{model: ./speaks}, {model: ./speaks-too}]\n"
        "tokenizer: {source: union, tokens: {t9: {source: {kind: model_token, model: ./speaks, token_id: 99}}}}\n",
        "tokenizer.tokens.t9",
    ),
    "an adapter of another model": (PASS + "models: [{model: ./a+./foreign}]\n", "nowhere_proj"),
    "an adapter that is missing": (PASS + "models: [{model: ./a+./gone}]\n", "gone"),
    "a model that is no adapter": (PASS + "models: [{model: ./a+./b}]\n", "adapter_config.json"),
    "an adapter in place of a model": (PASS + "models: [{model: ./adapter}]\n", "adapter"),
    "a model that is missing": (PASS + "models: [{model: ./gone}]\n", "./gone"),
    "GPTQ": (PASS + "models: [{model: ./gptq}]\n", "gptq"),
    "GGUF": (PASS + "models: [{model: ./gguf}]\n", "GGUF"),
    "pickled weights": (PASS + "models: [{model: ./pickled}]\n", "pickle"),
    "an unknown module": (PASS + "modules: {vision: {models: [{model: ./a}]}}\n", "modules"),
    "an unknown chat template": (PASS + "models: [{model: ./speaks}]\nchat_template: chatmll\n", "chat_template"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_a_plan_error(case: str, workspace: api.Workspace, tmp_path: Path) -> None:
    text, place = UNFIT[case]
    with pytest.raises((PlanError, RecipeError, CheckpointError)) as caught:
        plan(workspace, text, tmp_path)
    message = str(caught.value)
    assert place.lower() in message.lower()
    assert "header bytes could be read" not in message
    assert not isinstance(caught.value, EngineError)


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_recipe_is_refused_without_reading_weights(
    case: str, workspace: api.Workspace, tmp_path: Path
) -> None:
    with pytest.raises(MergeAssetsError) as caught:
        plan(workspace, MALFORMED[case][0], tmp_path)
    assert not isinstance(caught.value, EngineError)
    assert MALFORMED[case][1] in str(caught.value)


def test_a_merge_of_such_files_fails_only_when_it_reads(workspace: api.Workspace, tmp_path: Path) -> None:
    """The counterpart: planning is not merely lazy, the engine does need what is not there."""
    file = tmp_path / "recipe.yaml"
    file.write_text(merged("linear"))
    with pytest.raises(EngineError, match="bytes early"):
        api.merge(workspace, api.load_recipe(file), tmp_path / "out")
    assert not (tmp_path / "out").exists()
