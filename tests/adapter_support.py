"""Adapters made by PEFT, and recipes run through the API, for tests."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from merge_assets import api
from merge_assets.plan import Plan
from merge_assets.recipe import load_recipe
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from tests import needs

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
TIED_LLAMA = LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True})
GPT2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

LLAMA_CASES: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rank and alpha patterns, targets by a regular expression": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": r".*layers\.(0|2)\..*(q_proj|down_proj)",
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {r"layers.2.self_attn.q_proj": 32, r"^model.layers.0.mlp.down_proj": 5},
    },
    "rank-stabilised": {"r": 5, "lora_alpha": 7, "target_modules": LINEAR, "use_rslora": True},
    "DoRA": {"r": 4, "target_modules": ["q_proj", "o_proj", "down_proj"], "use_dora": True},
    "modules to save, and embeddings": {
        "r": 4,
        "target_modules": ["embed_tokens", "q_proj"],
        "modules_to_save": ["lm_head", "norm"],
    },
    "DoRA of embeddings and head": {"r": 3, "target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
    "some layers, some modules left out": {
        "r": 2,
        "target_modules": LINEAR,
        "exclude_modules": ["o_proj"],
        "layers_to_transform": [0, 2],
    },
    "rank above the matrix": {"r": 40, "lora_alpha": 3, "target_modules": ["k_proj"]},
}
GPT2_CASES: dict[str, dict[str, Any]] = {
    "fan_in_fan_out": {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "fan_in_fan_out, square matrices alone": {
        "r": 4,
        "target_modules": r".*attn\.c_proj",
        "fan_in_fan_out": True,
    },
    "fan_in_fan_out with DoRA": {
        "r": 4,
        "target_modules": ["c_attn", "c_proj"],
        "fan_in_fan_out": True,
        "use_dora": True,
    },
    "all biases": {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"},
    "biases of the factors": {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_bias": True},
}


def save_base(folder: Path, config: Any, *, seed: int = 0) -> Path:
    """A tiny model with random weights, in float32."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)  # biases and norms, too
    model.save_pretrained(folder)
    return folder


def save_adapter(
    folder: Path,
    base: Path,
    lora: Any,
    *,
    seed: int = 1,
    change: Callable[[Any], None] | None = None,
) -> Path:
    """An adapter of a base in which nothing is left at its initial value.

    Args:
        folder: where to save it.
        base: the model's folder.
        lora: what to adapt.
        seed: of the random values.
        change: is given the model before it is adapted.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if change is not None:
        change(model)
    adapted = needs.module("peft").get_peft_model(model, lora)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    adapted.save_pretrained(folder)
    return folder


def peft_model(base: Path, adapter: Path, change: Callable[[Any], None] | None = None) -> Any:
    """The base with the adapter beside it, as PEFT loads it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if change is not None:
        change(model)
    return needs.module("peft").PeftModel.from_pretrained(model, adapter).eval()


def merged_by_peft(base: Path, adapter: Path, change: Callable[[Any], None] | None = None) -> dict[str, torch.Tensor]:
    return dict(peft_model(base, adapter, change).merge_and_unload().state_dict())


def logits(model: Any, vocabulary: int = 64) -> torch.Tensor:
    tokens = torch.arange(16).reshape(2, 8) * 3 % vocabulary
    with torch.inference_mode():
        result: torch.Tensor = model(tokens).logits
    return result


def edit_config(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(dict(change(load_file(file))), file)


def workspace_of(folder: Path, **settings: Any) -> Workspace:
    (folder / "recipes").mkdir(exist_ok=True)
    return Workspace.open(Settings(root=folder, **settings))


def plan_recipe(text: str, folder: Path, **settings: Any) -> Plan:
    file = folder / f"r{uuid.uuid4().hex[:8]}.yaml"
    file.write_text(text)
    return api.plan(workspace_of(folder, **settings), load_recipe(file))


def merge_recipe(text: str, folder: Path, *, settings: Mapping[str, Any] | None = None, **options: Any) -> Path:
    """The folder that `merge-assets merge` writes for a recipe."""
    file = folder / f"r{uuid.uuid4().hex[:8]}.yaml"
    file.write_text(text)
    out = folder / f"out-{uuid.uuid4().hex[:8]}"
    api.merge(workspace_of(folder, **(settings or {})), load_recipe(file), out, device="cpu", **options)
    return out


def passthrough(model: object, dtype: str = "float32") -> str:
    return f"merge_method: passthrough\ndtype: {dtype}\nmodels:\n  - model: {model}\n"


def assert_equal_to_rounding(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """Equal names, and elements that differ by no more than float32 rounding of the tensor's largest."""
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape, name
        error = (ours[name].double() - tensor.double()).abs().max()
        assert error <= 1e-6 * tensor.double().abs().max(), f"{name}: {error}"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "llama", LLAMA)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "tied", TIED_LLAMA)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "gpt2", GPT2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    return save_adapter(
        tmp_path_factory.mktemp("models") / "plain",
        llama,
        needs.module("peft").LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    )


def write_factors(folder: Path, **factors: tuple[torch.Tensor, torch.Tensor]) -> Path:
    """An adapter of a rank of 2 and a scale of 1.5, by hand; an embedding's factors are named as PEFT names them."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 3}))
    tensors = {}
    for module, (down, up) in factors.items():
        name = f"base_model.model.{module.replace('__', '.')}.lora_"
        names = ("embedding_A", "embedding_B") if "embed" in module else ("A.weight", "B.weight")
        tensors |= {name + names[0]: down, name + names[1]: up}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
