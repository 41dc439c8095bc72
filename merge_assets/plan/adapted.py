"""An adapter applied to a model, on paper: which tensors of the model are made out of what.

The names in an adapter are those of modules in memory, which may have other prefixes than the tensors in the
checkpoint's files; what counts is the longest common ending that includes the layer's number.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from merge_assets.architecture.anatomy import is_head
from merge_assets.architecture.config import resize_vocabulary, set_everywhere
from merge_assets.checkpoint import Checkpoint, LoraAdapter, LowRank, TensorHeader, adapter_error
from merge_assets.checkpoint.adapter import FLOATS
from merge_assets.errors import CheckpointError
from merge_assets.plan.adapted_experts import expert_updates
from merge_assets.plan.made import DORA, LORA, Made, StoredTensor, TensorOrigin

_ANOTHER_MODEL = "the adapter was made for another model"


def adapt(
    model: Checkpoint, origins: Mapping[str, TensorOrigin], adapter: LoraAdapter
) -> tuple[Checkpoint, dict[str, TensorOrigin], dict[str, str]]:
    """Apply an adapter to the headers of a model.

    Args:
        model: the model as it is merged without the adapter.
        origins: its tensors that do not lie in its files as they are.
        adapter: what to apply.

    Returns:
        The model as it is merged, the origins of its tensors, and its stored tensors that were replaced, with the reason.

    Raises:
        CheckpointError: naming the adapter's tensor that the model has no counterpart for, or that has another shape.
    """
    return _Application(model, origins, adapter).result()


class _Application:
    def __init__(self, model: Checkpoint, origins: Mapping[str, TensorOrigin], adapter: LoraAdapter) -> None:
        self.model = model
        self.adapter = adapter
        self.origins: dict[str, TensorOrigin] = dict(origins)
        self.tensors: dict[str, TensorHeader] = dict(model.tensors)
        self.aside: dict[str, str] = {}
        self.config: dict[str, Any] = copy.deepcopy(dict(model.config))
        self.names = _Names(model.tensors)
        self.touched: set[str] = set()
        # Where the embedding is the output head, too: its name, for as long as the two are one.
        self.shared = None if model.shared_embedding is None else model.shared_embedding.name
        self.head: str | None = None

    def result(self) -> tuple[Checkpoint, dict[str, TensorOrigin], dict[str, str]]:
        for name, header in self.adapter.whole.items():
            self._replace(name, header)
        for update in self.adapter.updates.values():
            self._update(update)
        for update in self.adapter.experts:
            self._update_experts(update)
        self._untie()
        return replace(self.model, tensors=self.tensors, config=self.config), self.origins, self.aside

    # -- tensors -------------------------------------------------------------------------------------------------------

    def _replace(self, name: str, header: TensorHeader) -> None:
        """A whole tensor of the adapter in place of the model's."""
        place = self._find(name)
        if place is None:
            raise self._stray(header, name)
        old = self.tensors[place]
        if header.dtype != old.dtype and not {header.dtype, old.dtype} <= FLOATS:
            raise adapter_error(
                self.adapter.location, header, f"is {header.dtype}, but {place} of the model is {old.dtype}"
            )
        if header.shape[1:] != old.shape[1:] or (header.shape != old.shape and not self._is_resized(old)):
            raise self._misfit(header, place)
        if header.shape != old.shape:
            resize_vocabulary(self.config, old.shape[0], header.shape[0])
        if place in self.model.tensors:
            self.aside[place] = f"replaced by {header.name} of the adapter"
        self.tensors[place] = replace(header, name=place, dtype=old.dtype)
        self.origins[place] = StoredTensor(header, of_adapter=True)
        self.touched.add(place)

    def _update(self, update: LowRank) -> None:
        place = self._find(f"{update.module}.weight")
        if place is None:
            raise self._stray(update.down, f"{update.module}.weight")
        weight = self.tensors[place]
        rows, columns = _matrix(weight.shape)
        inner = (math.prod(update.down.shape[1:]), math.prod(update.up.shape) // update.rank)
        transposed = update.embedding or (inner == (rows, columns) and (self._transposes or inner[0] != inner[1]))
        if inner != ((rows, columns) if transposed else (columns, rows)):
            raise self._misfit(update.down if inner[not transposed] in (rows, columns) else update.up, place)
        parts: list[TensorOrigin] = [
            self._origin(place),
            StoredTensor(update.down, True),
            StoredTensor(update.up, True),
        ]
        method = LORA.name
        if update.magnitude is not None:
            if update.magnitude.numel != inner[1]:
                raise self._misfit(update.magnitude, place)
            method, parts = DORA.name, [*parts, StoredTensor(update.magnitude, True)]
        scale = self.adapter.scale(update)
        parameters: dict[str, float | bool | str] = {"scale": scale, "transposed": transposed}
        self.origins[place] = Made(method, weight.shape, tuple(parts), parameters)
        self.touched.add(place)
        if update.bias is not None:
            self._add_bias(update, update.bias, scale)

    def _update_experts(self, update: LowRank) -> None:
        found = expert_updates(update, self.adapter, self.tensors)
        if found is None or update.magnitude or update.bias:
            raise adapter_error(
                self.adapter.location,
                update.down,
                f"adapts parameters of {update.module} (target_parameters), which {self.model.location} does not have as one "
                "matrix for each expert; merge it with PEFT (merge_and_unload) and name the result",
            )
        for item in found:
            parameters: dict[str, float | bool | str] = {
                "scale": item.scale,
                "transposed": False,
                "expert": item.expert,
                "experts": item.experts,
                "first_row": item.first_row,
            }
            parts = (self._origin(item.tensor), StoredTensor(update.down, True), StoredTensor(update.up, True))
            self.origins[item.tensor] = Made(LORA.name, self.tensors[item.tensor].shape, parts, parameters)

    def _add_bias(self, update: LowRank, bias: TensorHeader, scale: float) -> None:
        place = self._find(f"{update.module}.bias")
        if place is None:
            raise self._stray(bias, f"{update.module}.bias")
        shape = self.tensors[place].shape
        if bias.numel != math.prod(shape):
            raise self._misfit(bias, place)
        parts = (self._origin(place), StoredTensor(bias, True))
        self.origins[place] = Made("linear", shape, parts, {"normalize": False}, ({"weight": 1.0}, {"weight": scale}))

    def _origin(self, place: str) -> TensorOrigin:
        return self.origins.get(place, StoredTensor(self.tensors[place]))

    @cached_property
    def _transposes(self) -> bool:
        """Whether square matrices are stored as (in, out): PEFT's flag is that of the module it looked at last, so that a
        module whose shape tells counts for more."""
        for update in self.adapter.updates.values():
            place = self.names.find(f"{update.module}.weight")
            inner = (math.prod(update.down.shape[1:]), math.prod(update.up.shape) // update.rank)
            if (
                place is not None
                and not update.embedding
                and inner[0] != inner[1]
                and any(map(str.isdigit, place.split(".")))
            ):
                return inner == _matrix(self.tensors[place].shape)
        return self.adapter.fan_in_fan_out

    def _find(self, name: str) -> str | None:
        """The model's tensor of that name; a head that is one with the embedding becomes a tensor of its own."""
        place = self.names.find(name)
        if place is not None or self.shared is None or not is_head(name):
            return place
        if self.head is None:
            self.head = name
            self.tensors[name] = replace(self.model.tensors[self.shared], name=name)
            self.origins[name] = self.origins.get(self.shared, StoredTensor(self.model.tensors[self.shared]))
        return self.head

    def _is_resized(self, old: TensorHeader) -> bool:
        """Whether a tensor has a row for every token, so that an adapter with more tokens may have more rows."""
        return len(old.shape) == 2 and self.model.stacks != () and old.name in (*self.model.outside, self.head)

    # -- embedding and head --------------------------------------------------------------------------------------------

    def _untie(self) -> None:
        """Give head and embedding tensors of their own where the adapter changes only one of them, or each by itself."""
        if self.shared is None or not self.touched & {self.shared, self.head}:
            return
        if self.adapter.keeps_tied:
            if self.head is not None and self.head not in self.model.tensors:
                del self.tensors[self.head], self.origins[self.head]
            return
        if self.head is None:
            if not any("For" in str(name) for name in self.model.config.get("architectures") or ()):
                return  # an encoder without a head
            self.head = "lm_head.weight"
            self.tensors[self.head] = replace(self.model.tensors[self.shared], name=self.head)
            self.origins[self.head] = StoredTensor(self.model.tensors[self.shared])
        if self.tensors[self.head].shape != self.tensors[self.shared].shape:
            raise CheckpointError(
                f"{self.adapter.location}: gives {self.shared} {self.tensors[self.shared].shape[0]} rows, but not the output "
                "head, which has its own once only one of them changes; merge it with PEFT and name the result"
            )
        set_everywhere(self.config, ("tie_word_embeddings",), False, default="tie_word_embeddings")

    # -- errors --------------------------------------------------------------------------------------------------------

    def _stray(self, header: TensorHeader, name: str) -> CheckpointError:
        return adapter_error(
            self.adapter.location,
            header,
            f"belongs to {name}, which {self.model.location} does not have; {_ANOTHER_MODEL}",
        )

    def _misfit(self, header: TensorHeader, place: str) -> CheckpointError:
        return adapter_error(
            self.adapter.location,
            header,
            f"has shape {list(header.shape)}, which does not fit {place} of shape {list(self.tensors[place].shape)} in "
            f"{self.model.location}; {_ANOTHER_MODEL}",
        )


class _Names:
    """Finds tensors by the names that modules have in memory."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_ending: dict[str, list[str]] = {}
        for name in self._names:
            for ending in _endings(name):
                self._by_ending.setdefault(ending, []).append(name)

    def find(self, name: str) -> str | None:
        """The tensor of that name, or the one with the longest common ending; ``None`` if there is none or no single one."""
        if name in self._names:
            return name
        words = set(name.split("."))
        for ending in _endings(name):
            found = self._by_ending.get(ending, ())
            if found:
                common = {other: len(words & set(other.split("."))) for other in found}
                best = [other for other in found if common[other] == max(common.values())]
                return best[0] if len(best) == 1 else None
        return None


def _endings(name: str) -> list[str]:
    """Endings of a name, longest first, that hold its outermost number and two words at least."""
    words = name.split(".")
    first = next((place for place, word in enumerate(words) if word.isdigit()), len(words))
    last = min(max(first - 1, 0), len(words) - 2)
    return [".".join(words[place:]) for place in range(last + 1)]


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns; convolutions are matrices with a row for every output."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
