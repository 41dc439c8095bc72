"""lm-eval's model of vLLM, watched. vLLM is a package of its own; tried by hand on a CPU, see docs/suites.md.

Imported by the model worker alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.answers import Answer
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.model_settings import ModelSettings
from merge_assets.evaluation.watching import Watching
from merge_assets.model_worker import reason

_ANSWERING = ("lm_eval", "transformers", "torch", "vllm")
_AT_ONCE = 512
"""Prompts that are given to vLLM together, which makes its own batches of them, where a suite leaves it to us: answers are kept
after each time."""


def vllm_arguments(
    directory: Path, settings: ModelSettings, *, dtype: str, batch_size: int | str, trust: bool
) -> dict[str, Any]:
    """Arguments of lm-eval's class ``vllm``.

    Args:
        directory: of the checkpoint.
        settings: how it is asked.
        dtype: of the loaded weights.
        batch_size: prompts that vLLM gets together, or "auto".
        trust: whether the checkpoint's own code may run.
    """
    given = {"pretrained": str(directory), "dtype": dtype, "batch_size": batch_size, **settings.arguments()}
    return {**given, "trust_remote_code": True} if trust else given


def loaded_by_vllm(
    directory: Path, settings: ModelSettings, *, dtype: str, batch_size: int | str, trust: bool, meter: Meter
) -> Any:
    """A checkpoint as lm-eval's model of vLLM; see :func:`vllm_arguments`.

    Raises:
        EvaluationError: vLLM is not installed, or the checkpoint does not load.
    """
    needed = ["vllm", *(["ray"] if settings.vllm.data_parallel_size > 1 else [])]
    if missing := [package for package in needed if find_spec(package) is None]:
        raise EvaluationError(
            f"backend: vllm needs {' and '.join(missing)}, which is not installed: pip install {' '.join(missing)} (for CUDA); "
            "or serve the model with it elsewhere, and set backend: endpoint"
        )
    arguments = vllm_arguments(directory, settings, dtype=dtype, batch_size=batch_size, trust=trust)
    try:
        lm = watched_kind(importlib.import_module("lm_eval.models.vllm_causallms").VLLM)(**arguments)
    except Exception as error:
        raise EvaluationError(f"{directory}: the checkpoint does not load: {reason(error)}") from error
    lm.arguments = {name: value for name, value in arguments.items() if name != "batch_size"}
    if settings.vllm.data_parallel_size > 1:
        lm.batches = sys.maxsize  # lm-eval loads the model anew for each time that it is asked
    elif batch_size != "auto":
        lm.batches = int(batch_size)
    lm.attach(meter)
    return lm


def watched_kind(vllm: Any) -> Any:
    """lm-eval's class ``vllm``, watched; a class of it can be made only where vLLM is installed."""

    class VllmLM(Watching, vllm):  # type: ignore[misc]
        arguments: Mapping[str, Any] = {}
        batches = _AT_ONCE
        spare = -1

        @property
        def batch_size(self) -> int:
            return self.batches

        @batch_size.setter
        def batch_size(self, size: object) -> None:
            """lm-eval's own; how much is asked together is :attr:`batches`."""

        def choose_batch_size(self, memory: int | None) -> None:
            """vLLM makes its own batches."""

        def circumstances(self) -> dict[str, Any]:
            versions = {package: importlib.metadata.version(package) for package in _ANSWERING}
            return {
                "backend": "vllm",
                "device": "cuda" if torch.cuda.is_available() else "cpu",
                "dtype": str(self.model_args["dtype"]),
                "versions": versions,
            }

        def _generate(self, requests: list[Any], lengths: Sequence[int]) -> list[Answer]:
            texts = vllm.generate_until(self, requests, disable_tqdm=True)
            bound = int(requests[0].args[1].get("max_gen_toks", self.max_gen_toks))
            # Its class keeps no reason of an end: an answer of as many tokens as it may have came to none.
            ended = [len(self.tokenizer.encode(text, add_special_tokens=False)) < bound for text in texts]
            return [
                (text, not end, length > max(self.max_length - bound, 0))
                for text, end, length in zip(texts, ended, lengths, strict=True)
            ]

    return VllmLM
