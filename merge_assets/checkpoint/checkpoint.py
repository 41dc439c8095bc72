"""An opened checkpoint: headers, config and file sizes, no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from merge_assets.architecture import DEFAULT_PART, LayerStack, Part, find_parts, find_stacks
from merge_assets.architecture.anatomy import embedding_among, is_tied
from merge_assets.architecture.parts import TEXT_PART
from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """An immutable directory in Hugging Face layout, known by its headers.

    Attributes:
        location: absolute directory path, or a URL such as ``hf://org/name@commit`` if only headers were read.
        tensors: name -> header, ordered by shard and by offset in the shard.
        config: content of ``config.json``.
        files: relative name -> size in bytes of the directory's files, weights included.
        generation_config: content of ``generation_config.json``, ``None`` if there is none.
        reader: gives a small file's bytes by its name; ``None`` where nothing lies in files yet.
    """

    location: str
    tensors: Mapping[str, TensorHeader]
    config: Mapping[str, Any]
    files: Mapping[str, int]
    generation_config: Mapping[str, Any] | None = None
    reader: Callable[[str], bytes] | None = field(default=None, compare=False, repr=False)

    def read(self, name: str) -> bytes:
        """The bytes of a small file, such as the tokenizer's.

        Raises:
            CheckpointError: if it cannot be read, or is not there yet.
        """
        if self.reader is None:
            raise CheckpointError(f"{self.location}/{name}: is not there yet; build that recipe first")
        try:
            return self.reader(name)
        except CheckpointError as error:
            error.prefix(f"{self.location}/")
            raise

    @cached_property
    def stacks(self) -> tuple[LayerStack, ...]:
        """The layer stacks, main one first; see :mod:`merge_assets.architecture.stacks`."""
        sizes = {name: tensor.nbytes for name, tensor in self.tensors.items()}
        return find_stacks(self.tensors, self.config, sizes)

    @property
    def layer_count(self) -> int:
        """Layers of the main part; 0 if the checkpoint has no numbered layers."""
        return self.parts[0].count if self.parts else 0

    @cached_property
    def outside(self) -> tuple[str, ...]:
        """Names of the tensors that belong to no stack, in file order."""
        return tuple(name for name in self.tensors if not any(stack.split(name) for stack in self.stacks))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every tensor in its part, main part first; see :mod:`merge_assets.architecture.parts`."""
        return find_parts(self.tensors, self.stacks)

    def part(self, name: str) -> Part | None:
        """The part of that name, or ``None``.

        All of a model of text alone is what is the language model beside a tower, and all of an encoder alone is what is the
        encoder beside a decoder.
        """
        found = next((part for part in self.parts if part.name == name), None)
        if found is None and self.parts:
            first = self.parts[0]
            if {name, first.name} == {DEFAULT_PART, TEXT_PART} or (first.name == DEFAULT_PART and name == first.coder):
                return first
        return found

    @cached_property
    def shards(self) -> Mapping[str, tuple[TensorHeader, ...]]:
        """The files that hold the tensors, in order, each with its own."""
        by_file: dict[str, list[TensorHeader]] = {}
        for tensor in self.tensors.values():
            by_file.setdefault(tensor.file, []).append(tensor)
        return {file: tuple(own) for file, own in by_file.items()}

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The shards that hold the tensors, in order."""
        return tuple(self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def tied(self) -> bool:
        """Whether the output head shares the embedding's weights."""
        return is_tied(self.config, [self.tensors[name].shape for name in self.outside])

    @cached_property
    def shared_embedding(self) -> TensorHeader | None:
        """The embedding that is the output head, too; ``None`` if the head has its own or it is not known which one it is."""
        name = embedding_among({name: self.tensors[name].shape for name in self.outside}) if self.tied else None
        return None if name is None else self.tensors[name]
