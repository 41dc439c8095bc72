"""An opened checkpoint: headers, config and file sizes, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from merge_assets.checkpoint.stacks import LayerStack, find_stacks
from merge_assets.checkpoint.tensors import TensorHeader


@dataclass(frozen=True)
class Checkpoint:
    """An immutable directory in Hugging Face layout, known by its headers.

    Attributes:
        location: absolute directory path, or a URL such as ``hf://org/name@commit`` if only headers were read.
        tensors: name -> header, ordered by shard and by offset in the shard.
        config: content of ``config.json``.
        files: relative name -> size in bytes of the directory's files, weights included.
        generation_config: content of ``generation_config.json``, ``None`` if there is none.
    """

    location: str
    tensors: Mapping[str, TensorHeader]
    config: Mapping[str, Any]
    files: Mapping[str, int]
    generation_config: Mapping[str, Any] | None = None

    @cached_property
    def stacks(self) -> tuple[LayerStack, ...]:
        """The layer stacks, main one first; see :mod:`merge_assets.checkpoint.stacks`."""
        sizes = {name: tensor.nbytes for name, tensor in self.tensors.items()}
        return find_stacks(self.tensors, self.config, sizes)

    @property
    def layer_count(self) -> int:
        """Layers of the main stack; 0 if the checkpoint has no numbered layers."""
        return self.stacks[0].count if self.stacks else 0

    @cached_property
    def outside(self) -> tuple[str, ...]:
        """Names of the tensors that belong to no stack, in file order."""
        return tuple(name for name in self.tensors if not any(stack.split(name) for stack in self.stacks))

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The shards that hold the tensors, in order."""
        return tuple(dict.fromkeys(tensor.file for tensor in self.tensors.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def tied(self) -> bool:
        """Whether the output head shares the embedding's weights.

        ``tie_word_embeddings`` of the config, or of its language model's section, decides. Configs leave the
        key out where it has its default, which differs between architectures; then the weights decide: with
        fewer than two matrices of a row per token outside the layers, there is no separate head.
        """
        sections = [value for value in self.config.values() if isinstance(value, Mapping) and "vocab_size" in value]
        for section in (self.config, *sections):
            if isinstance(section.get("tie_word_embeddings"), bool):
                return bool(section["tie_word_embeddings"])
        vocabulary = next((s["vocab_size"] for s in (*sections, self.config) if type(s.get("vocab_size")) is int), 0)
        shapes = [self.tensors[name].shape for name in self.outside]
        return vocabulary > 0 and sum(len(shape) == 2 and shape[0] >= vocabulary for shape in shapes) < 2
