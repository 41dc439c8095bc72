"""Small models with tokenizers of their own, whose embeddings tell where every row came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from merge_assets.checkpoint import open_checkpoint, read_tokenizer
from tests.synthetic import HIDDEN, llama_config, llama_shapes, read_tensors, write_checkpoint

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMMON = ("<unk>", "the", "cat")
UNION = "tokenizer_source: union\n"
CORPUS = [
    "In the beginning was the Word, and the Word was with God.",
    "the lighthouse keeper wrote: 'tomorrow, and tomorrow, and tomorrow'",
    "Żółw, naïve café, 日本語, 🙂 and numbers 3.14159, 2718",
]
OTHER_CORPUS = [
    "def merge(models): return sum(weight * model for weight, model in models)",
    "class Plan: tensors: tuple[OutputTensor, ...]  # every output",
    "la plume de ma tante, le garçon, où est la bibliothèque",
]
SENTENCES = [*CORPUS, *OTHER_CORPUS, "  two  spaces and\na line", "the the the"]


def word_document(tokens: Mapping[str, int], added: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A ``tokenizer.json`` whose tokens are words between spaces, with the numbers given."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": text, **flags} for text, number in (added or {}).items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": dict(tokens), "unk_token": "<unk>"},
    }


def numbered(*texts: str) -> dict[str, int]:
    return {text: number for number, text in enumerate(texts)}


def marked(hundreds: int, rows: int) -> torch.Tensor:
    """An embedding whose row r holds ``100 · hundreds + r`` in all columns."""
    return (100.0 * hundreds + torch.arange(rows, dtype=torch.float32)).unsqueeze(1).repeat(1, HIDDEN)


def write_model(
    folder: Path,
    document: Mapping[str, Any],
    *,
    hundreds: int = 0,
    rows: int | None = None,
    tied: bool = False,
    layers: int = 2,
    embedding: torch.Tensor | None = None,
    edit: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    settings: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A Llama with a tokenizer.

    Args:
        folder: to make.
        document: its ``tokenizer.json``.
        hundreds: mark of its embedding and head, see :func:`marked`; the head's values are negative.
        rows: rows of the embedding; default is one per token.
        tied: without a head.
        layers: number of layers.
        embedding: instead of a marked one.
        edit: more tensors.
        dtype: of the weights.
        settings: its ``tokenizer_config.json``.
        config: keys of ``config.json`` that differ.
    """
    ids = [*document["model"]["vocab"].values()] if isinstance(document["model"]["vocab"], dict) else []
    ids += [*range(len(document["model"]["vocab"]))] if not ids else []
    ids += [item["id"] for item in document["added_tokens"]]
    count = rows if rows is not None else max(ids) + 1
    table = marked(hundreds, count) if embedding is None else embedding
    tensors = {EMBED: table.to(dtype)}
    generator = torch.Generator().manual_seed(hundreds)
    for name, shape in llama_shapes(layers, tied=True).items():
        if name != EMBED:  # so that the layers are the same whatever the vocabulary
            tensors[name] = torch.randn(shape, generator=generator).to(dtype)
    if not tied:
        tensors[HEAD] = -table.to(dtype)
    described = llama_config(layers, tied=tied, vocabulary=count) | {"torch_dtype": str(dtype).removeprefix("torch.")}
    write_checkpoint(folder, tensors | dict(edit or {}), described | dict(config or {}))
    (folder / "tokenizer.json").write_text(json.dumps(document))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def word_model(folder: Path, *texts: str, **options: Any) -> Path:
    return write_model(folder, word_document(numbered(*texts)), **options)


def tokens_of(folder: Path) -> dict[str, int]:
    """Every token's number, as the folder's own files say."""
    return dict(read_tokenizer(open_checkpoint(folder)).ids)


def by_token(folder: Path, name: str = EMBED) -> dict[str, float]:
    """The first element of every token's row."""
    table = read_tensors(folder)[name]
    return {text: float(table[number].flatten()[0]) for text, number in tokens_of(folder).items()}


def trained(kind: str, corpus: Sequence[str], size: int = 320, special: Sequence[str] = ("<s>", "</s>")) -> Tokenizer:
    """A small tokenizer.

    Args:
        kind: ``bytes`` (byte-level BPE, as GPT-2), ``pieces`` (BPE over pieces with bytes to fall back on, as Llama), or
            ``unigram`` (as T5).
        corpus: texts.
        size: most tokens.
        special: special tokens, first in the vocabulary.
    """
    if kind == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "pieces":
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=size + 256, special_tokens=["<unk>", *special, *all_bytes], show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=["<unk>", *special], unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator([text for text in corpus for _ in range(4)], trainer)
    if kind == "pieces":  # bytes are ordinary pieces, not special tokens
        document = json.loads(made.to_str())
        kept = [item for item in document["added_tokens"] if not item["content"].startswith("<0x")]
        made = Tokenizer.from_str(json.dumps(document | {"added_tokens": kept}))
    return made


def document_of(made: Tokenizer) -> dict[str, Any]:
    return json.loads(made.to_str())


def permuted(document: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The same tokenizer (not Unigram) with token i at number ``order[i]``."""
    model = document["model"] | {"vocab": {t: order[n] for t, n in document["model"]["vocab"].items()}}
    added = [item | {"id": order[item["id"]]} for item in document["added_tokens"]]
    return {**document, "model": model, "added_tokens": sorted(added, key=lambda item: item["id"])}


def linear(*folders: Path, weights: tuple[float, ...] = (), base: Path | None = None, more: str = "") -> str:
    shares = weights or (1,) * len(folders)
    listed = "".join(f"  - {{model: {f}, parameters: {{weight: {w}}}}}\n" for f, w in zip(folders, shares, strict=True))
    return f"merge_method: linear\nmodels:\n{listed}" + (f"base_model: {base}\n" if base else "") + more
