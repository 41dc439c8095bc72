"""Which files of a checkpoint mean what: weights, tokenizer, what a derived checkpoint carries along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merge_assets.checkpoint.checkpoint import Checkpoint

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of the files that make text into token ids: vocabularies, special tokens, chat templates."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files that make images and sound into model inputs."""


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that match any pattern (case-sensitive, ``*`` does not cross ``/``), sorted."""
    patterns = tuple(patterns)
    return sorted(name for name in names if any(_matches(name, pattern) for pattern in patterns))


def tokenizer_files(checkpoint: Checkpoint) -> list[str]:
    """The checkpoint's tokenizer and chat template files, sorted."""
    return matching(checkpoint.files, TOKENIZER_FILES)


def carried_files(checkpoint: Checkpoint) -> list[str]:
    """The files that a checkpoint derived from this one takes over byte for byte, sorted.

    Tokenizer, generation config, processors, and the Python files of a config that names its own code
    (``auto_map``). Never weights, ``config.json`` or the model card: those describe this checkpoint only.
    """
    patterns = (*TOKENIZER_FILES, GENERATION_CONFIG, *PROCESSOR_FILES, *(("*.py",) if _has_code(checkpoint) else ()))
    return matching(checkpoint.files, patterns)


def fingerprint_files(names: Iterable[str], weight_files: Iterable[str]) -> list[str]:
    """The files whose bytes make a checkpoint's fingerprint, sorted.

    Args:
        names: all files of the checkpoint.
        weight_files: the shards that hold its tensors.
    """
    described = matching(names, (INDEX, CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES))
    return sorted({*described, *weight_files})


def needed_files(names: Iterable[str], weight_files: Iterable[str]) -> list[str]:
    """The files to fetch for a checkpoint that can be merged and evaluated, sorted."""
    names = tuple(names)
    extra = matching(names, (*PROCESSOR_FILES, "*.py"))
    return sorted({*fingerprint_files(names, weight_files), *extra})


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _has_code(checkpoint: Checkpoint) -> bool:
    config: Mapping[str, Any] = checkpoint.config
    return "auto_map" in config
