"""The parts of a checkpoint, told from the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from merge_assets.architecture import Part, find_parts, find_stacks

Parts = dict[str, tuple[int, tuple[str, ...]]]


def layers(prefix: str, count: int, *suffixes: str) -> list[str]:
    return [f"{prefix}{layer}.{suffix}" for layer in range(count) for suffix in suffixes or ("w",)]


def parts_of(names: Iterable[str], config: Mapping[str, object]) -> Parts:
    listed = list(names)
    return {part.name: (part.count, part.outside) for part in find_parts(listed, find_stacks(listed, config))}


def test_one_kind_of_layers_is_one_part() -> None:
    names = ["embed.w", *layers("model.layers.", 3), "norm.w", "visual.proj.w"]
    assert parts_of(names, {"num_hidden_layers": 3}) == {"default": (3, ("embed.w", "norm.w", "visual.proj.w"))}


def test_no_layers_is_one_part() -> None:
    assert parts_of(["a", "b"], {}) == {"default": (0, ("a", "b"))}


def test_stacks_of_one_count_side_by_side_are_one_part() -> None:
    """XLM keeps attentions and feed-forward layers under names of their own."""
    names = [*layers("attentions.", 3, "q", "k"), *layers("ffns.", 3), "pred.w"]
    (part,) = find_parts(names, find_stacks(names, {"n_layers": 3}))
    assert part.outside == ("pred.w",)
    assert [stack.prefix for stack in part.stacks] == ["attentions.", "ffns."]


VISION_LANGUAGE = {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 2}}


@pytest.mark.parametrize(
    ("text", "vision", "joint", "outside"),
    [
        ("language_model.model.layers.", "vision_tower.encoder.layers.", "multi_modal_projector.linear.w", "lm_head.w"),
        (
            "model.language_model.layers.",
            "model.visual.blocks.",
            "model.visual.merger.mlp.0.w",
            "model.language_model.n",
        ),
        ("model.text_model.layers.", "model.vision_model.encoder.layers.", "model.connector.w", "lm_head.w"),
        ("model.layers.", "model.vision_tower.trunk.blocks.", "model.mm_projector.0.w", "model.embed_tokens.w"),
        (
            "language_model.model.decoder.layers.",
            "vision_tower.encoder.layers.",
            "multi_modal_projector.w",
            "lm_head.w",
        ),
    ],
    ids=["LLaVA", "Qwen2.5-VL", "SmolVLM", "a tower inside the model", "LLaVA on OPT, a decoder"],
)
def test_a_language_model_with_a_tower(text: str, vision: str, joint: str, outside: str) -> None:
    """The language model is the main part even where the tower is larger."""
    tower = f"{vision.rpartition('.')[0].rpartition('.')[0]}.patch_embed.w"
    names = [*layers(text, 3), *layers(vision, 2, *"abcd"), joint, outside, tower]
    found = parts_of(names, VISION_LANGUAGE)
    assert next(iter(found)) == "text_decoder"
    assert found == {
        "text_decoder": (3, (outside,)),
        "vision_tower": (2, (tower,)),
        "multi_modal_projector": (0, (joint,)),
    }


def test_the_language_model_goes_before_a_larger_tower_of_sound() -> None:
    """As in Qwen2-Audio."""
    names = [*layers("audio_tower.layers.", 4, *"abc"), *layers("language_model.layers.", 3), "multi_modal_projector.w"]
    found = parts_of(names, {"text_config": {"num_hidden_layers": 3}, "audio_config": {"encoder_layers": 4}})
    assert list(found) == ["text_decoder", "audio_tower", "multi_modal_projector"]


def test_what_a_name_says_of_pictures_goes_before_where_it_stands() -> None:
    """LLaVA-NeXT keeps what it puts at the end of a row beside the tower and the language model."""
    names = [*layers("language_model.model.layers.", 3, "a", "b"), *layers("vision_tower.layers.", 2), "image_newline"]
    assert parts_of(names, VISION_LANGUAGE)["vision_tower"] == (2, ("image_newline",))


def test_a_tower_whose_layers_are_not_counted_is_outside_even_if_it_is_the_largest() -> None:
    """As the tower of LLaVA 1.5, whose config leaves out what is the default."""
    tower = layers("vision_tower.layers.", 4, *"abc")
    names = [*layers("language_model.layers.", 3), *tower]
    assert parts_of(names, {"text_config": {"num_hidden_layers": 3}, "vision_config": {}}) == {
        "default": (3, tuple(tower))
    }


@pytest.mark.parametrize("largest", ["decoder.", "vision_tower."])
def test_the_largest_stack_is_layers_even_if_none_is_counted(largest: str) -> None:
    further = layers("encoder.", 2)
    assert parts_of([*layers(largest, 3), *further], {}) == {"default": (3, tuple(further))}


def test_the_largest_stack_is_layers_even_if_only_those_of_a_tower_are_counted() -> None:
    names = [*layers("language_model.layers.", 3), *layers("vision_tower.layers.", 2)]
    found = parts_of(names, {"text_config": {}, "vision_config": {"num_hidden_layers": 2}})
    assert found == {"text_decoder": (3, ()), "vision_tower": (2, ())}


TOWERS = {
    "vision_tower": ["vision_model", "visual", "image_encoder", "pixel_decoder", "vit", "siglip", "clip"],
    "audio_tower": ["audio_tower", "speech_encoder", "sound"],
    "multi_modal_projector": [
        "vision_projector", "visual.merger", "connector", "aligner", "resampler", "mm_projection",
        "multi_modal_adapter", "embed_vision", "embed_audio", "text_hidden_fcs",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("part", "word"), [(part, word) for part, words in TOWERS.items() for word in words])
def test_a_tensor_belongs_to_the_part_that_its_words_tell(part: str, word: str) -> None:
    sections = {part: {"num_hidden_layers": 2 + number} for number, part in enumerate(("text", "vision", "audio"))}
    names = [name for number, part in enumerate(sections) for name in layers(f"{part}.layers.", 2 + number)]
    found = parts_of([*names, f"{word}.w"], sections)
    assert found[part][1] == (f"{word}.w",)


def test_a_tensor_named_as_the_layers_begin_belongs_to_them() -> None:
    names = [*layers("encoder.block.", 2), *layers("decoder.block.", 3), "encoder"]
    assert parts_of(names, {"num_layers": 2, "num_decoder_layers": 3})["encoder"] == (2, ("encoder",))


def test_words_of_a_tower_that_is_not_there_tell_nothing() -> None:
    names = [*layers("model.encoder.layers.", 2), *layers("model.decoder.layers.", 3), "model.encoder.image_patches.w"]
    assert parts_of(names, {"encoder_layers": 2, "decoder_layers": 3}) == {
        "decoder": (3, ()),
        "encoder": (2, ("model.encoder.image_patches.w",)),
    }


def test_of_two_towers_alone_the_larger_is_the_part() -> None:
    small = layers("siglip.layers.", 2)
    names = [*small, *layers("clip.layers.", 3)]
    config = {"siglip_config": {"num_hidden_layers": 2}, "clip_config": {"num_hidden_layers": 3}}
    assert parts_of(names, config) == {"default": (3, tuple(small))}


@pytest.mark.parametrize("larger", ["encoder", "decoder"])
def test_stacks_side_by_side_that_are_counted_apart_are_parts_of_their_own_the_decoder_first(larger: str) -> None:
    suffixes = {"encoder": ["a"], "decoder": ["a"]} | {larger: ["a", "b"]}
    names = [name for part, members in suffixes.items() for name in layers(f"{part}_layers.", 3, *members)]
    found = parts_of(names, {"encoder_layers": 3, "decoder_layers": 3})
    assert found == {"decoder": (3, ()), "encoder": (3, ())}
    assert list(found) == ["decoder", "encoder"]


def test_encoder_and_decoder() -> None:
    names = ["shared.w", *layers("encoder.block.", 2), "encoder.norm.w", *layers("decoder.block.", 3), "lm_head.w"]
    assert parts_of(names, {"num_layers": 2, "num_decoder_layers": 3}) == {
        "decoder": (3, ("shared.w", "lm_head.w")),
        "encoder": (2, ("encoder.norm.w",)),
    }


def test_every_tensor_is_in_exactly_one_part() -> None:
    names = [
        *layers("language_model.layers.", 3, "a", "experts.0.w", "experts.1.w"),
        *layers("vision_tower.a.layers.", 2),
        *layers("vision_tower.b.layers.", 2),
        *layers("audio_tower.layers.", 4),
        *layers("something.mlp.", 2),
        *("multi_modal_projector.0.w", "multi_modal_projector.1.w", "embed.w", "x"),
    ]
    config = VISION_LANGUAGE | {"audio_config": {"encoder_layers": 4}}
    parts = find_parts(names, find_stacks(names, config))

    def holds(part: Part, name: str) -> bool:
        return name in part.outside or any(stack.split(name) for stack in part.stacks)

    assert {sum(holds(part, name) for part in parts) for name in names} == {1}
    assert {part.name for part in parts} == {"text_decoder", "vision_tower", "audio_tower", "multi_modal_projector"}
