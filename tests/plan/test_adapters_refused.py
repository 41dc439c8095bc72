"""Adapters that are not applied: one clear message for each, before weights are read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets.checkpoint import Checkpoint, TensorHeader, open_checkpoint, read_lora
from merge_assets.errors import CheckpointError, MergeAssetsError
from merge_assets.plan.adapted import adapt
from merge_assets.reference import ModelReference
from merge_assets.workspace import Automation, Models
from tests import needs
from tests.adapter_support import (
    edit_config,
    edit_tensors,
    llama,
    passthrough,
    plain,
    plan_recipe,
    workspace_of,
)

__all__ = ["llama", "plain"]

needs.module("peft")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::peft.utils.warning.PeftWarning")

# -- what is refused ---------------------------------------------------------------------------------------------------


def refusal(model: object, folder: Path) -> str:
    with pytest.raises(MergeAssetsError) as caught:
        plan_recipe(passthrough(model), folder)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """An adapter to spoil."""
    folder = tmp_path / "spoilt"
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def test_an_adapter_alone_is_refused_with_what_to_write_instead(plain: Path, tmp_path: Path) -> None:
    message = refusal(plain, tmp_path)
    assert "this is a LoRA adapter, not a model" in message and "MODEL+ADAPTER" in message


def test_an_adapter_without_weights_is_refused(llama: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors: missing" in refusal(f"{llama}+{copy}", tmp_path)
    (copy / "adapter_model.bin").write_bytes(b"pickled")
    assert "adapter_model.bin: pickled weights can run code" in refusal(f"{llama}+{copy}", tmp_path)


def test_a_model_after_the_plus_is_refused(llama: Path, tmp_path: Path) -> None:
    assert "adapter_config.json: missing; is this a PEFT adapter" in refusal(f"{llama}+{llama}", tmp_path)


def test_an_adapter_beside_a_model_is_refused(llama: Path, plain: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    assert "adapter_config.json: lies beside a model" in refusal(f"{llama}+{copy}", tmp_path)


def test_a_recipe_after_the_plus_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "inner.yaml").write_text(passthrough(llama))
    assert "inner: is a recipe, which makes a model" in refusal(f"{llama}+inner", tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"peft_type": "IA3"}, "peft_type: 'IA3' is not read"),
        ({"peft_type": None}, "peft_type: None is not read"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changes the model's own weights"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication: it repeats layers"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1, 2]}, "acts on some tokens only"),
        ({"target_modules": "(["}, "is not a regular expression"),
        ({"alpha_pattern": {"(a+)+b": 4}}, "has too many repetitions to be matched safely"),
        ({"rank_pattern": {"q_proj": "4"}}, "must map names of modules to numbers"),
        ({"r": 8}, "has rank 4, but adapter_config.json says 8"),
        ({"use_dora": True}, "without DoRA magnitudes"),
        ({"target_modules": ["k_proj"]}, "which target_modules of adapter_config.json does not name"),
        ({"exclude_modules": ["v_proj"]}, "which exclude_modules of adapter_config.json names"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    changes: dict[str, object], expected: str, llama: Path, copy: Path, tmp_path: Path
) -> None:
    edit_config(copy, **changes)
    message = refusal(f"{llama}+{copy}", tmp_path)
    assert expected in message
    assert str(copy) in message


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            {f"{Q}.lora_A.weight": torch.zeros(4, 33)},
            "has shape [4, 33], which does not fit model.layers.0.self_attn.q_proj",
        ),
        ({f"{Q}.lora_B.weight": torch.zeros(31, 4)}, "has shape [31, 4], which does not fit"),
        ({f"{Q}.lora_A.weight": torch.zeros(())}, "has shape [], which is no matrix"),
        ({f"{Q}.lora_A.weight": torch.zeros(4, 32, dtype=torch.int8)}, "is I8, which is not read"),
        (
            {"base_model.model.lm_head.weight": torch.zeros(64, 32, dtype=torch.int8)},
            "is I8, but lm_head.weight of the model",
        ),
        ({f"{Q}.lora_A.weight": torch.zeros(0, 32)}, "has shape [0, 32], which is no matrix"),
        ({f"base_model.model.{'x' * 300}": torch.zeros(1)}, "has a name of more than 300 characters"),
        ({f"{Q}.lora_B.weight": torch.zeros(32, 5)}, "which is no factor of rank 4"),
        ({"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}, "has no partner"),
        ({"base_model.model.score.weight": torch.zeros(2, 32)}, "belongs to score.weight, which"),
        ({f"{Q}.lora_A.other.weight": torch.zeros(4, 32)}, "is there twice"),
        ({f"{Q}.lora_variance": torch.zeros(4)}, "belongs to model.layers.0.self_attn.q_proj.lora_variance, which"),
        ({"base_model.model.model.norm.weight": torch.zeros(31)}, "which does not fit model.norm.weight"),
    ],
)
def test_every_tensor_of_an_adapter_is_used_or_named(
    tensors: dict[str, torch.Tensor], expected: str, llama: Path, copy: Path, tmp_path: Path
) -> None:
    edit_tensors(copy, lambda found: found | tensors)
    message = refusal(f"{llama}+{copy}", tmp_path)
    assert expected in message
    assert "adapter_model.safetensors: tensor" in message


def test_an_adapter_of_more_layers_than_the_model_has_is_refused(llama: Path, copy: Path, tmp_path: Path) -> None:
    far = Q.replace("layers.0", "layers.7")
    extra = {f"{far}.lora_A.weight": torch.zeros(4, 32), f"{far}.lora_B.weight": torch.zeros(32, 4)}
    edit_tensors(copy, lambda found: found | extra)
    assert "belongs to model.layers.7.self_attn.q_proj.weight" in refusal(f"{llama}+{copy}", tmp_path)


def test_experts_that_the_model_does_not_have_are_refused(llama: Path, copy: Path, tmp_path: Path) -> None:
    experts = "base_model.model.model.layers.0.mlp.experts"
    factors = {f"{experts}.lora_A.weight": torch.zeros(12, 32), f"{experts}.lora_B.weight": torch.zeros(48, 12)}
    edit_tensors(copy, lambda found: found | factors)
    edit_config(copy, target_parameters=["gate_up_proj"])
    message = refusal(f"{llama}+{copy}", tmp_path)
    assert "adapts parameters of model.layers.0.mlp.experts (target_parameters), which" in message
    assert "merge it with PEFT" in message


def test_the_bias_of_a_factor_needs_a_bias(llama: Path, copy: Path, tmp_path: Path) -> None:
    edit_tensors(copy, lambda found: found | {f"{Q}.lora_B.bias": torch.zeros(32)})
    assert "belongs to model.layers.0.self_attn.q_proj.bias" in refusal(f"{llama}+{copy}", tmp_path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "peft_type",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "use_dora",
]
KEYS += [
    "target_parameters",
    "use_rslora",
    "fan_in_fan_out",
    "init_lora_weights",
    "modules_to_save",
    "bias",
    "layer_replication",
    "any",
]
NAMES = [f"{Q}.lora_{side}.weight" for side in "AB"] + [f"{Q}.lora_magnitude_vector", f"{Q}.base_layer.weight"]
NAMES += [f"base_model.model.model.layers.0.mlp.experts.base_layer.lora_{side}.weight" for side in "AB"]
NAMES += [
    Q.replace("q_proj", "lora_embedding_A"),
    "base_model.model.lm_head.weight",
    "lora_A.weight",
    ".",
    "base_model.",
]


@given(
    changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3),
    shapes=st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(0, 64), max_size=4), max_size=4),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_config_and_any_shapes_give_a_plan_or_one_message(
    changes: dict[str, object], shapes: dict[str, list[int]], llama: Path
) -> None:
    def header(name: str, shape: list[int]) -> TensorHeader:
        return TensorHeader(name, "F32", tuple(shape), "adapter_model.safetensors", 8, 8 + 4 * math.prod(shape))

    sound = {f"{Q}.lora_A.weight": [4, 32], f"{Q}.lora_B.weight": [32, 4]}
    tensors = {name: header(name, shape) for name, shape in (sound | shapes).items()}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | changes
    model = open_checkpoint(llama)
    try:
        adapted, origins, _ = adapt(model, {}, read_lora(Checkpoint("adapter", tensors, config, {})))
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert adapted.tensors.keys() >= model.tensors.keys()
        assert origins


def test_a_recipe_whose_adapter_is_nowhere_does_not_hide_the_others(llama: Path, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "good.yaml").write_text(passthrough(f"{llama}+{plain}"))
    (tmp_path / "recipes" / "lost.yaml").write_text(passthrough(f"{llama}+nowhere"))
    workspace = workspace_of(tmp_path)
    automation = Automation(workspace)
    automated = {name: automation.allows(recipe) for name, recipe in workspace.book.recipes.items()}
    assert automated == {"good": True, "lost": False}


def test_scores_and_analyses_of_an_adapted_model_ask_for_a_recipe(llama: Path, plain: Path, tmp_path: Path) -> None:
    reference = ModelReference.parse(f"{llama}+{plain}")
    with pytest.raises(MergeAssetsError, match="name a recipe with `merge_method: passthrough`"):
        Models(workspace_of(tmp_path)).fetch(reference)
