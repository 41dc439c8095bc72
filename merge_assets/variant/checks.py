"""Checks of a finished variant, made once, right after it was built."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_assets.checkpoint import Checkpoint, nonfinite_elements, open_checkpoint
from merge_assets.errors import CheckpointError, ModelWorkerError, printable
from merge_assets.model_worker import FOREIGN, Limits, ModelWorker, code_folder
from merge_assets.plan import Plan
from merge_assets.plan.code import code_models, is_trusted
from merge_assets.records import Check
from merge_assets.variant.agreement import DEFAULT, LOADING, describe, loading_report
from merge_assets.work import UNATTENDED, Work

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
    trusted: Collection[str] = (),
    limits: Limits = DEFAULT,
    work: Work = UNATTENDED,
) -> list[Check]:
    """Check a variant that was written for ``plan``.

    Args:
        directory: the variant's folder.
        plan: what it was built from.
        nonfinite: NaN and infinite elements by tensor, where there are any; see :func:`count_nonfinite`.
        here: whether the folder holds the weights, not just the headers of their files.
        agreement: what ``config_agrees`` found of the same config, names and shapes before.
        trusted: models whose code may be run.
        limits: of the processes in which it is loaded.
        work: asked several times a second.

    Raises:
        Stopped: on request.
    """
    outcomes = [_finite(plan, nonfinite)]
    outcomes.append(agreement or _config_agrees(directory, plan, limits, work))
    work.check("checking the variant")
    outcomes.append(_loads_and_generates(directory, code_models(plan), trusted, limits, work) if here else _NOT_HERE)
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


def _config_agrees(directory: Path, plan: Plan, limits: Limits, work: Work) -> Check:
    """Load tensors of the stored names and shapes into the model of the stored config, without memory for either."""
    name = "config_agrees"
    try:
        checkpoint = open_checkpoint(directory)
    except CheckpointError as error:
        return Check(name=name, passed=False, description=f"the variant cannot be opened: {error}")
    stored = tuple((n, tensor.shape) for n, tensor in checkpoint.tensors.items() if not _is_beyond(n, checkpoint))
    report = loading_report(json.dumps(checkpoint.config, sort_keys=True), stored, limits, work)
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


def _loads_and_generates(
    directory: Path, needed: Sequence[str], trusted: Collection[str], limits: Limits, work: Work
) -> Check:
    """Load the variant in the model worker, and generate if it is a language model; with its code, if that may be run."""
    trust = is_trusted(needed, trusted)
    by = f", by code of {', '.join(needed)}" if trust else ""
    weights = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    most = limits.bytes_of_memory()
    if most is not None and weights > most * 0.9:
        return _trial(True, "not tried: the weights need more memory than is free here", {"tried": False})
    folder = {"directory": str(directory)}
    try:
        with ModelWorker(LOADING, limits) as worker, code_folder(trust) as code:
            said = worker.ask("trial", folder | {"code": code}, limit="load", work=work.silent())
            if said is None:
                why = "transformers does not know the model type"
                why += f"; {FOREIGN}" if needed and not trust else ""
                return _trial(True, f"not tried: {why}", {"tried": False})
            if wrong := said["wrong"]:
                return _trial(False, f"loading reports {json.dumps(wrong)[:300]}", wrong)
            if not said["generates"]:
                return _trial(True, f"transformers loads it without missing or unexpected keys{by}", {"text": ""})
            text = worker.ask("generated", folder, limit="answer", work=work.silent())
    except ModelWorkerError as error:
        return _trial(False, f"transformers cannot load it and generate: {error}", {})
    return _trial(
        True,
        f"transformers loads it without missing or unexpected keys and generates{by}",
        {"text": printable(str(text))},
    )


def _trial(passed: bool, description: str, metadata: Mapping[str, Any]) -> Check:
    return Check(name="loads_and_generates", passed=passed, description=printable(description), metadata=metadata)
