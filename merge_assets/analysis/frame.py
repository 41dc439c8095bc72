"""A causal language model around its decoder layers, of which one is in memory at a time: used in the model worker only.

The model is built on torch's meta device, where tensors have shapes and no elements. What lies around the layers (embedding,
last norm, head) is filled in once; a layer is filled in, used and emptied. Each goes through the library's own renaming and
fusing of stored tensors.

A layer is called with what the model itself calls it with: masks, positions and the like are written down in one pass of the
whole model in which every layer hands its input on. That pass also finds out whether the model only hands hidden states from
each layer to the next, which is what a streaming pass relies on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_utils import LoadStateDictConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from merge_assets.errors import AnalysisError

_Call = tuple[tuple[Any, ...], dict[str, Any]]
_Form = Callable[[torch.Tensor], Any]

_POSITIONS = 64
"""Whose logits are made float64 at once."""

_SHOWN = 3


class Frame:
    """A model without its layers, and the one layer that is loaded.

    Attributes:
        device: where layers are computed.
        context: positions that the model has; ``None`` if its config does not say.
        layers: the decoder layers, in order; empty (on the meta device) but for the one that is loaded.
        most_loaded: the largest number of layers that were in memory at one time.
    """

    def __init__(self, kind: type[PreTrainedModel], config: Any, *, dtype: torch.dtype, device: str) -> None:
        """Build a model without memory for its weights.

        Args:
            kind: the library's class.
            config: its configuration.
            dtype: of weights and hidden states.
            device: where layers are computed.

        Raises:
            AnalysisError: the class has no single list of as many layers as the config says.
        """
        self._name = kind.__name__
        self._dtype = dtype
        self.device = device
        config.use_cache = False
        self._model = without_weights(kind, config, dtype)
        own = config.get_text_config(decoder=True)
        self.context: int | None = getattr(own, "max_position_embeddings", None)
        self.layers = self._found(own.num_hidden_layers)
        self._calls: list[_Call] = []
        self._form: _Form = lambda hidden: hidden
        self.most_loaded = 0

    def _found(self, count: int) -> Any:
        lists = [
            module
            for module in self._model.modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == count
        ]
        decoder = self._model.get_decoder() if hasattr(self._model, "get_decoder") else None
        if len(lists) > 1 and decoder is not None:
            inside = {id(module) for module in decoder.modules()}
            lists = [module for module in lists if id(module) in inside]
        if len(lists) != 1 or self._model.get_output_embeddings() is None:
            raise self._refused(
                "its class has no single list of decoder layers with a head for the next token behind them"
            )
        if count < 2:
            raise self._refused("it has one layer, which cannot be left out")
        return lists[0]

    def _refused(self, why: str) -> AnalysisError:
        return AnalysisError(
            f"{self._name}: activations cannot be measured layer by layer: {why}; choose layers by snr, margin or "
            "reverse_order, or name them with by: list"
        )

    # -- weights -----------------------------------------------------------------------------------------------------

    def fill(self, file: Path) -> None:
        """Load what lies around the layers.

        Raises:
            AnalysisError: tensors are missing or of other shapes.
        """
        self._load(file)
        self._model.tie_weights()
        inner = {id(module) for layer in self.layers for module in layer.modules()}
        self._fill_buffers([module for module in self._model.modules() if id(module) not in inner])
        head = self._model.get_output_embeddings()
        missing = [name for name, tensor in head.named_parameters() if tensor.is_meta]
        missing += [name for name, tensor in self._model.get_input_embeddings().named_parameters() if tensor.is_meta]
        if missing:
            raise AnalysisError(
                f"{self._name}: the checkpoint has no weights for its embedding or head ({', '.join(missing)})"
            )

    @contextmanager
    def loaded(self, number: int, file: Path) -> Iterator[Any]:
        """A layer with its weights, which it has until the end of the ``with`` block.

        Raises:
            AnalysisError: tensors are missing or of other shapes.
        """
        layer = self.layers[number]
        self._load(file)
        self._fill_buffers(list(layer.modules()))
        missing = [name for name, tensor in layer.named_parameters() if tensor.is_meta]
        if missing:
            listing = ", ".join(missing[:_SHOWN]) + (
                f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            )
            raise AnalysisError(f"{self._name}: the checkpoint has no weights for {listing} of layer {number}")
        self.most_loaded = max(self.most_loaded, sum(self._is_loaded(one) for one in self.layers))
        try:
            yield layer
        finally:
            layer.to("meta")

    def _is_loaded(self, layer: Any) -> bool:
        return any(not tensor.is_meta for tensor in layer.parameters())

    def _load(self, file: Path) -> None:
        state = load_file(file)
        mapping: Any = get_model_conversion_mapping(self._model)
        settings = LoadStateDictConfig(
            device_map={"": self.device},
            dtype=self._dtype,
            dtype_plan=self._model._get_dtype_plan(self._dtype),
            weight_mapping=mapping,
        )
        said, _ = convert_and_load_state_dict_in_model(self._model, state, settings)
        wrong = {
            "of another shape": [str(item[0]) for item in said.mismatched_keys],
            "not convertible": [str(name) for name in said.conversion_errors],
        }
        for what, names in wrong.items():
            if names:
                raise AnalysisError(f"{self._name}: tensors are {what}: {', '.join(sorted(names)[:_SHOWN])}")

    def _fill_buffers(self, modules: Sequence[Any]) -> None:
        """Tables that are computed and not stored, such as frequencies of rotary embeddings."""
        owners: dict[int, Any] = {
            id(inner): one
            for one in self._model.modules()
            if isinstance(one, PreTrainedModel)
            for inner in one.modules()
        }
        with torch.no_grad(), guard_torch_init_functions():
            for module in modules:
                empty = {
                    name: buffer for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta
                }
                for name, buffer in empty.items():
                    module._buffers[name] = torch.zeros_like(buffer, device=self.device)
                if empty:
                    owners[id(module)]._init_weights(module)

    # -- computing ---------------------------------------------------------------------------------------------------

    def begin(self, tokens: torch.Tensor, rows: int) -> torch.Tensor:
        """What the first layer is called with for one text, and, kept, what else every layer is called with.

        Args:
            tokens: int64, (positions,).
            rows: how many texts a layer will be called with at once.

        Returns:
            Hidden states, (positions, width).

        Raises:
            AnalysisError: the model does more between its layers than hand the hidden state on.
        """
        ids = tokens.to(self.device).expand(rows, -1)
        if not self._calls:
            self._calls, self._form = self._probed(ids)
            # Other tokens of the same number must not change what layers are called with.
            others, _ = self._probed(ids.flip(-1))
            for number, (one, other) in enumerate(zip(self._calls, others, strict=True)):
                if not _are_equal(one, other):
                    raise self._refused(
                        f"layers are called with more than hidden states of the tokens (layer {number})"
                    )
        first: list[torch.Tensor] = []

        def keep(number: int, hidden: torch.Tensor) -> torch.Tensor:
            if number == 0:
                first.append(hidden[0])
            return hidden

        self._passed(self._model.base_model, ids[:1], keep)
        return first[0]

    def through(self, number: int, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states behind a loaded layer; (rows, positions, width), rows as :meth:`begin` was told."""
        others, named = self._calls[number]
        out = layer(hidden, *others, **named)
        behind: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return behind

    def negative_log_likelihood(self, hidden: torch.Tensor, tokens: torch.Tensor) -> float:
        """Of every token but the first, added up, in nats, if the layers end with these hidden states.

        Args:
            hidden: (positions, width).
            tokens: int64, (positions,).
        """
        last = len(self.layers) - 1
        tokens = tokens.to(self.device)

        def put(number: int, passed: torch.Tensor) -> torch.Tensor:
            return hidden[None] if number == last else passed

        logits = self._passed(self._model, tokens[None], put).logits[0]
        total = 0.0
        for start in range(0, len(tokens) - 1, _POSITIONS):
            stop = min(start + _POSITIONS, len(tokens) - 1)
            wanted = tokens[start + 1 : stop + 1]
            total += float(torch.nn.functional.cross_entropy(logits[start:stop].double(), wanted, reduction="sum"))
        return total

    def _passed(self, model: Any, ids: torch.Tensor, step: Callable[[int, torch.Tensor], torch.Tensor]) -> Any:
        """The model, or the part below its head, with something else in the place of every layer."""

        def stand_in(number: int) -> Callable[..., Any]:
            def forward(*others: Any, **named: Any) -> Any:
                hidden = others[0] if others else named["hidden_states"]
                return self._form(step(number, hidden))

            return forward

        with self._replaced(stand_in):
            return model(input_ids=ids, use_cache=False)

    @contextmanager
    def _replaced(self, stand_in: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
        for number, layer in enumerate(self.layers):
            layer.forward = stand_in(number)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward

    def _probed(self, ids: torch.Tensor) -> tuple[list[_Call], _Form]:
        """What every layer is called with besides hidden states, and in which form the model wants them back."""
        forms: tuple[_Form, ...] = (lambda hidden: hidden, lambda hidden: (hidden,), lambda hidden: (hidden, None))
        found = next(((calls, form) for form in forms if (calls := self._calls_with(form, ids)) is not None), None)
        if found is None:
            raise self._refused(
                "the model does more between its layers than hand hidden states on, each once, in order"
            )
        for number, (others, named) in enumerate(found[0]):
            shared = [name for name, value in named.items() if not _is_plain(value)]
            if shared or not all(map(_is_plain, others)):
                raise self._refused(
                    f"layers share {', '.join(shared) or 'what is not a hidden state'} (layer {number})"
                )
        return found

    def _calls_with(self, form: _Form, ids: torch.Tensor) -> list[_Call] | None:
        """What every layer is called with; ``None`` if the model does not understand the form, or changes what it is given."""
        calls: list[tuple[int, _Call]] = []
        handed: list[torch.Tensor] = []

        def record(number: int) -> Callable[..., Any]:
            def forward(*others: Any, **named: Any) -> Any:
                hidden = others[0] if others else named.pop("hidden_states")
                if handed and hidden is not handed[-1]:
                    raise _OtherFormError
                calls.append((number, (others[1:], named)))
                handed.append(hidden.clone())
                return form(handed[-1])

            return forward

        try:
            with self._replaced(record):
                self._model.base_model(input_ids=ids, use_cache=False)
        except (_OtherFormError, TypeError, ValueError, IndexError, AttributeError, RuntimeError):
            return None
        in_order = [number for number, _ in calls] == list(range(len(self.layers)))
        return [call for _, call in calls] if in_order else None


class _OtherFormError(Exception):
    """A layer was not called with what the one before handed on."""


def _is_plain(value: Any) -> bool:
    """Whether a value is the same for every call: no cache, and nothing that layers write into."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (torch.Tensor, bool, int, float, str, torch.dtype, torch.device))


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, (tuple, dict)):
        pairs = (
            zip(one.values(), other.values(), strict=True) if isinstance(one, dict) else zip(one, other, strict=True)
        )
        return all(_are_equal(a, b) for a, b in pairs)
    return bool(one == other)


def class_of(folder: Path) -> tuple[type[PreTrainedModel], Any] | None:
    """The library's class and configuration of a folder's ``config.json``; ``None`` if it knows none."""
    config = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, str((config.get("architectures") or [""])[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        return None
    if config.get("model_type") not in CONFIG_MAPPING:
        return None
    return kind, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def without_weights(kind: type[PreTrainedModel], config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A model on the meta device."""
    made: Any = kind.from_pretrained(
        None,
        config=config,
        state_dict={},
        device_map="meta",
        dtype=dtype,
        attn_implementation=None,
        # The library's own choice of how experts are computed knows no float64.
        experts_implementation="eager" if dtype is torch.float64 else None,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
    )
    return made.eval()


def with_dtype(name: str) -> torch.dtype:
    """torch's dtype of a name."""
    dtypes: Mapping[str, torch.dtype] = {
        "float32": torch.float32,
        "float64": torch.float64,
        "bfloat16": torch.bfloat16,
    }
    return dtypes[name]
