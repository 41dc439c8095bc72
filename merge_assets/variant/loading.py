"""What transformers makes of a config and of a variant: verbs of the model worker, the only process that imports this file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from logging import CRITICAL
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
import transformers.models.llama.modeling_llama
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from merge_assets.checkpoint import open_checkpoint
from merge_assets.model_worker import Desk
from merge_assets.model_worker.code import run_code_of
from merge_assets.model_worker.generation import fix_generation

_MOST = 10_000
"""Layers or experts of a part of a model; more would keep the library building for hours."""

_NEW_TOKENS = 8

_AUTO = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM", "AutoModel")
"""What the classes of a checkpoint's own code are listed as, the one that generates first."""

_IS_NUMBER = re.compile(r"(?:^|_)(?:idx|index|layer_id|layer_number|training)$")
"""Attributes that say which layer a module is of."""

logging.set_verbosity(CRITICAL)
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def loading_report(
    desk: Desk, *, config: str, tensors: Sequence[tuple[str, Sequence[int]]]
) -> dict[str, list[str]] | None:
    """What transformers says when it loads tensors of these names and shapes, without memory for them.

    Args:
        config: content of ``config.json``.
        tensors: name and shape of every stored tensor.

    Returns:
        Names by what is wrong with them, nothing where all is well; ``None`` where transformers does not know the model.
    """
    known = _model_of(json.loads(config))
    if known is None:
        return None
    kind, settings = known
    # One dtype stands for all: only names and shapes are looked at.
    state = {name: torch.empty(tuple(shape), dtype=torch.bfloat16, device="meta") for name, shape in tensors}
    _, said = kind.from_pretrained(
        None,
        config=settings,
        state_dict=state,
        device_map="meta",
        dtype=torch.bfloat16,
        attn_implementation=None,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    found = {
        "missing": sorted(said["missing_keys"]),
        "unexpected": sorted(said["unexpected_keys"]),
        "shapes differ": sorted(str(item[0]) for item in said["mismatched_keys"]),
        "not convertible": sorted(map(str, said.get("conversion_errors") or ())),
    }
    return {what: names for what, names in found.items() if names}


def roles(desk: Desk, *, config: str, key: Sequence[str], count: int) -> dict[str, list[Any]]:
    """Every per-layer list of words or flags that transformers derives from a config, by its name.

    Args:
        config: content of ``config.json``.
        key: path of the number of layers in it.
        count: that number.
    """
    level = _settings(json.loads(config))
    for step in key[:-1]:
        level = getattr(level, step, None)
    return dict(_lists(level, count)) if level is not None else {}


def by_layer(desk: Desk, *, config: str, count: int) -> dict[str, list[Any]]:
    """Every number, flag and word that the modules of a model's layers hold, besides weights: one for each layer, by its name.

    The layers are those of the largest list of modules of that length; a model of shapes without elements is made for it. What
    only says which layer it is does not count.

    Args:
        config: content of ``config.json``.
        count: number of layers.
    """
    known = _model_of(json.loads(config))
    if known is None:
        return {}
    kind, settings = known
    with torch.device("meta"):
        model = kind(settings)
    lists = [one for one in model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == count]
    if not lists:
        return {}
    layers = max(lists, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))
    found: dict[str, list[Any]] = {}
    for number, layer in enumerate(layers):
        for path, module in layer.named_modules():
            for name, value in vars(module).items():
                if (
                    isinstance(value, (bool, int, float, str))
                    and not name.startswith("_")
                    and not _IS_NUMBER.search(name)
                ):
                    found.setdefault(f"{path}.{name}".lstrip("."), [None] * count)[number] = value
    return {name: values for name, values in found.items() if values != list(range(count))}


def trial(desk: Desk, *, directory: str, code: str | None) -> dict[str, Any] | None:
    """Load a variant.

    Args:
        directory: its folder.
        code: an empty folder for the code that it carries, if that may be run.

    Returns:
        Names by what is wrong with them as ``wrong``, and whether it ``generates`` text. ``None`` where transformers does not
        know the model.
    """
    folder = Path(directory)
    config = json.loads((folder / "config.json").read_text())
    kind = None if code is None else _own_kind(config)
    if code is not None:
        run_code_of(folder, code)
    if kind is None:
        known = _model_of(config)
        if known is None:
            return None
        kind = known[0]
    desk.held["trust"] = code is not None
    # Without a word on attention the library takes its own choice; the config's may be code of the Hub.
    model, report = kind.from_pretrained(
        folder,
        dtype="auto",
        attn_implementation=None,
        trust_remote_code=desk.held["trust"],
        local_files_only=True,
        output_loading_info=True,
    )
    beyond = open_checkpoint(folder).stacks
    said = {
        kind: sorted(n for n in map(str, names) if not any(stack.split_tail(n) is not None for stack in beyond))
        for kind, names in report.items()
    }
    desk.held["model"] = model
    generates = model.can_generate() and model.main_input_name == "input_ids"
    return {"wrong": {kind: names for kind, names in said.items() if names}, "generates": generates}


def generated(desk: Desk, *, directory: str) -> str:
    """What the model of the last :func:`trial` says after a word; without a tokenizer, whether anything follows a token."""
    folder, model = Path(directory), desk.held["model"]
    fix_generation(model)
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").is_file():
        with torch.inference_mode():
            model.generate(input_ids=torch.ones(1, 1, dtype=torch.int64), max_new_tokens=_NEW_TOKENS, do_sample=False)
        return ""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=desk.held["trust"], local_files_only=True)
    prompt = tokenizer("The", return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
        )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def _own_kind(config: Mapping[str, Any]) -> Any:
    """The library's class for models of code of their own that a ``config.json`` asks for; ``None`` if it asks for none."""
    names = config.get("auto_map")
    if not isinstance(names, Mapping):
        return None
    return next((getattr(transformers, name) for name in _AUTO if name in names), None)


def _model_of(config: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """``(model class, configuration)`` of a ``config.json`` as transformers knows them, or ``None``."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        return None
    settings = _settings(config)
    return None if settings is None else (kind, settings)


def _settings(config: Mapping[str, Any]) -> Any:
    """The configuration that transformers reads out of a ``config.json``; ``None`` for a model type it does not know."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    for key, value in _numbers(config):
        if value > _MOST and any(word in key for word in ("layer", "depth", "expert")):
            raise ValueError(f"{key} is {value}")
    with TemporaryDirectory() as folder:  # the library's reading of a file is more than its reading of a mapping
        Path(folder, "config.json").write_text(json.dumps(config, sort_keys=True))
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number of a config, with its key."""
    for key, value in config.items():
        if type(value) is int:
            yield key, value
        elif isinstance(value, Mapping):
            yield from _numbers(value)


def _lists(level: Any, count: int) -> Iterator[tuple[str, list[Any]]]:
    for name in ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "attention_layers"):
        value = getattr(level, name, None)
        if isinstance(value, (list, tuple)) and len(value) == count:
            yield name, list(value)
    experts = getattr(level, "moe_layers", None)
    if isinstance(experts, (list, tuple)):
        yield "moe_layers", [number in experts for number in range(count)]
