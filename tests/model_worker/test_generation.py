"""What a checkpoint may say about generation: which tokens begin, end and pad a text; nothing else that transformers knows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import GenerationConfig

from merge_assets.model_worker.generation import fix_generation

pytestmark = pytest.mark.slow


def fixed(**own: object) -> GenerationConfig:
    model = SimpleNamespace(generation_config=GenerationConfig(**own))
    fix_generation(model)
    return model.generation_config


def test_how_tokens_are_chosen_is_ours() -> None:
    found = fixed(
        num_beams=1_000_000,
        do_sample=True,
        temperature=0.1,
        top_k=3,
        repetition_penalty=1.5,
        min_new_tokens=10**9,
        stop_strings=["a"],
        compile_config=None,
    )
    assert found.to_dict() == fixed().to_dict()
    assert (found.num_beams, found.do_sample, found.repetition_penalty) == (1, False, None)


def test_its_tokens_stay_and_so_does_what_only_its_family_knows() -> None:
    found = fixed(bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0, lang_to_id={"<|en|>": 5})
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (1, [2, 3], 0)
    assert found.lang_to_id == {"<|en|>": 5}


@pytest.mark.parametrize("value", [{"a": 1}, "2", [2.5], list(range(100_000)), True])
def test_what_is_no_token_does_not_stay(value: object) -> None:
    model = SimpleNamespace(generation_config=GenerationConfig())
    model.generation_config.eos_token_id = value
    fix_generation(model)
    assert model.generation_config.eos_token_id is None
