"""Metrics by the number of tokens, beside lm-eval's, of the samples that it logs: perplexity of a text, tokens per answer.

Imported by the model worker alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np

from merge_assets.evaluation.suite_task import TOKENS


def add_counts(output: dict[str, Any], tasks: Iterable[Any], lm: Any) -> None:
    """Adds ``perplexity`` to tasks of whole texts and ``tokens_per_answer`` to those that generate, and to their samples.

    Args:
        output: of lm-eval, with samples; changed.
        tasks: of lm-eval, single ones.
        lm: lm-eval's model, whose tokens are counted: those of a text that are predicted, those of an answer's text.
    """
    for task in tasks:
        samples = output["samples"].get(task.task_name, [])
        measured = [sample for sample in samples if sample["metrics"]]
        if not measured:
            continue
        first = measured[0]["filter"]  # the filters are of the same answers
        measured = [sample for sample in measured if sample["filter"] == first]
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            name: str = "perplexity"
            found: list[Any] = [
                (float(one["resps"][0][0]), len(lm.tok_encode(one["arguments"][0][0]))) for one in measured
            ]
            value = float(np.exp(-sum(each for each, _ in found) / sum(count for _, count in found)))
            stderr = None
        elif task.OUTPUT_TYPE == "generate_until":
            name = TOKENS
            found = [len(lm.tok_encode(one["resps"][0][0], add_special_tokens=False)) for one in measured]
            value = statistics.fmean(found)
            stderr = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
        else:
            continue
        for sample, each in zip(measured, found, strict=True):
            sample["metrics"] = [*sample["metrics"], name]
            sample[name] = each
        output["results"][task.task_name] |= {f"{name},{first}": value, f"{name}_stderr,{first}": stderr}
        output["higher_is_better"].setdefault(task.task_name, {})[name] = False
