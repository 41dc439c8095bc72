"""``rewrite_config`` makes a config agree with other layers, dtype, tying and vocabulary, and changes nothing else."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from merge_assets.architecture import LayerStack, find_stacks, rewrite_config
from merge_assets.checkpoint import open_checkpoint
from merge_assets.errors import CheckpointError
from tests.checkpoint_support import save_llama

QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 4,
    "max_window_layers": 4,
    "layer_types": ["full", "full", "slide", "slide"],
    "mlp_only_layers": [0, 3],
    "torch_dtype": "bfloat16",
    "eos_token_id": [1, 2, 3, 4],
    "vocab_size": 100,
}


def stack_of(config: dict[str, Any], count: int = 4, prefix: str = "model.layers.") -> LayerStack:
    (found,) = find_stacks([f"{prefix}{layer}.w" for layer in range(count)], config)
    return found


def rewrite(config: dict[str, Any], layers: list[tuple[dict[str, Any], int]], **options: Any) -> dict[str, Any]:
    return rewrite_config(config, stack_of(config), layers, **{"dtype": None, "tied": None, **options})


def test_layer_count_and_per_layer_values_follow_the_layers() -> None:
    new = rewrite(QWEN, [(QWEN, layer) for layer in (0, 1, 2, 1, 2, 3)])
    assert new["num_hidden_layers"] == 6
    assert new["layer_types"] == ["full", "full", "slide", "full", "slide", "slide"]
    assert new["mlp_only_layers"] == [0, 5]


def test_nothing_else_changes_and_the_input_is_left_alone() -> None:
    before = copy.deepcopy(QWEN)
    new = rewrite(QWEN, [(QWEN, 0), (QWEN, 3)])
    new["layer_types"].append("mine")
    new["eos_token_id"].append(9)
    assert before == QWEN
    assert list(new) == list(QWEN), "key order"
    assert {k: new[k] for k in ("architectures", "max_window_layers", "torch_dtype", "vocab_size")} == {
        k: QWEN[k] for k in ("architectures", "max_window_layers", "torch_dtype", "vocab_size")
    }


def test_the_same_layers_give_the_same_config() -> None:
    assert rewrite(QWEN, [(QWEN, layer) for layer in range(4)]) == QWEN


def test_a_one_layer_model_keeps_its_lists_of_one() -> None:
    config = {"architectures": ["M"], "num_hidden_layers": 1, "layer_types": ["full"], "moe_layers": [0]}
    stack = stack_of(config, 1)
    new = rewrite_config(config, stack, [(config, 0)] * 3, dtype=None, tied=None)
    assert new == {"architectures": ["M"], "num_hidden_layers": 3, "layer_types": ["full"] * 3, "moe_layers": [0] * 3}


@pytest.mark.parametrize(
    "key, entry", [("per_layer_config", {"head_dim": 16}), ("pruned_heads", [0, 2]), ("layer_rope_theta", 1e6)]
)
def test_mappings_of_layer_numbers_follow_the_layers(key: str, entry: Any) -> None:
    config = {**QWEN, key: {"1": entry, "3": "last"}, "id2label": {"0": "no", "1": "yes"}}
    other = {**QWEN, key: {"0": "theirs"}}
    new = rewrite(config, [(config, 1), (config, 0), (other, 0), (config, 3), (QWEN, 1)])
    assert new[key] == {"0": entry, "2": "theirs", "3": "last"}
    assert new["id2label"] == config["id2label"], "these are no layers"


def test_layers_of_a_model_of_text_alone_in_one_that_sees_and_the_other_way_round() -> None:
    seeing = {"model_type": "v", "vision_config": {"num_hidden_layers": 2}, "text_config": QWEN}
    theirs = {**QWEN, "layer_types": ["a", "b", "c", "d"], "mlp_only_layers": [2]}
    new = rewrite(seeing, [(theirs, 2), (seeing, 0)])
    assert new["text_config"]["layer_types"] == ["c", "full"] and new["text_config"]["mlp_only_layers"] == [0, 1]
    assert rewrite(theirs, [(seeing, 3), (theirs, 0)])["layer_types"] == ["slide", "a"]


def test_entries_come_from_the_model_that_gives_the_layer() -> None:
    other = {**QWEN, "num_hidden_layers": 2, "layer_types": ["own0", "own1"], "mlp_only_layers": [1]}
    new = rewrite(QWEN, [(QWEN, 0), (other, 1), (other, 0)])
    assert new["layer_types"] == ["full", "own1", "own0"]
    assert new["mlp_only_layers"] == [0, 1]


def test_a_source_without_a_list_of_its_layers_is_an_error_unless_all_layers_are_alike() -> None:
    older = {key: value for key, value in QWEN.items() if key != "layer_types"}
    with pytest.raises(CheckpointError, match="layer_types has one entry per layer, but a model that gives layer 1"):
        rewrite(QWEN, [(QWEN, 0), (older, 1)])
    shorter = {**QWEN, "layer_types": ["full", "full"]}
    with pytest.raises(CheckpointError, match="layer_types"):
        rewrite(QWEN, [(QWEN, 0), (shorter, 1)])
    alike = {**QWEN, "layer_types": ["full"] * 4}
    assert rewrite(alike, [(alike, 0), (older, 1)])["layer_types"] == ["full", "full"]


def test_lists_of_lists_and_patterns() -> None:
    config = {"num_layers": 4, "hybrid_override_pattern": "M-M*", "ffn": [[1], [2], [3], [4]], "rope": {"a": [1] * 4}}
    new = rewrite(config, [(config, 3), (config, 0), (config, 0)])
    assert new["hybrid_override_pattern"] == "*MM"
    assert new["ffn"] == [[4], [1], [1]]
    new["ffn"][1].append(9)
    assert new["ffn"][2] == [1], "entries are not shared"
    assert new["rope"] == {"a": [1] * 4}, "another level"


def test_a_nested_layer_count() -> None:
    text = {"num_hidden_layers": 4, "layer_types": list("abcd"), "vocab_size": 10, "dtype": "float16"}
    config = {"text_config": text, "vision_config": {"depth": 4, "dtype": "float16"}, "layer_types": list("wxyz")}
    stack = stack_of(config, prefix="language_model.layers.")
    new = rewrite_config(config, stack, [(config, 2)], dtype="bfloat16", tied=False, vocab_size=12)
    assert new["text_config"] == {
        "num_hidden_layers": 1,
        "layer_types": ["c"],
        "vocab_size": 12,
        "dtype": "bfloat16",
    }
    assert new["vision_config"] == {"depth": 4, "dtype": "bfloat16"}
    assert new["layer_types"] == list("wxyz")
    assert new["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"torch_dtype": "float32"}, ["torch_dtype"]),
        ({"dtype": "float32"}, ["dtype"]),
        ({"dtype": "float32", "torch_dtype": "float32"}, ["dtype", "torch_dtype"]),
        ({"transformers_version": "4.38.0"}, ["torch_dtype"]),
        ({"transformers_version": "5.23.0"}, ["dtype"]),
        ({}, ["torch_dtype"]),
    ],
)
def test_dtype_goes_where_the_file_has_it(config: dict[str, Any], keys: list[str]) -> None:
    full = {"num_layers": 4, **config}
    new = rewrite(full, [(full, 0)] * 4, dtype="float16")
    assert new == {**full, **dict.fromkeys(keys, "float16")}


def test_a_changed_layer_count_needs_a_key() -> None:
    config = {"num_hidden_layers": 32}
    stack = LayerStack("model.layers.", 4, None, ("w",), homogeneous=True)
    assert rewrite_config(config, stack, [(config, 0)] * 4, dtype=None, tied=None) == config
    with pytest.raises(CheckpointError, match=r"config.json: no key holds the 4 layers of model.layers.\*"):
        rewrite_config(config, stack, [(config, 0)] * 5, dtype=None, tied=None)


def test_tying_and_vocabulary() -> None:
    config = {"num_layers": 4, "tie_word_embeddings": True, "vocab_size": 7}
    new = rewrite(config, [(config, 0)] * 4, tied=False, vocab_size=9)
    assert new == {"num_layers": 4, "tie_word_embeddings": False, "vocab_size": 9}


def test_transformers_builds_the_rewritten_model(tmp_path: Path) -> None:
    """A real model's config, rewritten for more layers, gives a model with exactly the tensors of those layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint = open_checkpoint(save_llama(tmp_path / "m"))
    stack = checkpoint.stacks[0]
    layers = [(checkpoint.config, layer) for layer in (0, 1, 2, 1, 2, 3)]
    new = rewrite_config(checkpoint.config, stack, layers, dtype="bfloat16", tied=False)
    (tmp_path / "config.json").write_text(json.dumps(new))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    expected = {stack.join(layer, suffix) for layer in range(6) for suffix in stack.members}
    assert set(model.state_dict()) == expected | set(checkpoint.outside)
    assert str(model.dtype) == "torch.bfloat16"


def test_sections_inside_sections() -> None:
    """Qwen-Omni's layout."""
    text = {"num_hidden_layers": 4, "layer_types": list("abcd"), "vocab_size": 10, "dtype": "float16"}
    config = {"thinker_config": {"text_config": text, "audio_config": {"num_hidden_layers": 4, "dtype": "float16"}}}
    stack = stack_of(config, prefix="thinker.model.layers.")
    assert stack.config_key == ("thinker_config", "text_config", "num_hidden_layers")
    new = rewrite_config(config, stack, [(config, 3), (config, 0)], dtype="bfloat16", tied=False, vocab_size=11)
    thinker = new["thinker_config"]
    assert thinker["text_config"] == {
        "num_hidden_layers": 2,
        "layer_types": ["d", "a"],
        "vocab_size": 11,
        "dtype": "bfloat16",
    }
    assert thinker["audio_config"] == {"num_hidden_layers": 4, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("encoder", {"encoder_layers": 2, "decoder_layers": 4, "num_hidden_layers": 2}),
        ("decoder", {"encoder_layers": 4, "decoder_layers": 2, "num_hidden_layers": 4}),
    ],
)
def test_a_second_name_of_the_count_follows_the_encoder(part: str, expected: dict[str, int]) -> None:
    """BART and Whisper write the encoder's count twice."""
    config = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4}
    stacks = {name: stack_of(config, prefix=f"model.{name}.layers.") for name in ("encoder", "decoder")}
    layers = {name: [(config, layer) for layer in range(2 if name == part else 4)] for name in stacks}
    others = [(stacks["encoder"], layers["encoder"])]
    assert (
        rewrite_config(config, stacks["decoder"], layers["decoder"], dtype=None, tied=None, others=others) == expected
    )


def test_roles_that_one_model_lists_and_another_gives_by_a_rule() -> None:
    listed: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}
    ruled: dict[str, Any] = {"num_hidden_layers": 4, "sliding_window_pattern": 2}
    layers = [(listed, 0), (ruled, 2), (ruled, 3)]
    roles = ["full_attention", "sliding_attention", "full_attention"]
    assert rewrite(listed, layers)["layer_types"] == roles
    assert rewrite(ruled, layers)["layer_types"] == roles


def test_short_lists_that_are_no_layers_stay_in_a_model_of_few_layers() -> None:
    config = {"num_hidden_layers": 4, "image_sizes": [1, 2, 3, 4], "crop": [1, 2, 3, 4]}
    assert rewrite(config, [(config, 0)]) == {**config, "num_hidden_layers": 1}


def test_a_config_that_lists_its_layers_instead_of_counting_them() -> None:
    """Nemotron-H, as transformers 5 writes it."""
    config = {"model_type": "nemotron_h", "layers_block_type": ["mamba", "moe", "mamba", "attention"]}
    stack = stack_of(config)
    assert stack.config_key == ("layers_block_type",)
    new = rewrite_config(config, stack, [(config, 3), (config, 1)], dtype=None, tied=None)
    assert new == {**config, "layers_block_type": ["attention", "moe"]}
