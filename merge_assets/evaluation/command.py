"""lm-eval's own command for what was evaluated here."""

from __future__ import annotations

import os
from pathlib import Path

from merge_assets.evaluation.results import ResultKey
from merge_assets.evaluation.suite import Suite

_ALLOW_CODE = "HF_ALLOW_CODE_EVAL"
"""What metrics that run programs ask for."""


def lm_eval_command(
    key: ResultKey, suite: Suite, model_dir: Path, *, device: str, batch_size: int, chat: bool, python_seed: int
) -> list[str]:
    """The command that gives the numbers of one result.

    Args:
        key: of the result.
        suite: that the task is of.
        model_dir: the checkpoint.
        device: where the model ran.
        batch_size: sequences per forward pass, as it was chosen.
        chat: whether prompts were turns of a conversation.
        python_seed: of Python's random.
    """
    model = {"pretrained": str(model_dir), "dtype": key.dtype}
    if key.trust_remote_code:
        model["trust_remote_code"] = "True"
    allowed = ["env", f"{_ALLOW_CODE}=1"] if key.settings.unsafe_code else []
    command = [*allowed, "lm_eval", "--model", "hf", *key.settings.command(model, chat=chat)]
    if suite.tasks_dir:
        command += ["--include_path", str(suite.tasks_dir)]
    command += ["--tasks", key.task, "--device", device, "--batch_size", str(batch_size)]
    command += ["--num_fewshot", str(key.shots)] if key.shots is not None else []
    command += ["--limit", str(key.limit)] if key.limit is not None else []
    return [*command, "--seed", f"{python_seed},{key.seed},{key.seed},{key.seed}"]


def allow_code(suite: Suite) -> None:
    """Let the metrics of this process, and of no other, run programs that a model wrote, if the suite says so."""
    if suite.unsafe_code:
        os.environ[_ALLOW_CODE] = "1"
