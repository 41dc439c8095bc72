"""A tiny random checkpoint and a suite of four local lm-eval tasks, written where a test asks for them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lm_eval.api.task
from transformers import dynamic_module_utils

from merge_assets.errors import MergeAssetsError, ModelWorkerError
from merge_assets.model_worker import Desk, Limits, reason
from merge_assets.model_worker.frames import Frames

WORDS = (  # noqa: SIM905 - a sentence is easier to read than a list
    "the a king queen river stone light dark bread water goes comes sees loves old new small great and but of in on "
    "with to from tree house road night day hand eye word"
).split()


class HereWorker:
    """A model worker that answers in this process, for tests that look at what lm-eval is asked, or replace parts of it."""

    def __init__(self, module: str, limits: Limits, *, offline: bool = True, loopback: bool = False) -> None:
        self._module = importlib.import_module(module)
        self._frames = Frames()
        # What is sent is there at once: nobody reads while a verb is at work, and a socket has room for so much alone.
        channel: Any = SimpleNamespace(sendall=self._frames.feed)
        self._desk = Desk(channel)
        # What a verb leaves in a process goes with it elsewhere.
        self._left = contextlib.ExitStack()
        self._left.enter_context(mock.patch.dict(os.environ))
        self._left.enter_context(mock.patch("lm_eval.api.task.tqdm", lm_eval.api.task.tqdm))
        for name in ("get_cached_module_file", "HF_MODULES_CACHE"):  # where a checkpoint's own code may run
            self._left.enter_context(mock.patch.object(dynamic_module_utils, name, getattr(dynamic_module_utils, name)))

    def __enter__(self) -> HereWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def ask(
        self, verb: str, arguments: dict[str, Any], *, each: Callable[[Any], None] | None = None, **_: object
    ) -> object:
        try:
            answer = getattr(self._module, verb)(self._desk, **json.loads(json.dumps(arguments)))
        except MergeAssetsError as error:
            raise ModelWorkerError(str(error), answered=True, raised=type(error).__name__) from None
        except Exception as error:
            raise ModelWorkerError(reason(error), answered=True) from None
        while (message := self._frames.take()) is not None:
            if each is not None and "item" in message:
                each(message["item"])
        return json.loads(json.dumps(answer))


def write_checkpoint(directory: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2) -> Path:
    """A random Llama with a word-level tokenizer of :data:`WORDS`, in Hugging Face layout."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", ".", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(directory)
    wrapped.save_pretrained(directory)
    return directory


def sentence(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length))


ONE_TASK = """\
description: one task of two documents
headline: average
include_path: tasks
batch_size: 2
dtype: float32
tasks: [{task: tiny_choice, metric: acc, shots: 0}]
"""
"""A suite of what :func:`write_suite` writes."""


def write_suite(folder: Path, *, name: str = "tiny", documents: int = 6) -> Path:
    """A suite file and its task folder: rolling perplexity, multiple choice, and generation, all on local data.

    The data are read through ``!function data.load``, which finds them beside the task files from any
    working directory.
    """
    tasks = folder / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    rows = [
        {
            "text": sentence(rng, 90),
            "question": sentence(rng, 6),
            "choices": [sentence(rng, n) for n in (1, 2, 4)],
            "answer": rng.randrange(3),
        }
        for _ in range(documents)
    ]
    (tasks / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "data.py").write_text(
        textwrap.dedent(
            '''
            from pathlib import Path

            import datasets


            def load(**_):
                """The rows beside this file."""
                rows = datasets.load_dataset("json", data_files=str(Path(__file__).with_name("data.jsonl")))["train"]
                return {"test": rows}
            '''
        )
    )
    (tasks / "_common.yaml").write_text(
        "custom_dataset: !function data.load\ntest_split: test\nmetadata: {version: 1.0}\n"
    )
    (tasks / "perplexity.yaml").write_text(
        textwrap.dedent(
            """
            include: _common.yaml
            task: tiny_perplexity
            output_type: loglikelihood_rolling
            doc_to_text: ""
            doc_to_target: "{{text}}"
            metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
            """
        )
    )
    (tasks / "choice.yaml").write_text(
        textwrap.dedent(
            """
            include: _common.yaml
            task: tiny_choice
            output_type: multiple_choice
            doc_to_text: "{{question}}"
            doc_to_choice: "{{choices}}"
            doc_to_target: "{{answer}}"
            metric_list: [{metric: acc}, {metric: acc_norm}]
            """
        )
    )
    (tasks / "generate.yaml").write_text(
        textwrap.dedent(
            """
            include: _common.yaml
            task: tiny_generate
            output_type: generate_until
            doc_to_text: "{{question}}"
            doc_to_target: "{{question}}"
            generation_kwargs: {until: ["."], max_gen_toks: 12}
            metric_list: [{metric: exact_match}]
            """
        )
    )
    (tasks / "group.yaml").write_text(
        textwrap.dedent(
            """
            group: tiny_group
            task: [tiny_choice]
            aggregate_metric_list: [{metric: acc, weight_by_size: true}]
            metadata: {version: 1.0}
            """
        )
    )
    path = folder / f"{name}.yaml"
    path.write_text(
        textwrap.dedent(
            f"""
            name: {name}
            description: Tiny local tasks
            headline: average
            include_path: tasks
            batch_size: 4
            tasks:
              - {{task: tiny_perplexity, metric: byte_perplexity, shots: 0, higher_is_better: false, headline: false}}
              - {{task: tiny_choice, metric: acc_norm, shots: 2}}
              - {{task: tiny_generate, metric: exact_match, shots: 0, limit: 3}}
              - {{task: tiny_group, metric: acc, shots: 0, headline: false}}
            """
        )
    )
    return path


def of_lm_eval(metrics: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The metrics of a result without those that are added to lm-eval's: perplexity of texts, tokens per answer."""

    def is_added(name: str, values: Mapping[str, object]) -> bool:
        metric = name.partition(",")[0].removesuffix("_stderr")
        return metric == "tokens_per_answer" or (metric == "perplexity" and "word_perplexity,none" in values)

    return {
        task: {name: value for name, value in values.items() if not is_added(name, values)}
        for task, values in metrics.items()
    }
