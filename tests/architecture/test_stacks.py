"""Layers are found from names and config alone, for any architecture, and every tensor has one place.

Real architectures are made with transformers; the layouts that it does not write (prediction heads beyond the last
layer, vision-language nesting) are spelt out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.architecture import LayerStack, find_stacks
from merge_assets.checkpoint import open_checkpoint

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "vocab_size": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama() -> object:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL, num_hidden_layers=5, num_key_value_heads=1))


def one_layer_llama() -> object:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL, num_hidden_layers=1, tie_word_embeddings=True))


def qwen2_moe() -> object:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    experts = {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 3}
    layers = {"num_hidden_layers": 4, "max_window_layers": 4, "mlp_only_layers": [1]}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**SMALL, **SPECIAL, **experts, **layers))


def gpt2() -> object:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=64, **SPECIAL))


def t5() -> object:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_heads": 4, "vocab_size": 64}
    return T5ForConditionalGeneration(T5Config(**sizes, num_layers=3, num_decoder_layers=3))


def bart() -> object:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    special = {**SPECIAL, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
    return BartForConditionalGeneration(BartConfig(**sizes, **heads, **special, encoder_layers=3, decoder_layers=2))


def bert() -> object:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**SMALL, num_hidden_layers=3))


@pytest.mark.parametrize(
    ("make", "expected", "tied"),
    [
        (llama, {"model.layers.": (5, "num_hidden_layers", 9, True)}, False),
        (one_layer_llama, {"model.layers.": (1, "num_hidden_layers", 9, True)}, True),
        (qwen2_moe, {"model.layers.": (4, "num_hidden_layers", 26, False)}, False),
        (gpt2, {"transformer.h.": (3, "n_layer", 12, True)}, True),
        (
            t5,
            {
                "decoder.block.": (3, "num_decoder_layers", 14, False),
                "encoder.block.": (3, "num_layers", 9, False),
            },
            True,
        ),
        (
            bart,
            {
                "model.encoder.layers.": (3, "encoder_layers", 16, True),
                "model.decoder.layers.": (2, "decoder_layers", 26, True),
            },
            True,
        ),
        (bert, {"bert.encoder.layer.": (3, "num_hidden_layers", 16, True)}, True),
    ],
)
def test_real_architectures(
    tmp_path: Path, make: Callable[[], object], expected: dict[str, tuple[int, str, int, bool]], tied: bool
) -> None:
    make().save_pretrained(tmp_path)  # type: ignore[attr-defined]
    checkpoint = open_checkpoint(tmp_path)
    found = {
        s.prefix: (s.count, ".".join(s.config_key or ()), len(s.members), s.homogeneous) for s in checkpoint.stacks
    }
    assert found == expected
    assert checkpoint.tied == tied
    assert all(stack.tail == 0 for stack in checkpoint.stacks)
    in_stacks = [name for name in checkpoint.tensors if any(stack.split(name) for stack in checkpoint.stacks)]
    assert sorted([*in_stacks, *checkpoint.outside]) == sorted(checkpoint.tensors)


def stack(prefix: str, count: int, members: tuple[str, ...] = ("w",), start: int = 0) -> list[str]:
    return [f"{prefix}{layer}.{member}" for layer in range(start, count) for member in members]


def test_the_outermost_number_is_the_layer() -> None:
    names = stack("model.layers.", 2, ("mlp.experts.0.w1.weight", "mlp.experts.1.w1.weight"))
    (found,) = find_stacks(names, {"num_hidden_layers": 2})
    assert found.split("model.layers.1.mlp.experts.0.w1.weight") == (1, "mlp.experts.0.w1.weight")
    assert found.members == ("mlp.experts.0.w1.weight", "mlp.experts.1.w1.weight")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["mlp.0.w", "mlp.2.w"], id="a hole"),
        pytest.param(["layers.1.w", "layers.2.w"], id="no layer 0"),
        pytest.param(["scales.0", "scales.1"], id="a list of tensors"),
        pytest.param(["layers.00.w", "layers.01.w"], id="leading zeros"),
        pytest.param(["layers1.w", "v2.w"], id="numbers inside words"),
        pytest.param([], id="no tensors"),
    ],
)
def test_numbers_that_make_no_stack(names: list[str]) -> None:
    assert find_stacks(names, {"num_hidden_layers": 2}) == ()


VISION_LANGUAGE = {
    "text_config": {"num_hidden_layers": 3, "vocab_size": 9},
    "vision_config": {"num_hidden_layers": 3, "image_size": 8},
}


def test_sections_of_equal_depth_are_told_apart_by_their_words() -> None:
    names = stack("vision_tower.encoder.layers.", 3) + stack("language_model.model.layers.", 3, ("a", "b"))
    language, vision = find_stacks(names, VISION_LANGUAGE)
    assert language.config_key == ("text_config", "num_hidden_layers")
    assert vision.config_key == ("vision_config", "num_hidden_layers")


def test_a_section_is_recognised_by_the_stem_of_its_word() -> None:
    """Qwen2-VL's layout, where both parts may be equally deep."""
    names = stack("visual.blocks.", 3) + stack("model.layers.", 3, ("a", "b"))
    language, vision = find_stacks(names, {"num_hidden_layers": 3, "vision_config": {"depth": 3}})
    assert language.config_key == ("num_hidden_layers",)
    assert vision.config_key == ("vision_config", "depth")


@pytest.mark.parametrize(
    ("prefix", "config"),
    [
        ("language_model.model.layers.", {"text_config": {}, "vision_config": {"num_hidden_layers": 3}}),
        ("vision_tower.encoder.layers.", {"text_config": {"num_hidden_layers": 3}, "vision_config": {}}),
    ],
)
def test_the_count_of_another_section_is_not_taken_where_the_own_one_is_left_out(
    prefix: str, config: dict[str, object]
) -> None:
    """As in LLaVA 1.5, whose file leaves out what is Vicuna's default."""
    (found,) = find_stacks(stack(prefix, 3), config)
    assert found.config_key is None


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"num_hidden_layers": 4, "max_window_layers": 4, "aaa_layers": 4}, ("num_hidden_layers",)),
        ({"num_hidden_layers": 9, "max_window_layers": 4}, None),
        ({"n_layer": 4}, ("n_layer",)),
        ({"my_layer_total": 4, "hidden": 4}, ("my_layer_total",)),
        ({"layers_b": 4, "layers_a": 4}, ("layers_a",)),
        ({"sub": {"num_layers": 4}, "n_layer": 5}, ("sub", "num_layers")),
        ({"sub": {"num_layers": 4}, "num_layers": 4}, ("num_layers",)),
        ({"n_layer": 4.0, "num_layers": True}, None),
        ({"hidden_size": 4}, None),
        ({}, None),
    ],
)
def test_the_key_of_the_layer_count(config: dict[str, object], key: tuple[str, ...] | None) -> None:
    (found,) = find_stacks(stack("model.layers.", 4), config)
    assert (found.count, found.config_key) == (4, key)


def test_parallel_stacks_share_a_key() -> None:
    """XLM keeps the layers' attentions and feed-forward parts under prefixes of their own."""
    attentions, ffns = find_stacks(stack("attentions.", 6, ("q", "k")) + stack("ffns.", 6), {"n_layers": 6})
    assert attentions.config_key == ffns.config_key == ("n_layers",)


def test_prediction_heads_beyond_the_last_layer_are_outside() -> None:
    names = stack("model.layers.", 6, ("attn.w", "mlp.w")) + stack("model.layers.", 6, ("eh_proj.w",), start=5)
    (found,) = find_stacks(names, {"num_hidden_layers": 5, "num_nextn_predict_layers": 1})
    assert (found.count, found.tail, found.config_key) == (5, 1, ("num_hidden_layers",))
    assert found.homogeneous
    assert found.members == ("attn.w", "mlp.w")
    assert found.split("model.layers.5.attn.w") is None


def test_more_ordinary_layers_than_the_config_says_are_all_in_the_stack() -> None:
    (found,) = find_stacks(stack("model.layers.", 6), {"num_hidden_layers": 5})
    assert (found.count, found.tail, found.config_key) == (6, 0, None)


def test_the_stack_with_most_bytes_is_the_main_one() -> None:
    names = stack("many.", 9) + stack("heavy.", 2)
    assert find_stacks(names, {})[0].prefix == "many."
    assert find_stacks(names, {}, {name: 99 if name.startswith("heavy") else 1 for name in names})[0].prefix == "heavy."


def test_layers_that_differ() -> None:
    (found,) = find_stacks(["h.0.a", "h.0.bias", "h.1.a"], {})
    assert found == LayerStack("h.", 2, None, ("a", "bias"), homogeneous=False)


WORD = st.sampled_from(["model", "layers", "h", "experts", "w", "weight", "0", "1", "2", "10", ""])


@given(st.lists(st.lists(WORD, min_size=1, max_size=5).map(".".join), unique=True, max_size=12))
def test_every_name_has_one_place_and_order_does_not_matter(names: list[str]) -> None:
    stacks = find_stacks(names, {"num_hidden_layers": 2})
    assert len({found.prefix for found in stacks}) == len(stacks)
    for name in names:
        places = [(found, found.split(name)) for found in stacks if found.split(name)]
        assert len(places) <= 1
        for found, place in places:
            assert place is not None
            assert found.join(*place) == name
            assert place[1] in found.members

    def unordered(stacks: tuple[LayerStack, ...]) -> list[tuple[object, ...]]:
        return [(s.prefix, s.count, s.config_key, sorted(s.members), s.homogeneous) for s in stacks]

    assert unordered(find_stacks(names[::-1], {"num_hidden_layers": 2})) == unordered(stacks)
