"""How many sequences go through a model at once, where a suite leaves it to us.

lm-eval's own ``auto`` tries 64 sequences of the model's longest length until they fit, which takes a CPU hours.
"""

from __future__ import annotations

from typing import Any

_MOST = {"cpu": 16, "cuda": 64}
_SHARE = 0.5
"""Of free memory: what a library keeps besides is not known."""


def batch_size(free: int | None, tokens: int, per_token: int, device: str) -> int:
    """The largest power of two of which the sequences fit into half of the free memory; at least 1.

    A power of two, so that a little more or less of free memory changes nothing.

    Args:
        free: bytes; ``None`` if that is not known.
        tokens: of the longest sequence.
        per_token: bytes that one token takes.
        device: where it runs, ``cpu`` or ``cuda``; more than 16 and 64 at once are no faster.
    """
    size = _MOST.get(device, 1)
    while size > 1 and (free is None or size * tokens * per_token > free * _SHARE):
        size //= 2
    return size


def bytes_per_token(config: Any, itemsize: int) -> int:
    """What one token takes at most: its logits in the dtype and as log-probabilities, its keys and values, and what a layer
    computes.

    Args:
        config: of transformers; that of the language model in one with several parts.
        itemsize: bytes of one element of the model.
    """
    text = config.get_text_config()
    vocabulary, hidden = int(text.vocab_size), int(text.hidden_size)
    layers = int(getattr(text, "num_hidden_layers", 1))
    wide = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    return vocabulary * (itemsize + 8) + itemsize * (2 * layers * hidden + 8 * hidden + 3 * wide)
