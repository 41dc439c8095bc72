"""How long a model's context is, by the files of its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CONTEXTS = ("n_positions", "max_position_embeddings", "n_ctx")
"""Where lm-eval looks for the length of the context, in this order."""

_USUAL_ROOM = 2048
"""lm-eval's, where nothing says one."""


def room_of(model_dir: Path, tokenizer: Any) -> int:
    """Tokens of the context, as lm-eval's ``hf`` finds them.

    Args:
        model_dir: folder with a config.
        tokenizer: of transformers.
    """
    config = json.loads((model_dir / "config.json").read_bytes())
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    for fields in (inner, config):
        for name in _CONTEXTS:
            if isinstance(fields.get(name), int):
                return int(fields[name])
    longest = getattr(tokenizer, "model_max_length", 0)
    return int(longest) if 0 < longest < 10**9 else _USUAL_ROOM
