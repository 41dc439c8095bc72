"""Checks of a finished variant, made once, right after it was built."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from merge_assets.checkpoint import DTYPES, TORCH_NAMES, open_checkpoint
from merge_assets.errors import CheckpointError, Stopped
from merge_assets.plan import OutputTensor, Plan
from merge_assets.progress import ShouldStop

_CHUNK = 8 << 20
_NEW_TOKENS = 8


@dataclass(frozen=True)
class CheckOutcome:
    """What one check found.

    Attributes:
        name: of the check.
        passed: whether the variant is as it should be.
        description: one sentence for people.
        metadata: figures behind it, plain JSON.
    """

    name: str
    passed: bool
    description: str
    metadata: Mapping[str, object] = field(default_factory=dict)


CHECKS = ("finite", "config_agrees", "loads_and_generates")
"""Names of the checks, in the order of :func:`check_variant`."""


def check_variant(
    directory: Path,
    plan: Plan,
    nonfinite: Mapping[str, int] | None = None,
    *,
    should_stop: ShouldStop | None = None,
) -> list[CheckOutcome]:
    """Check a variant that was written for ``plan``.

    Args:
        directory: the variant's folder.
        plan: what it was built from.
        nonfinite: NaN and infinite elements by tensor that the engine counted among those it computed.
        should_stop: polled between tensors and between checks.

    Raises:
        Stopped: on request.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    outcomes = [_finite(directory, plan, nonfinite or {}, should_stop)]
    outcomes.append(_config_agrees(directory, plan))
    if should_stop is not None and should_stop():
        raise Stopped("stopped between checks")
    outcomes.append(_loads_and_generates(directory))
    return outcomes


def _finite(directory: Path, plan: Plan, computed: Mapping[str, int], should_stop: ShouldStop | None) -> CheckOutcome:
    """The engine counts computed NaN and infinities; bytes that were copied are looked at here."""
    bad = dict(computed)
    for tensor in plan.tensors:
        if not tensor.is_copy or tensor.dtype not in TORCH_NAMES:
            continue
        if should_stop is not None and should_stop():
            raise Stopped("stopped while checking for NaN and infinities")
        count = _nonfinite(directory / plan.shards[tensor.shard].file, tensor)
        if count:
            bad[tensor.name] = count
    if bad:
        return CheckOutcome("finite", False, f"{len(bad)} tensors hold NaN or infinite elements", bad)
    return CheckOutcome("finite", True, f"all elements of {len(plan.tensors)} tensors are finite")


def _nonfinite(path: Path, tensor: OutputTensor) -> int:
    dtype = getattr(torch, TORCH_NAMES[tensor.dtype])
    if not dtype.is_floating_point:
        return 0
    count, width = 0, DTYPES[tensor.dtype]
    with path.open("rb") as file:
        file.seek(tensor.begin)
        left = tensor.nbytes
        while left:
            raw = bytearray(file.read(min(left, _CHUNK // width * width)))
            left -= len(raw)
            values = torch.frombuffer(raw, dtype=dtype)
            if width > 1 and not torch.isfinite(values.sum()):
                count += int((~torch.isfinite(values)).sum())
    return count


def _config_agrees(directory: Path, plan: Plan) -> CheckOutcome:
    """Instantiate the model from its config without memory and compare names and shapes with the headers."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_utils import PreTrainedModel

    name = "config_agrees"
    try:
        checkpoint = open_checkpoint(directory)
        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (CheckpointError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        return CheckOutcome(name, False, f"the config does not describe a model that transformers knows: {error}")
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    stored = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    missing = sorted(key for key in expected if key not in stored and key not in tied)
    shapes = sorted(key for key in expected if key in stored and expected[key] != stored[key])
    extra = sorted(key for key in stored if key not in expected)
    problems = {"missing": missing, "unexpected": extra, "shapes differ": shapes}
    found = {kind: names for kind, names in problems.items() if names}
    if found:
        text = "; ".join(f"{kind}: {', '.join(names[:3])} ({len(names)})" for kind, names in found.items())
        return CheckOutcome(name, False, f"config.json and the weights disagree: {text}", dict(found))
    return CheckOutcome(
        name,
        True,
        f"{len(stored)} tensors have the names and shapes that the config asks for",
        {"layers": plan.layer_count},
    )


def _loads_and_generates(directory: Path) -> CheckOutcome:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "loads_and_generates"
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if weights > free * 0.8:
        return CheckOutcome(name, True, "not tried: the weights need more memory than is free here", {"tried": False})
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
        model, report = loaded
        wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
        if wrong:
            return CheckOutcome(name, False, f"loading reports {json.dumps(wrong)[:300]}", wrong)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        prompt = tokenizer("The", return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**prompt, max_new_tokens=_NEW_TOKENS, do_sample=False)
        text = tokenizer.decode(output[0], skip_special_tokens=True)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, IndexError, AttributeError) as error:
        return CheckOutcome(name, False, f"transformers cannot load it and generate: {type(error).__name__}: {error}")
    return CheckOutcome(
        name, True, "transformers loads it without missing or unexpected keys and generates", {"text": text}
    )
