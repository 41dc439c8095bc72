"""A text in pieces, the documents of its task. lm-eval loads this file by itself, so it imports nothing of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets


def load(*, text: str, piece: int, **_: Any) -> dict[str, datasets.Dataset]:
    """The pieces of a text, as lm-eval asks for them.

    Args:
        text: path of a file, UTF-8.
        piece: most bytes of a piece.
    """
    return {"test": datasets.Dataset.from_list([{"text": one} for one in cut(Path(text).read_bytes(), piece)])}


def cut(data: bytes, size: int) -> list[str]:
    """Pieces of a text of at most so many bytes, in order; those without a character that can be seen are left out.

    A piece ends behind the last line that ends in its second half, else behind the last space there, else anywhere between two
    characters. So it does not depend on a tokenizer, and pieces are the same for all models.

    Args:
        data: the text in UTF-8.
        size: 4 or more.
    """
    pieces = []
    start = 0
    while start < len(data):
        end = start + size
        if end < len(data):
            while data[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
            half = start + size // 2
            end = max(data.rfind(b"\n", half, end), -1) + 1 or max(data.rfind(b" ", half, end), -1) + 1 or end
        pieces.append(data[start:end].decode())
        start = end
    return [piece for piece in pieces if piece.strip()]
