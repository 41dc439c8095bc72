"""lm-eval's model of transformers, watched: what it is asked and answers is counted and kept; the numbers stay its own.

Imported by the model worker alone.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models.huggingface
import torch
import transformers
import transformers.models.llama.modeling_llama  # with what all families of models import, once for all workers

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.answers import Answer
from merge_assets.evaluation.batching import batch_size, bytes_per_token
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.watching import Watching
from merge_assets.model_worker import reason
from merge_assets.model_worker.generation import fix_generation

_ANSWERING = ("lm_eval", "transformers", "torch")
"""Packages whose versions may change the last digits of an answer."""


class WatchedLM(Watching, lm_eval.models.huggingface.HFLM):  # type: ignore[misc]  # lm-eval ships no types
    """lm-eval's model of transformers, watched; lm-eval makes the same tensors of each batch that it makes of all."""

    arguments: dict[str, Any]
    _free: int | None = None
    _is_chosen = True

    def _shares_prompts(self) -> bool:
        return bool(self.backend == "causal" and self.logits_cache)

    def circumstances(self) -> dict[str, Any]:
        """On what its answers depend besides its bytes and what is asked."""
        device = str(self.device)
        return {
            "device": device.partition(":")[0],
            "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else "",
            "dtype": str(self.model.dtype),
            "versions": {package: importlib.metadata.version(package) for package in _ANSWERING},
        }

    def watch_layers(self) -> None:
        """A sign of life before every call of the model and of each of its layers, generation steps included."""

        def poll(*_: object) -> None:
            if self.meter is not None:
                self.meter.check()

        self.model.register_forward_pre_hook(poll)
        for module in self.model.modules():
            if isinstance(module, torch.nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(poll)

    def _ends(self) -> set[int]:
        """The tokens that end what the model generates."""
        own = self.model.generation_config.eos_token_id
        return {self.eot_token_id, *(own if isinstance(own, list) else [own])} - {None}

    def begin(self, known: Mapping[str, list[Answer]], keep: Callable[[str, list[Answer]], None]) -> None:
        super().begin(known, keep)
        self._free = None
        self._is_chosen = True

    def choose_batch_size(self, memory: int | None) -> None:
        """Choose it by the longest of the first requests, and keep it for the task.

        Args:
            memory: bytes that this process may take, if that is bounded.
        """
        weights = sum(each.numel() * each.element_size() for each in self.model.parameters())
        self._free = None if memory is None else memory - weights
        if self.device.type == "cuda":
            self._free = torch.cuda.mem_get_info(self.device)[0]
        self._is_chosen = False

    def _choose(self, longest: int) -> None:
        if not self._is_chosen:
            per_token = bytes_per_token(self.config, self.model.dtype.itemsize)
            self.batch_size_per_gpu = batch_size(self._free, min(longest, self.max_length), per_token, self.device.type)
            self._is_chosen = True

    def _generate(self, requests: list[Any], lengths: Sequence[int]) -> list[Answer]:
        """One batch: the texts, whether they came to no end, and whether their prompts were cut."""
        texts = lm_eval.models.huggingface.HFLM.generate_until(self, requests, disable_tqdm=True)
        return [
            (text, endless, length > self._room)
            for text, endless, length in zip(texts, self._endless, lengths, strict=True)
        ]

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **options: Any
    ) -> Any:
        self._room = math.inf if left_truncate_len is None else left_truncate_len
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, **options)

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        texts = super()._model_generate(context, max_length, stop, **options)
        ends = self._ends()
        rows = [row[context.shape[1] :].tolist() for row in texts]
        self._endless = [
            texts.shape[1] >= max_length
            and ends.isdisjoint(row)
            and not any(word in self.tok_decode(row, skip_special_tokens=False) for word in stop)
            for row in rows
        ]
        return texts


def is_failed(answer: object) -> bool:
    """Whether an answer is no number: NaN of a text, and of a whole document also what is infinite."""
    if isinstance(answer, tuple | list):
        return bool(answer) and isinstance(answer[0], float) and math.isnan(answer[0])
    return isinstance(answer, float) and not math.isfinite(answer)


def leave_out_failed(tasks: Sequence[Any]) -> dict[str, list[bool]]:
    """Have lm-eval give no metric to documents whose answers are no numbers.

    Args:
        tasks: of lm-eval, each with its own name.

    Returns:
        By the name of the task, for every document that is looked at from now on whether it is left out.
    """
    seen: dict[str, list[bool]] = defaultdict(list)
    for task in tasks:
        process = task.process_results

        def measured(doc: Any, results: Any, process: Any = process, name: str = task.task_name) -> Any:
            seen[name].append(any(map(is_failed, results)))
            return {} if seen[name][-1] else process(doc, results)

        task.process_results = measured
    return seen


def loaded(
    kind: type[WatchedLM], directory: Path, arguments: Mapping[str, Any], trust: bool, meter: Meter
) -> WatchedLM:
    """A checkpoint as lm-eval's model.

    Args:
        kind: of model.
        directory: of the checkpoint.
        arguments: of lm-eval's model class, but for those below.
        trust: whether the checkpoint's own code may run.
        meter: told of what is asked.

    Raises:
        EvaluationError: it does not load.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trust)
        # The library's own choice: what the config says may be code of the Hub.
        config._attn_implementation = None
        lm = kind(pretrained=str(directory), trust_remote_code=trust, config=config, **arguments)
        fix_generation(lm.model)
    except Exception as error:
        raise EvaluationError(f"{directory}: the checkpoint does not load: {reason(error)}") from error
    lm.arguments = {"pretrained": str(directory), "dtype": arguments["dtype"]}
    if trust:
        lm.arguments["trust_remote_code"] = "True"
    lm.attach(meter)
    lm.watch_layers()
    return lm
