"""A few documents of a task made into prompts, without a model: a verb of the model worker."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from merge_assets.evaluation.command import allow_code
from merge_assets.evaluation.data import reading, single_tasks
from merge_assets.evaluation.draws import keep_made_apart, seed_all
from merge_assets.evaluation.indexing import manager_of
from merge_assets.evaluation.packages import fit_packages
from merge_assets.evaluation.quiet import be_quiet
from merge_assets.evaluation.room import room_of
from merge_assets.evaluation.suite import Suite
from merge_assets.evaluation.task_index import ships
from merge_assets.model_worker import Desk

_USUAL_ANSWER = 256
"""lm-eval's, where the task says none."""


def rehearse(
    desk: Desk,
    *,
    suite: Mapping[str, Any],
    suite_file: str,
    index: str | None,
    task: str,
    shots: int | None,
    documents: int,
    revision: str | None,
    fetched: Sequence[Sequence[Any]],
    model_dir: str | None,
) -> dict[str, Any]:
    """Make prompts of a seeded sample of one task's documents.

    Args:
        suite: content of the suite, as JSON.
        suite_file: where it was read.
        index: the file with the names of lm-eval's own tasks, if that is kept.
        task: a single task.
        shots: examples before each question; ``None`` leaves it to the task.
        documents: how many are taken.
        revision: the commit of the data that the suite pins.
        fetched: the data that were fetched for it.
        model_dir: folder with a tokenizer and a config; ``None`` if there is none yet, and no prompt is measured.

    Returns:
        ``documents`` of the task; ``requests`` per document; ``kind`` of requests; ``answer``: most tokens of a generated one;
        ``seconds`` of this process's CPU. With a tokenizer ``room``: tokens of the context; ``tokens`` of each request that
        was made. Its ``chat`` is ``no template`` where a suite asks for one and the tokenizer has none.
    """
    began = time.process_time()
    be_quiet()
    read = Suite.model_validate({**suite, "file": Path(suite_file)})
    allow_code(read)
    keep_made_apart()
    seed_all(read.seed)
    defaults = ships(read, task)
    if defaults not in desk.held:
        desk.held[defaults] = manager_of(read, index, defaults=defaults, metadata={"pretrained": model_dir or ""})
    manager: TaskManager = desk.held[defaults]
    with reading(revision, fetched):
        one = single_tasks(manager.load([task])["tasks"].values())[0]
    fit_packages()
    if shots is not None:
        one.set_config(key="num_fewshot", value=shots)
    elif one.get_config("num_fewshot") is None:
        one.set_config(key="num_fewshot", value=0)
    one.set_fewshot_seed(seed=read.seed)
    count = len(one.eval_docs)
    sample = sorted(random.Random(read.seed).sample(range(count), min(documents, count)))
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True) if model_dir else None
    told: dict[str, Any] = {"documents": count, "answer": 0}
    asked: dict[str, Any] = {}
    if read.chat_template not in ("auto", "off"):
        template = None if read.chat_template == "on" else read.chat_template
        if tokenizer is not None and template is None and not tokenizer.chat_template:
            told["chat"] = "no template"
        elif tokenizer is not None:

            def turns(history: Any, add_generation_prompt: bool = True) -> Any:
                return tokenizer.apply_chat_template(
                    history, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
                )

            asked = {
                "apply_chat_template": True,
                "chat_template": turns,
                "fewshot_as_multiturn": read.fewshot_as_multiturn,
            }
    one.build_all_requests(samples=sample, system_instruction=read.system_prompt, **asked)
    requests = one.instances
    told |= {"requests": len(requests) / max(len(sample), 1), "kind": requests[0].request_type}
    if told["kind"] == "generate_until":
        own = requests[0].args[1].get("max_gen_toks") or _USUAL_ANSWER
        told["answer"] = read.generation.max_gen_toks or own
    if tokenizer is not None and model_dir is not None:
        told["room"] = read.max_length or room_of(Path(model_dir), tokenizer)
        told["tokens"] = [len(tokenizer(_text(request)).input_ids) for request in requests]
    return told | {"seconds": time.process_time() - began}


def gpu_memory(desk: Desk) -> int | None:
    """Free bytes of the GPU with the most; ``None`` where there is none."""
    if not torch.cuda.is_available():
        return None
    return max(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))


def _text(request: Any) -> str:
    """What a request has the model read."""
    return "".join(request.args[:2]) if request.request_type == "loglikelihood" else str(request.args[0])
