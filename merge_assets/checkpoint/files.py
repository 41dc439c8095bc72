"""Which files of a checkpoint mean what: weights, tokenizer, what a derived checkpoint carries along."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from merge_assets.errors import CheckpointError

if TYPE_CHECKING:
    from merge_assets.checkpoint.checkpoint import Checkpoint

STEMS = ("model", "diffusion_pytorch_model")
"""What the weight files of a checkpoint are called: those of transformers, and those of a part of a diffusers pipeline."""

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
INDEX_SUFFIX = ".safetensors.index.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODULES = "modules.json"
"""Where sentence-transformers lists the modules of a model, each with a numbered folder of its own."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
    "bpe.codes",
    "vocab.bpe",
    "normalizer.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of the files that make text into token ids: vocabularies, special tokens, chat templates."""

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files that make images and sound into model inputs."""

SENTENCE_FILES = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
"""Files that make a text encoder into a sentence-transformers model."""

CODE_FILES = ("*.py",)
"""Code that a config may name (``auto_map``)."""

CODE_NAMERS = ("tokenizer_config.json", *PROCESSOR_FILES)
"""Files beside the config that may name code."""

LICENCE_FILES = ("LICEN[SC]E*", "NOTICE*", "Notice*", "USE_POLICY*")
"""Terms that whoever passes a model on has to pass on with it."""

UNREAD_TOKENIZERS = {"*.tiktoken": "tiktoken", "tekken.json": "tekken", "*.spm": "sentencepiece under another name"}
"""Kinds of tokenizers that are carried along, but not read."""

_VARIANT = re.compile(rf"({'|'.join(STEMS)})(?:\.(\w+)\.safetensors|\.safetensors\.index\.(\w+)\.json)")
_MODULE_FOLDER = re.compile(r"\d+_\w+")


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names that match any pattern (case-sensitive, ``*`` does not cross ``/``), sorted."""
    patterns = tuple(patterns)
    return sorted(name for name in names if any(_matches(name, pattern) for pattern in patterns))


def tokenizer_files(checkpoint: Checkpoint) -> list[str]:
    """The checkpoint's tokenizer and chat template files, sorted."""
    return matching(checkpoint.files, TOKENIZER_FILES)


def carried_files(checkpoint: Checkpoint) -> list[str]:
    """The files that a checkpoint derived from this one takes over byte for byte, sorted.

    Tokenizer, generation config, processors, licences, and the Python files where the config, the tokenizer's or a processor's
    names its own code (``auto_map``). Never weights, ``config.json`` or the model card: those describe this checkpoint only.
    """
    code = CODE_FILES if matching(checkpoint.files, CODE_FILES) and _names_code(checkpoint) else ()
    patterns = (*TOKENIZER_FILES, GENERATION_CONFIG, *PROCESSOR_FILES, *LICENCE_FILES, *code)
    return sorted({*matching(checkpoint.files, patterns), *sentence_files(checkpoint.files)})


def sentence_files(names: Iterable[str]) -> list[str]:
    """The files of a sentence-transformers model beside its encoder, sorted; none if it is no such model."""
    names = tuple(names)
    if MODULES not in names:
        return []
    return sorted(
        {*matching(names, SENTENCE_FILES), *(name for name in names if is_module_folder(name.partition("/")[0]))}
    )


def is_module_folder(name: str) -> bool:
    """Whether a folder is called as those of sentence-transformers modules are, such as ``1_Pooling``."""
    return _MODULE_FOLDER.fullmatch(name) is not None


def is_adapter(names: Iterable[str]) -> bool:
    """Whether files are those of an adapter and not of a model."""
    names = set(names)
    return ADAPTER_CONFIG in names and not any(
        f"{stem}{end}" in names for stem in STEMS for end in (".safetensors", INDEX_SUFFIX)
    )


def weight_names(names: Iterable[str]) -> tuple[str, str]:
    """What the one file of a checkpoint's weights and their index are called, whichever is there.

    Where neither is, the only variant's (``model.fp16.safetensors``) are; transformers' names otherwise.

    Raises:
        CheckpointError: starting with a file's name, if there are several variants and nothing else.
    """
    names = set(names)
    for stem in STEMS:
        if f"{stem}.safetensors" in names or stem + INDEX_SUFFIX in names:
            return f"{stem}.safetensors", stem + INDEX_SUFFIX
    found = sorted({(match[1], match[2] or match[3]) for name in names if (match := _VARIANT.fullmatch(name))})
    if len(found) > 1:
        one, *_, other = (f"{stem}.{variant}.safetensors" for stem, variant in found)
        raise CheckpointError(
            f"{one}: so is {other} there, and no {found[0][0]}.safetensors; rename the one that is meant to that, or its index"
        )
    for stem, variant in found:
        return f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"
    return WEIGHTS, INDEX


def weights_stem(weight_files: Iterable[str]) -> str:
    """What a checkpoint's weight files are called, without number and ending."""
    names = tuple(weight_files)
    return next((stem for stem in STEMS if any(name.startswith(stem) for name in names)), STEMS[0])


def fingerprint_files(names: Iterable[str], weight_files: Iterable[str]) -> list[str]:
    """The files whose bytes make a checkpoint's fingerprint, sorted.

    Args:
        names: all files of the checkpoint.
        weight_files: the shards that hold its tensors.
    """
    names, weight_files = tuple(names), set(weight_files)
    indices = [stem + INDEX_SUFFIX for stem in STEMS]
    with suppress(CheckpointError):
        indices.append(weight_names(names)[1])
    described = matching(names, (*indices, CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, *CODE_FILES))
    adapter = [ADAPTER_CONFIG] if ADAPTER_WEIGHTS in weight_files else []
    return sorted({*described, *sentence_files(names), *adapter, *weight_files})


def needed_files(names: Iterable[str], weight_files: Iterable[str]) -> list[str]:
    """The files to fetch for a checkpoint that can be merged and evaluated, sorted."""
    names = tuple(names)
    extra = matching(names, (*PROCESSOR_FILES, *LICENCE_FILES))
    return sorted({*fingerprint_files(names, weight_files), *extra})


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _names_code(checkpoint: Checkpoint) -> bool:
    """Whether a file says that code is needed; one that cannot be read says nothing."""
    if "auto_map" in checkpoint.config:
        return True
    for name in matching(checkpoint.files, CODE_NAMERS):
        with suppress(CheckpointError):
            if b'"auto_map"' in checkpoint.read(name):
                return True
    return False
