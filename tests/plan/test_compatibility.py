"""Contract: models that compute or number tokens otherwise than the donor are said; what is meaningless is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merge_assets.errors import PlanError
from tests.merging import plan_text
from tests.synthetic import llama_config, llama_shapes, write_checkpoint
from tests.vocabulary_support import word_model

LINEAR = "merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 1}}\n"


def merged(tmp_path: Path, a: dict[str, Any], b: dict[str, Any], text: str = LINEAR) -> tuple[str, ...]:
    """Warnings of a merge of two models with these keys in their configs."""
    import torch

    folders = {}
    for name, config in (("a", a), ("b", b)):
        tensors = {tensor: torch.zeros(shape) for tensor, shape in llama_shapes(1).items()}
        folders[name] = write_checkpoint(tmp_path / name, tensors, {**llama_config(1), **config})
    return plan_text(text.format(**folders), tmp_path).warnings


UNLIKE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "rope_theta": ({"rope_theta": 10000.0}, {"rope_theta": 500000}, "rope_theta 500000 and 10000.0"),
    "rope_theta in its newer place": (
        {"rope_theta": 10000},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        "rope_theta 1000000.0 and 10000",
    ),
    "scaling": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        "rope_factor 4.0 and 2.0",
    ),
    "activation": ({"hidden_act": "silu"}, {"hidden_act": "gelu"}, 'hidden_act "gelu" and "silu"'),
    "epsilon": ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}, "rms_norm_eps 1e-06 and 1e-05"),
    "window": ({"sliding_window": 4096}, {"sliding_window": None}, "sliding_window null and 4096"),
    "softcap": ({"final_logit_softcapping": 30.0}, {"final_logit_softcapping": 50.0}, "softcapping 50.0 and 30.0"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_arithmetic_that_differs_is_said(case: str, tmp_path: Path) -> None:
    a, b, expected = UNLIKE[case]
    (warning,) = merged(tmp_path, a, b)
    assert f"{tmp_path / 'b'} computes otherwise than {tmp_path / 'a'}" in warning and expected in warning


@pytest.mark.parametrize(
    "a, b",
    [
        ({"rope_theta": 10000.0}, {"rope_theta": 10000}),
        ({"rope_theta": 1e6}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ({"rope_scaling": None}, {}),
        ({"head_dim": None}, {"head_dim": 4}),
        ({"max_position_embeddings": 64}, {"max_position_embeddings": 128}),
        ({"use_cache": True, "_name_or_path": "x"}, {"use_cache": False, "_name_or_path": "y"}),
    ],
)
def test_what_is_equal_or_no_arithmetic_is_passed_over(a: dict[str, Any], b: dict[str, Any], tmp_path: Path) -> None:
    assert merged(tmp_path, a, b) == ()


@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads", "head_dim"])
def test_other_heads_of_the_same_shapes_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match=rf"models\[1\]\.model: .*b has {key} 2, and .*a 4: its rows belong to other heads"
    ):
        merged(tmp_path, {key: 4}, {key: 2})


def test_tokens_of_other_numbers_are_said_unless_the_recipe_says_what_becomes_of_them(tmp_path: Path) -> None:
    folders = {
        "a": word_model(tmp_path / "a", "<unk>", "the", "cat", "dog"),
        "b": word_model(tmp_path / "b", "<unk>", "cat", "the", "dog"),
        "same": word_model(tmp_path / "same", "<unk>", "the", "cat", "dog"),
    }
    found = plan_text(LINEAR.format(**folders), tmp_path).warnings
    (warning,) = (text for text in found if "numbers" in text)
    assert "numbers 2 tokens otherwise than" in warning and "'cat' is 1 and 2" in warning and "source: union" in warning
    alike = plan_text(LINEAR.format(a=folders["a"], b=folders["same"]), tmp_path).warnings
    united = plan_text(LINEAR.format(**folders) + "tokenizer: {source: union}\n", tmp_path).warnings
    assert not [text for text in (*alike, *united) if "numbers" in text]


def test_other_chat_templates_are_said_unless_the_recipe_says_which(tmp_path: Path) -> None:
    folders = {name: word_model(tmp_path / name, "<unk>", "the", "cat") for name in "abc"}
    recipe = (
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {a}}}, {{model: {b}}}, {{model: {c}}}]\n"
    )

    def warnings(more: str = "") -> tuple[str, ...]:
        return plan_text(recipe.format(**folders) + more, tmp_path).warnings

    assert warnings() == ()
    (folders["b"] / "chat_template.jinja").write_text("{{ messages }}")
    (warning,) = warnings()
    assert f"{folders['b']} has a chat template, and {folders['a']}" in warning and "none" in warning
    (folders["a"] / "tokenizer_config.json").write_text('{"chat_template": "{{ bos_token }}"}')
    (warning,) = warnings()
    assert f"{folders['b']} has another chat template than {folders['a']}" in warning and "`chat_template`" in warning
    assert not [line for line in warnings("chat_template: auto\n") if "another chat template" in line]
    (folders["a"] / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert warnings() == ()
