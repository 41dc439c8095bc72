"""Checks of a finished variant, made once, right after it was built."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_assets.checkpoint import Checkpoint, nonfinite_elements, open_checkpoint
from merge_assets.errors import CheckpointError
from merge_assets.plan import Plan
from merge_assets.records import Check
from merge_assets.variant.agreement import REFUSALS, describe, loading_report, model_of
from merge_assets.work import UNATTENDED, Work

_NEW_TOKENS = 8


_NOT_HERE = Check(
    name="loads_and_generates",
    passed=True,
    description="not tried: the weights lie in an object store; the evaluation loads them",
    metadata={"tried": False},
)

CHECKS = ("finite", "config_agrees", "loads_and_generates")
"""Names of the checks, in the order of :func:`check_variant`."""


def check_variant(
    directory: Path,
    plan: Plan,
    nonfinite: Mapping[str, int],
    *,
    here: bool = True,
    agreement: Check | None = None,
    work: Work = UNATTENDED,
) -> list[Check]:
    """Check a variant that was written for ``plan``.

    Args:
        directory: the variant's folder.
        plan: what it was built from.
        nonfinite: NaN and infinite elements by tensor, where there are any; see :func:`count_nonfinite`.
        here: whether the folder holds the weights, not just the headers of their files.
        agreement: what ``config_agrees`` found of the same config, names and shapes before.
        work: asked between checks.

    Raises:
        Stopped: on request.
    """
    outcomes = [_finite(plan, nonfinite)]
    outcomes.append(agreement or _config_agrees(directory, plan))
    work.check("checking the variant")
    outcomes.append(_loads_and_generates(directory) if here else _NOT_HERE)
    return outcomes


def count_nonfinite(
    plan: Plan, computed: Mapping[str, int], known: Mapping[str, int], work: Work = UNATTENDED
) -> dict[str, int]:
    """NaN and infinite elements of a variant by tensor, where there are any.

    Args:
        plan: what was built.
        computed: what the engine counted among the tensors that it computed.
        known: counts of tensors that were taken as they are from where they had been counted.
        work: asked between tensors.

    Raises:
        Stopped: on request.
    """
    found = {name: count for name, count in (dict(computed) | dict(known)).items() if count}
    for tensor in plan.tensors:
        if not tensor.is_copy or tensor.name in known:
            continue
        work.check("looking for NaN and infinities")
        item = tensor.inputs[0]
        if count := nonfinite_elements(Path(plan.models[item.model].location, item.header.file), item.header):
            found[tensor.name] = count
    return found


def _finite(plan: Plan, bad: Mapping[str, int]) -> Check:
    if bad:
        return Check(
            name="finite", passed=False, description=f"{len(bad)} tensors hold NaN or infinite elements", metadata=bad
        )
    return Check(name="finite", passed=True, description=f"all elements of {len(plan.tensors)} tensors are finite")


def _config_agrees(directory: Path, plan: Plan) -> Check:
    """Load tensors of the stored names and shapes into the model of the stored config, without memory for either."""
    name = "config_agrees"
    try:
        checkpoint = open_checkpoint(directory)
    except CheckpointError as error:
        return Check(name=name, passed=False, description=f"the variant cannot be opened: {error}")
    stored = tuple((n, tensor.shape) for n, tensor in checkpoint.tensors.items() if not _is_beyond(n, checkpoint))
    report = loading_report(json.dumps(checkpoint.config, sort_keys=True), stored)
    if report is None:
        return Check(
            name=name,
            passed=True,
            description=f"not tried: transformers does not know the model type {checkpoint.config.get('model_type')!r}",
            metadata={"tried": False},
        )
    if report:
        return Check(
            name=name,
            passed=False,
            description=f"config.json and the weights disagree: {describe(report)}",
            metadata=dict(report),
        )
    return Check(
        name=name,
        passed=True,
        description=f"{len(stored)} tensors have the names and shapes that the config asks for",
        metadata={"layers": plan.layer_count},
    )


def _is_beyond(name: str, checkpoint: Checkpoint) -> bool:
    """Whether a tensor is of a prediction head numbered beyond the last layer, which transformers leaves out."""
    return any(stack.split_tail(name) is not None for stack in checkpoint.stacks)


def _loads_and_generates(directory: Path) -> Check:
    """Load the variant, and generate if it is a language model."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    name = "loads_and_generates"
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if weights > free * 0.8:
        return Check(
            name=name,
            passed=True,
            description="not tried: the weights need more memory than is free here",
            metadata={"tried": False},
        )
    try:
        known = model_of(json.loads((directory / "config.json").read_text()))
        if known is None:
            return Check(
                name=name,
                passed=True,
                description="not tried: transformers does not know the model type",
                metadata={"tried": False},
            )
        model, report = known[0].from_pretrained(directory, dtype="auto", output_loading_info=True)
        checkpoint = open_checkpoint(directory)
        said = {
            kind: sorted(n for n in map(str, names) if not _is_beyond(n, checkpoint)) for kind, names in report.items()
        }
        wrong = {kind: names for kind, names in said.items() if names}
        if wrong:
            return Check(
                name=name, passed=False, description=f"loading reports {json.dumps(wrong)[:300]}", metadata=wrong
            )
        if not model.can_generate() or model.main_input_name != "input_ids":
            return Check(
                name=name,
                passed=True,
                description="transformers loads it without missing or unexpected keys",
                metadata={"text": ""},
            )
        text = _generated(directory, model)
    except (*REFUSALS, CheckpointError) as error:
        return Check(
            name=name,
            passed=False,
            description=f"transformers cannot load it and generate: {type(error).__name__}: {error}",
        )
    return Check(
        name=name,
        passed=True,
        description="transformers loads it without missing or unexpected keys and generates",
        metadata={"text": text},
    )


def _generated(directory: Path, model: Any) -> str:
    """What follows a word; without a tokenizer, whether anything follows the first token."""
    import torch
    from transformers import AutoTokenizer

    if not any(directory.glob("tokenizer*")) and not (directory / "vocab.json").is_file():
        with torch.inference_mode():
            model.generate(input_ids=torch.ones(1, 1, dtype=torch.int64), max_new_tokens=_NEW_TOKENS, do_sample=False)
        return ""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer("The", return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
        )
    return str(tokenizer.decode(output[0], skip_special_tokens=True))
