"""lm-eval's own command for what was evaluated here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from merge_assets.evaluation.results import ResultKey
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.texts import TEXT_TASK, TEXT_TASK_NAME, text_metadata

_ALLOW_CODE = "HF_ALLOW_CODE_EVAL"
"""What metrics that run programs ask for."""

_KINDS = {"hf": "hf", "endpoint": "local-completions", "vllm": "vllm"}
"""lm-eval's name of each backend."""


def lm_eval_command(
    key: ResultKey,
    suite: Suite,
    *,
    device: str,
    batch_size: int,
    chat: bool,
    python_seed: int,
    model: Mapping[str, Any],
    samples: Mapping[str, Sequence[int]] | None = None,
) -> list[str]:
    """The command that gives the numbers of one result.

    Args:
        key: of the result.
        suite: that the task is of.
        device: where the model ran.
        batch_size: sequences per forward pass, as it was chosen.
        chat: whether prompts were turns of a conversation.
        python_seed: of Python's random.
        model: arguments of lm-eval's class, but for those that a suite sets.
        samples: per task name, the numbers of the documents that are asked; None takes all, or the first.
    """
    text = text_metadata(suite, key.task)
    folder, task = (TEXT_TASK, TEXT_TASK_NAME) if text else (suite.tasks_dir, key.task)
    allowed = ["env", f"{_ALLOW_CODE}=1"] if key.settings.unsafe_code else []
    command = [*allowed, "lm_eval", "--model", _KINDS[key.settings.backend], *key.settings.command(model, chat=chat)]
    command += ["--include_path", str(folder)] if folder else []
    command += ["--tasks", task]
    command += ["--device", device] if key.settings.backend == "hf" else []
    command += ["--batch_size", str(batch_size)]
    command += ["--metadata", json.dumps(text)] if text else []
    command += ["--num_fewshot", str(key.shots)] if key.shots is not None else []
    if samples is not None:
        command += ["--samples", json.dumps({task if text else name: found for name, found in samples.items()})]
    elif key.limit is not None:
        command += ["--limit", str(key.limit)]
    return [*command, "--seed", f"{python_seed},{key.seed},{key.seed},{key.seed}"]


def allow_code(suite: Suite) -> None:
    """Let the metrics of this process, and of no other, run programs that a model wrote, if the suite says so."""
    if suite.unsafe_code:
        os.environ[_ALLOW_CODE] = "1"
