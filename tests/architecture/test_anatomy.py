"""Contract: what a tensor outside the layers is, is told from its name as the model families write it."""

from __future__ import annotations

import pytest

from merge_assets.architecture.anatomy import (
    embedding_among,
    is_after_layers,
    is_buffer,
    is_embedding,
    is_head,
    is_tied,
    may_have_row_per_token,
    vocabulary_sizes,
)
from merge_assets.architecture.towers import tower_of

EMBEDDINGS = [
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "transformer.wte.weight",
    "transformer.word_embeddings.weight",
    "bert.embeddings.word_embeddings.weight",
    "roberta_prelayernorm.embeddings.word_embeddings.weight",
    "transformer.word_embedding.weight",
    "visual_bert.embeddings.word_embeddings.weight",
    "gpt_neox.embed_in.weight",
    "model.tok_embeddings.weight",
    "transformer.tokens_embed.weight",
    "text_model.embeddings.token_embedding.weight",
    "cpmant.input_embedding.weight",
    "shared.weight",
    "backbone.embeddings.weight",
    "transformer.embedding.weight",
]
BESIDE = [
    "transformer.wpe.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
    "bert.embeddings.LayerNorm.weight",
    "transformer.word_embeddings_layernorm.weight",
    "model.embed_positions.weight",
    "model.embed_tokens_per_layer.weight",
    "vision_model.embeddings.patch_embedding.weight",
]
"""Of the way in, and no embedding of tokens."""
HEADS = [
    "lm_head.weight",
    "language_model.lm_head.weight",
    "embed_out.weight",
    "proj_out.weight",
    "cls.predictions.decoder.weight",
    "generator_lm_head.weight",
]
BEHIND = ["model.norm.weight", "transformer.ln_f.bias", "bert.pooler.dense.weight", "score.weight", "mtp.fc.weight"]


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_of_tokens(name: str) -> None:
    assert is_embedding(name) and may_have_row_per_token(name)
    assert not is_after_layers(name) and not is_head(name)


@pytest.mark.parametrize("name", BESIDE)
def test_what_else_is_embedded(name: str) -> None:
    assert not is_embedding(name) and not is_head(name)
    assert not is_after_layers(name)


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str) -> None:
    assert is_head(name) and is_after_layers(name)
    assert may_have_row_per_token(name)
    assert not is_embedding(name)


@pytest.mark.parametrize("name", BEHIND)
def test_what_goes_behind_the_layers_beside_heads(name: str) -> None:
    assert is_after_layers(name)
    assert not is_head(name) and not is_embedding(name) and not may_have_row_per_token(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lm_head.bias", True),
        ("final_logits_bias", True),
        ("cls.predictions.bias", True),
        ("lm_head.layer_norm.weight", False),
        ("classifier.weight", False),
        ("model.layers.61.embed_tokens.weight", True),
        ("model.layers.61.shared_head.head.weight", True),
        ("model.layers.3.mlp.embedding_projection.weight", False),
        ("visual.merger.head.weight", False),
        ("speech_decoder_model.lm_head.weight", False),
    ],
)
def test_what_follows_the_vocabulary(name: str, expected: bool) -> None:
    assert may_have_row_per_token(name) == expected


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("vision_tower.layers.3.norm.weight", False),
        ("pixel_level_module.encoder.layers.0.layernorm_after.weight", False),
        ("vision_tower.post_layernorm.weight", True),
        ("model.extra.0.norm.weight", True),
    ],
)
def test_layers_of_a_tower_go_before_the_layers(name: str, after: bool) -> None:
    assert is_after_layers(name) == after


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert.embeddings.position_ids", True),
        ("h.0.attn.masked_bias", True),
        ("h.0.attn.bias", True),
        ("h.0.mlp.c_fc.bias", False),
    ],
)
def test_buffers(name: str, expected: bool) -> None:
    assert is_buffer(name) == expected


@pytest.mark.parametrize(
    ("text", "tower"),
    [
        ("model.visual.blocks.", "vision_tower"),
        ("vision_config", "vision_tower"),
        ("vit_config", "vision_tower"),
        ("vit.encoder", "vision_tower"),
        ("audio_config", "audio_tower"),
        ("mask_decoder.compress_vit_feat", None),
        ("vital.layers.", None),
        ("model.layers.", None),
    ],
)
def test_towers(text: str, tower: str | None) -> None:
    assert tower_of(text) == tower


def test_of_several_embeddings_the_one_with_most_rows_is_the_one() -> None:
    shapes = {
        "model.embed_tokens.weight": (100, 8),
        "model.audio_embed.embed_tokens.weight": (300, 8),
        "model.small.embed_tokens.weight": (10, 8),
        "model.layers.61.embed_tokens.weight": (100, 8),
        "transformer.wpe.weight": (200, 8),
        "embedding.weight": (400,),
    }
    assert embedding_among(shapes) == "model.embed_tokens.weight"


def test_of_two_embeddings_of_one_size_neither_is_the_one() -> None:
    """Encoder and decoder may have embeddings of their own."""
    assert embedding_among({f"{part}.embed_tokens.weight": (100, 8) for part in ("encoder", "decoder")}) is None
    assert embedding_among({"model.norm.weight": (8,)}) is None


HEAD, TABLE = (100, 8), (100, 8)


@pytest.mark.parametrize(
    ("config", "shapes", "expected"),
    [
        ({"tie_word_embeddings": True}, [HEAD, TABLE], True),
        ({"tie_word_embeddings": False, "vocab_size": 100}, [TABLE], False),
        ({"text_config": {"tie_word_embeddings": True, "vocab_size": 100}}, [HEAD, TABLE], True),
        ({"vision_config": {"tie_word_embeddings": True}, "vocab_size": 100}, [HEAD, TABLE], False),
        ({"tie_word_embeddings": None, "vocab_size": 100}, [TABLE, (20, 8), (100,)], True),
        ({"vocab_size": 100}, [HEAD, TABLE], False),
        ({"text_config": {"vocab_size": 100}, "vocab_size": 7}, [TABLE, (20, 8)], True),
        ({}, [TABLE], False),
    ],
)
def test_tied_or_not(config: dict[str, object], shapes: list[tuple[int, ...]], expected: bool) -> None:
    assert is_tied(config, shapes) == expected


def test_sizes_of_the_vocabulary() -> None:
    config = {
        "vocab_size": 7,
        "text_config": {"vocab_size": 100},
        "vision_config": {"depth": 3},
        "x": {"vocab_size": 0},
    }
    assert vocabulary_sizes(config) == [100, 7]
