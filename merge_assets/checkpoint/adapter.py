"""A PEFT adapter as it lies on disk: which low-rank updates and whole tensors it has, and how strong they are.

The formats are those of PEFT's ``save_pretrained``: ``adapter_config.json`` and ``adapter_model.safetensors``. An update
of a matrix W of shape (out, in) is ``s · B·A`` with A (r, in) and B (out, r); ``s`` is ``lora_alpha / r``, or
``lora_alpha / √r`` for rank-stabilised adapters (2312.03732). DoRA (2402.09353) adds a vector of magnitudes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from merge_assets.checkpoint.checkpoint import Checkpoint
from merge_assets.checkpoint.files import ADAPTER_CONFIG
from merge_assets.checkpoint.tensors import TensorHeader
from merge_assets.errors import CheckpointError

_PREFIX = re.compile(r"^base_model\.(model\.)?")
# What PEFT puts into a name: the adapter's own name is left out when it is saved, but not by everyone.
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(\.[^.]+)?\.(?P<what>weight|bias)$")
_EMBEDDING_FACTOR = re.compile(r"^(?P<module>.+)\.lora_embedding_(?P<side>[AB])(\.[^.]+)?$")
_MAGNITUDE = re.compile(r"^(?P<module>.+)\.lora_magnitude_vector(\.[^.]+)*$")
_WRAPPED = re.compile(r"\.base_layer(?=\.)|\.modules_to_save(\.default)?(?=\.)")

_LAYERS = re.compile(r"(\.base_layer)+$")

_UNCHANGED_INITIALS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the model's own weights as they are."""

_UNSUPPORTED = {
    "alora_invocation_tokens": "it acts on some tokens only (aLoRA), so it cannot become part of the weights",
    "arrow_config": "it routes between adapters (Arrow), so it cannot become part of the weights",
    "kasa_config": "KaSA adapters change the model's own weights",
    "layer_replication": "it repeats layers; build the stack with a recipe of slices first, and adapt that",
    "megatron_config": "Megatron adapters are not read",
    "monteclora_config": "MonteCLoRA adapters are not read",
    "trainable_token_indices": "adapters of single tokens are not read",
    "use_bdlora": "block-diagonal adapters are not read",
    "use_qalora": "QA-LoRA adapters belong to a quantised model",
    "velora_config": "VeLoRA adapters are not read",
}
_MAX_NAME = 300
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes of an adapter that take part in arithmetic."""

_MERGE_FIRST = "merge it with PEFT (merge_and_unload) and name the result"


@dataclass(frozen=True)
class LowRank:
    """The update of one module.

    Attributes:
        module: its name in the model, such as ``model.layers.0.self_attn.q_proj``.
        down: the factor A.
        up: the factor B.
        magnitude: DoRA's vector.
        bias: what is added to the module's bias, before scaling.
        embedding: whether the module is an embedding, whose rows are the factor A's columns.
    """

    module: str
    down: TensorHeader
    up: TensorHeader
    magnitude: TensorHeader | None
    bias: TensorHeader | None
    embedding: bool

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraAdapter:
    """What an adapter does to a model.

    Attributes:
        location: of the adapter.
        updates: low-rank updates by module.
        experts: low-rank updates of parameters that hold a matrix for every expert; see ``target_parameters`` of PEFT.
        whole: tensors that replace those of the model, by the name that they have in the model.
        fan_in_fan_out: whether square matrices are stored as (in, out), as GPT-2's are.
        keeps_tied: whether an output head that shares the embedding's weights goes on sharing them.
    """

    location: str
    updates: Mapping[str, LowRank]
    experts: tuple[LowRank, ...]
    whole: Mapping[str, TensorHeader]
    fan_in_fan_out: bool
    keeps_tied: bool
    _config: Mapping[str, Any]

    def scale(self, update: LowRank) -> float:
        """The factor ``s`` of an update."""
        alpha = self._of_pattern("alpha_pattern", update.module, self._config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(update.rank) if self._config.get("use_rslora") else update.rank)

    def scale_of_experts(self, update: LowRank, parameter: str, experts: int) -> float:
        """The factor of an update of a parameter that holds a matrix for every expert.

        Raises:
            CheckpointError: if its rank is not what the config says.
        """
        rank = self._of_pattern("rank_pattern", parameter, self._config.get("r", 8))
        if update.rank != rank * experts or update.up.shape[1] != update.rank:
            raise self._disagrees(
                update.down, f"has {update.rank} rows, but {ADAPTER_CONFIG} says {rank} for each of {experts} experts"
            )
        alpha = self._of_pattern("alpha_pattern", parameter, self._config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _of_pattern(self, key: str, module: str, default: Any) -> Any:
        patterns: Mapping[str, Any] = self._config.get(key) or {}
        return next((value for pattern, value in patterns.items() if _ends_like(pattern, module)), default)

    def check(self, update: LowRank) -> None:
        """Compare an update with what the config says of its module.

        Raises:
            CheckpointError: if they disagree.
        """
        expected = self._of_pattern("rank_pattern", update.module, self._config.get("r", 8))
        if update.rank != expected:
            raise self._disagrees(update.down, f"has rank {update.rank}, but {ADAPTER_CONFIG} says {expected}")
        for header, dimension in ((update.up, 1), (update.down, 0)):
            if header.shape[dimension] != update.rank:
                raise self._disagrees(
                    header, f"has shape {list(header.shape)}, which is no factor of rank {update.rank}"
                )
        if (update.magnitude is None) is bool(self._config.get("use_dora")):
            raise self._disagrees(
                update.magnitude or update.down,
                f"is of a module with{'out' if update.magnitude is None else ''} DoRA magnitudes, but {ADAPTER_CONFIG} "
                f"says use_dora: {str(bool(self._config.get('use_dora'))).lower()}",
            )
        targets, excluded = self._config.get("target_modules"), self._config.get("exclude_modules")
        # A head that is kept tied has its embedding's factors without being named.
        named = not targets or targets == "all-linear" or self.keeps_tied or _names(targets, update.module) is not False
        if not named:
            raise self._disagrees(
                update.down, f"adapts {update.module}, which target_modules of {ADAPTER_CONFIG} does not name"
            )
        if excluded and _names(excluded, update.module):
            raise self._disagrees(
                update.down, f"adapts {update.module}, which exclude_modules of {ADAPTER_CONFIG} names"
            )

    def _disagrees(self, header: TensorHeader, problem: str) -> CheckpointError:
        return adapter_error(self.location, header, f"{problem}; the two are of different adapters, save it again")


def adapter_error(location: str, header: TensorHeader, problem: str) -> CheckpointError:
    """An error of one tensor of an adapter."""
    return CheckpointError(f"{location}/{header.file}: tensor {header.name!r} {problem}")


def read_lora(adapter: Checkpoint) -> LoraAdapter:
    """Understand an adapter that was opened.

    Args:
        adapter: headers, with ``adapter_config.json`` as config.

    Raises:
        CheckpointError: if it is not a LoRA adapter, is of a kind that is not supported, or a tensor has no partner.
    """
    config = adapter.config
    _check_config(adapter.location, config)
    found: dict[str, dict[str, TensorHeader]] = {}
    whole: dict[str, TensorHeader] = {}
    for header in adapter.tensors.values():
        if len(header.name) > _MAX_NAME:
            raise adapter_error(adapter.location, header, f"has a name of more than {_MAX_NAME} characters; rename it")
        name = _PREFIX.sub("", header.name)
        place = _place(name)
        target, key = (found.setdefault(place[0], {}), place[1]) if place else (whole, _WRAPPED.sub("", name))
        if key in target:
            raise adapter_error(
                adapter.location, header, f"is there twice, as {target[key].name!r} too; save one adapter at a time"
            )
        target[key] = header
    updates = {module: _update(adapter.location, module, parts) for module, parts in found.items()}
    bare = {module for module in updates if _is_parameter(module, config)}
    lora = LoraAdapter(
        location=adapter.location,
        updates={module: update for module, update in updates.items() if module not in bare},
        # PEFT wraps a module once for every parameter of it; which is which, their shapes tell.
        experts=tuple(replace(updates[name], module=_LAYERS.sub("", name)) for name in found if name in bare),
        whole=whole,
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        keeps_tied=bool(config.get("ensure_weight_tying")),
        _config=config,
    )
    for update in lora.updates.values():
        lora.check(update)
    return lora


def _is_parameter(module: str, config: Mapping[str, Any]) -> bool:
    """Whether what looks like a module is one whose parameters are adapted, not the module itself."""
    targets = config.get("target_modules")
    inner = _LAYERS.sub("", module)
    return bool(config.get("target_parameters")) and not (targets and _names(targets, inner))


def _place(name: str) -> tuple[str, str] | None:
    """``(module, part)`` of a tensor of an update."""
    for pattern, prefix in ((_FACTOR, ""), (_EMBEDDING_FACTOR, "embedding ")):
        if match := pattern.match(name):
            return match[
                "module"
            ], f"{prefix}{match['side']}{' bias' if match.groupdict().get('what') == 'bias' else ''}"
    if match := _MAGNITUDE.match(name):
        return match["module"], "magnitude"
    return None


def _update(location: str, module: str, parts: Mapping[str, TensorHeader]) -> LowRank:
    embedding = "embedding A" in parts or "embedding B" in parts
    down, up = (parts.get(f"{'embedding ' if embedding else ''}{side}") for side in "AB")
    if down is None or up is None:
        header = next(iter(parts.values()))
        raise adapter_error(
            location,
            header,
            f"has no partner: {module} needs a factor A and a factor B; fetch or save the adapter again",
        )
    for header in parts.values():
        if header.dtype not in FLOATS:
            raise adapter_error(location, header, f"is {header.dtype}, which is not read; save the adapter in float32")
    for header in (down, up):
        if len(header.shape) < 2 or 0 in header.shape:
            raise adapter_error(
                location,
                header,
                f"has shape {list(header.shape)}, which is no matrix; it was not gathered when it was saved",
            )
    known = {"A", "B", "B bias", "magnitude"} if not embedding else {"embedding A", "embedding B", "magnitude"}
    for key in parts.keys() - known:
        raise adapter_error(location, parts[key], "is not used by LoRA as PEFT has it; " + _MERGE_FIRST)
    return LowRank(module, down, up, parts.get("magnitude"), parts.get("B bias"), embedding)


def _check_config(location: str, config: Mapping[str, Any]) -> None:
    def fail(key: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{location}/{ADAPTER_CONFIG}: {key}: {problem}")

    kind = config.get("peft_type")
    if kind != "LORA":
        raise fail("peft_type", f"{kind!r} is not read, only 'LORA' is; {_MERGE_FIRST}")
    for key, reason in _UNSUPPORTED.items():
        if config.get(key):
            raise fail(key, f"{reason}; or {_MERGE_FIRST}")
    initial = config.get("init_lora_weights")
    if not any(initial is value or (isinstance(value, str) and initial == value) for value in _UNCHANGED_INITIALS):
        raise fail(
            "init_lora_weights",
            f"{initial!r} changes the model's own weights when training starts; save the adapter with PEFT's "
            f"path_initial_model_for_weight_conversion, or {_MERGE_FIRST}",
        )
    for key in ("r", "lora_alpha"):
        if key in config and not _is_number(config[key]):
            raise fail(key, f"{config[key]!r} is not a number; save the adapter again")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, Mapping) or not all(_is_number(value) for value in patterns.values()):
            raise fail(key, "must map names of modules to numbers; save the adapter again")
        _check_patterns(patterns, key, fail)
        for pattern in patterns:
            if not _is_quick(pattern):
                raise fail(
                    key, f"{pattern!r} has too many repetitions to be matched safely; write out the modules' names"
                )
    for key in ("target_modules", "exclude_modules"):
        value = config.get(key)
        if isinstance(value, str):
            _check_patterns([value], key, fail)
        elif value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise fail(key, "is neither a pattern nor a list of names; save the adapter again")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_patterns(patterns: Iterable[str], key: str, fail: Any) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise fail(key, f"{pattern!r} is not a regular expression ({error}); save the adapter again") from None


def _is_quick(pattern: str) -> bool:
    """Whether matching a name takes a time that cannot explode: few repetitions, and none of a group."""
    return len(re.findall(r"(?<!\\)[*+{]", pattern)) <= 2 and re.search(r"\)[*+{]", pattern) is None


def _ends_like(pattern: str, module: str) -> bool:
    """Whether a pattern matches a module's name, or the end of it after a dot, as PEFT compares them."""
    if pattern.startswith("^"):
        return re.fullmatch(pattern, module) is not None
    words = module.split(".")
    return any(re.fullmatch(pattern, ".".join(words[place:])) for place in range(len(words)))


def _names(targets: str | list[str], module: str) -> bool | None:
    """Whether a pattern or one of several names means a module; ``None`` where that takes too long to find out."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None if _is_quick(targets) else None
    return any(module == target or module.endswith(f".{target}") for target in targets)
