"""Generation by our settings: those of a checkpoint may ask for a million beams, code of the Hub, or a text without end."""

from __future__ import annotations

from typing import Any

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
_MOST_TOKENS = 1000


def fix_generation(model: Any) -> None:
    """Have a model of transformers generate greedily, with one beam and no penalties.

    What stays of its own ``generation_config`` are the numbers of tokens that begin, end and pad a text, and what transformers
    has no setting of that name for, which some families of models need.
    """
    own = model.generation_config
    fixed = type(own)(do_sample=False, num_beams=1, use_cache=True)
    standard = set(fixed.to_dict())
    for name, value in own.to_dict().items():
        if name not in standard or (name in _TOKENS and _is_token(value)):
            setattr(fixed, name, value)
    model.generation_config = fixed


def _is_token(value: object) -> bool:
    if isinstance(value, list) and len(value) <= _MOST_TOKENS:
        return all(type(one) is int for one in value)
    return type(value) is int
