"""Tokenizers as their files describe them: every token with its number, read without transformers and as if hostile."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeGuard

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.files import UNREAD_TOKENIZERS, matching
from merge_assets.checkpoint.header import load_json
from merge_assets.errors import CheckpointError

DOCUMENT, SETTINGS = "tokenizer.json", "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
VOCABULARY_FILES = (DOCUMENT, "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "added_tokens.json")
"""The files that hold tokens and their numbers."""

MAX_FILE = 200_000_000
"""Upper bound on one tokenizer file, bytes."""

MAX_TOKENS = 1 << 24
"""Upper bound on token numbers, so that no file can ask for an embedding of any size."""

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""What tokenizer.json says of an added token, besides its text and number."""


@dataclass(frozen=True)
class Tokenizer:
    """One tokenizer.

    Attributes:
        ids: every token's number by its text, added tokens included.
        added: tokens that are found in a text before it is split, with their :data:`FLAGS`.
        document: content of ``tokenizer.json``, ``None`` if there is none.
        settings: content of ``tokenizer_config.json``, empty if there is none.
        chat_template: the chat template, ``None`` if there is none.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, bool]]
    document: Mapping[str, Any] | None = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    chat_template: str | None = None

    @classmethod
    def of_settings(cls, checkpoint: Checkpoint) -> Tokenizer:
        """A checkpoint's tokenizer as far as ``tokenizer_config.json`` tells, without its tokens.

        Raises:
            CheckpointError: if that file is not what it should be.
        """
        return cls({}, {}, None, _read_object(checkpoint, SETTINGS), None)

    @property
    def kind(self) -> str:
        """``BPE``, ``Unigram``, ``WordPiece`` or ``WordLevel``; empty without ``tokenizer.json``."""
        return str(self.document["model"].get("type") or _guessed(self.document["model"])) if self.document else ""

    @cached_property
    def in_model(self) -> frozenset[str]:
        """The tokens that the model of ``tokenizer.json`` itself knows, added ones only if it knows them, too."""
        vocabulary = self.document["model"]["vocab"] if self.document else ()
        return frozenset(piece[0] for piece in vocabulary) if isinstance(vocabulary, list) else frozenset(vocabulary)

    @cached_property
    def size(self) -> int:
        """One more than the largest token number."""
        return max(self.ids.values(), default=-1) + 1

    def by_number(self) -> list[str | None]:
        """The text of every number up to the largest; ``None`` where a number names no token."""
        texts: list[str | None] = [None] * self.size
        for text, number in self.ids.items():
            if texts[number] is None:
                texts[number] = text
        return texts

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that a BPE joins, in order of rank."""
        if self.document is None:
            return []
        found = self.document["model"].get("merges") or []
        return [_pair(item) for item in found]

    @cached_property
    def scores(self) -> dict[str, float]:
        """The score of every piece of a Unigram model."""
        vocabulary = self.document["model"].get("vocab") if self.document else None
        return dict(vocabulary) if isinstance(vocabulary, list) else {}


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Read a checkpoint's tokenizer: ``tokenizer.json``, or else the vocabulary files of older ones.

    Raises:
        CheckpointError: if there is none, or a file is not what it should be.
    """
    settings = _read_object(checkpoint, SETTINGS)
    document = None
    added: dict[str, Mapping[str, bool]] = {}
    if DOCUMENT in checkpoint.files:
        document = _read_object(checkpoint, DOCUMENT)
        ids = _of_document(checkpoint, document, added)
    elif "vocab.json" in checkpoint.files:
        ids = _checked(checkpoint, "vocab.json", _read_object(checkpoint, "vocab.json").items())
    elif "tokenizer.model" in checkpoint.files:
        pieces = _sentencepieces(checkpoint, "tokenizer.model")
        ids = _checked(checkpoint, "tokenizer.model", ((text, number) for number, text in enumerate(pieces)))
    elif "vocab.txt" in checkpoint.files:
        lines = _text(checkpoint, "vocab.txt").split("\n")
        ids = _checked(checkpoint, "vocab.txt", ((text.rstrip("\r"), i) for i, text in enumerate(lines) if text))
    else:
        lacks = unread_tokenizer(checkpoint) or f"has no tokenizer ({', '.join(VOCABULARY_FILES[:-1])})"
        raise CheckpointError(
            f"{checkpoint.location}: {lacks}, so its tokens are not known; put its tokenizer.json beside config.json"
        )
    taken = set(ids.values())
    for text, number, flags in _later_tokens(checkpoint, settings):
        if text not in ids and number not in taken:
            ids[text] = number
            taken.add(number)
        if text in ids:
            added.setdefault(text, flags)
    return Tokenizer(ids, added, document, settings, read_chat_template(checkpoint))


def unread_tokenizer(checkpoint: Checkpoint) -> str | None:
    """Which tokenizer a checkpoint has that is of a kind that is not read, in words; ``None`` if it has none such."""
    for pattern, kind in UNREAD_TOKENIZERS.items():
        if found := matching(checkpoint.files, (pattern,)):
            return f"has its tokenizer in {found[0]} ({kind}), which is carried along but not read"
    return None


def read_chat_template(checkpoint: Checkpoint) -> str | None:
    """A checkpoint's chat template, ``None`` if it has none; of several, the one called ``default``."""
    if TEMPLATE in checkpoint.files:
        return _text(checkpoint, TEMPLATE)
    template = _read_object(checkpoint, SETTINGS).get("chat_template")
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) else None


def _of_document(
    checkpoint: Checkpoint, document: Mapping[str, Any], added: dict[str, Mapping[str, bool]]
) -> dict[str, int]:
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        if not all(map(_is_piece, vocabulary)):
            raise _broken(checkpoint, DOCUMENT, "model.vocab is not a list of pieces with their scores")
        pairs: Any = ((piece[0], number) for number, piece in enumerate(vocabulary))
    elif isinstance(vocabulary, dict):
        pairs = vocabulary.items()
    else:
        raise _broken(checkpoint, DOCUMENT, "model.vocab is missing")
    merges = (model or {}).get("merges") or []
    for item in merges if isinstance(merges, list) else [merges]:
        if not _is_pair(item):
            raise _broken(checkpoint, DOCUMENT, f"model.merges has {str(item)[:40]!r}, which is not a pair")
    ids = _checked(checkpoint, DOCUMENT, pairs)
    taken = set(ids.values())
    listed = document.get("added_tokens") or []
    if not isinstance(listed, list):
        raise _broken(checkpoint, DOCUMENT, "added_tokens is not a list")
    for item in listed:
        text, number = (item.get("content"), item.get("id")) if isinstance(item, dict) else (None, None)
        if not isinstance(text, str) or not _is_number(number):
            raise _broken(checkpoint, DOCUMENT, f"added_tokens has {str(item)[:60]!r}, without content and id")
        if text not in ids and number not in taken:
            ids[text] = number
            taken.add(number)
        if text in ids:
            added[text] = _flags(item)
    return ids


def _later_tokens(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, bool]]]:
    """Added tokens that only the files beside the vocabulary name."""
    decoder = settings.get("added_tokens_decoder")
    for key, item in decoder.items() if isinstance(decoder, dict) else ():
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else -1
        if isinstance(item, dict) and isinstance(item.get("content"), str) and _is_number(number):
            yield item["content"], number, _flags(item)
    if "added_tokens.json" in checkpoint.files:
        for text, number in _read_object(checkpoint, "added_tokens.json").items():
            if _is_number(number):
                yield text, number, _flags({})


def _checked(checkpoint: Checkpoint, name: str, pairs: Any) -> dict[str, int]:
    listed = list(pairs)
    for text, number in listed:
        if type(text) is not str or type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise _broken(checkpoint, name, f"token {str(text)[:40]!r} has the number {str(number)[:40]}")
    return dict(listed)


def _is_number(number: object) -> TypeGuard[int]:
    return type(number) is int and 0 <= number < MAX_TOKENS


def _is_piece(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[1], int | float)


def _is_pair(item: object) -> bool:
    if isinstance(item, str):
        return item.count(" ") >= 1
    return isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _pair(item: str | Sequence[str]) -> tuple[str, str]:
    left, right = item.split(" ", 1) if isinstance(item, str) else item
    return left, right


def _flags(item: Mapping[str, Any]) -> dict[str, bool]:
    return {flag: item.get(flag) is True for flag in FLAGS}


def _guessed(model: Mapping[str, Any]) -> str:
    """The kind of a model in a file from before it was written down."""
    return "Unigram" if isinstance(model.get("vocab"), list) else "BPE" if "merges" in model else "WordLevel"


def _read_object(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The JSON object in a file, empty if there is no such file."""
    if name not in checkpoint.files:
        return {}
    try:
        # transformers writes its settings with Python's json, which knows NaN; tokenizer.json is of a strict writer.
        content = load_json(_bytes(checkpoint, name), constants=name == SETTINGS)
    except ValueError as error:
        raise _broken(checkpoint, name, f"not JSON ({error})") from None
    if not isinstance(content, dict):
        raise _broken(checkpoint, name, f"holds {type(content).__name__}, not an object")
    return content


def _text(checkpoint: Checkpoint, name: str) -> str:
    try:
        return _bytes(checkpoint, name).decode()
    except UnicodeDecodeError:
        raise _broken(checkpoint, name, "not UTF-8") from None


def _bytes(checkpoint: Checkpoint, name: str) -> bytes:
    if checkpoint.files[name] > MAX_FILE:
        raise _broken(checkpoint, name, f"{checkpoint.files[name]} bytes are more than the {MAX_FILE} allowed")
    return checkpoint.read(name)


def _broken(checkpoint: Checkpoint, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{checkpoint.location}/{name}: {what}; fetch the file again")


# -- SentencePiece ---------------------------------------------------------------------------------------------------


def _sentencepieces(checkpoint: Checkpoint, name: str) -> list[str]:
    """The pieces of a SentencePiece model in order: field 1 of its protocol buffer, each with its text in field 1."""
    raw = _bytes(checkpoint, name)
    try:
        pieces = [bytes(value) for field, value in _fields(memoryview(raw)) if field == 1 and value is not None]
        texts = [
            next(bytes(value) for field, value in _fields(memoryview(piece)) if field == 1 and value is not None)
            for piece in pieces
        ]
        return [text.decode() for text in texts]
    except (IndexError, StopIteration, UnicodeDecodeError, struct.error):
        raise _broken(checkpoint, name, "not a SentencePiece model") from None


def _fields(raw: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """(number, bytes) of every field of a message; ``None`` for the bytes of a field that is a number."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind, value = tag & 7, None
        if kind == 0:
            _, at = _varint(raw, at)
        elif kind == 2:
            length, at = _varint(raw, at)
            if at + length > len(raw):
                raise IndexError
            value = raw[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise IndexError
        yield tag >> 3, value


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise IndexError
