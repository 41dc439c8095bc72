"""lm-eval's model of transformers, watched: what it is asked and answers is counted and kept; the numbers stay its own.

Imported by the model worker alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.models.huggingface
import torch
import transformers
from lm_eval.models.utils import Collator

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.answers import Answer, digest_of_batch
from merge_assets.evaluation.batching import batch_size, bytes_per_token
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.model_settings import ends_turns_as_texts
from merge_assets.model_worker import reason
from merge_assets.model_worker.generation import fix_generation

_Document = tuple[str, int]
"""The name of a task and the number of one of its documents."""


class WatchedLM(lm_eval.models.huggingface.HFLM):  # type: ignore[misc]  # lm-eval ships no types
    """lm-eval's model with a :class:`Meter`, that answers no batch twice.

    Requests are put into batches as lm-eval does it; each batch is then asked of lm-eval alone, which makes the same tensors of
    it.
    """

    meter: Meter | None = None
    known: Mapping[str, list[Answer]] = {}
    keep: Callable[[str, list[Answer]], None] = staticmethod(lambda batch, answers: None)
    _windows: int | None = None
    _free: int | None = None
    _is_chosen = True
    _documents: Sequence[_Document] | None = None

    def attach(self, meter: Meter) -> None:
        self.meter = meter
        self.set_cache_hook(meter)

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

    def is_asked_in_turns(self, chat_template: str) -> bool:
        """Whether prompts are turns of a conversation, by what a suite says.

        Raises:
            ValueError: they are to be, and there is no template for it.
        """
        if chat_template == "off":
            return False
        if chat_template == "auto":
            return ends_turns_as_texts(self.tokenizer, self._ends())
        if chat_template == "on" and not self.tokenizer.chat_template:
            raise ValueError("its tokenizer has no chat template; set off or auto, or give a template")
        return True

    def _ends(self) -> set[int]:
        """The tokens that end what the model generates."""
        own = self.model.generation_config.eos_token_id
        return {self.eot_token_id, *(own if isinstance(own, list) else [own])} - {None}

    def begin(self, known: Mapping[str, list[Answer]], keep: Callable[[str, list[Answer]], None]) -> None:
        """Get ready for a task.

        Args:
            known: the answers of batches that were asked before, by their digests.
            keep: gets those of each batch that is asked now.
        """
        self.known, self.keep = known, keep
        self._free = None
        self._is_chosen = True
        self._flawed: dict[str, set[_Document]] = defaultdict(set)

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

    def flaws(self) -> dict[str, Flaws]:
        """What was wrong with the prompts and answers since :meth:`begin`, by the name of the task."""
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for kind, documents in self._flawed.items():
            for task, _ in documents:
                counts[task][kind] = counts[task].get(kind, 0) + 1
        return {task: Flaws(**kinds) for task, kinds in counts.items()}

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        if self.meter is not None:
            self.meter.check()
        tokens: list[int] = super().tok_encode(string, *args, **kwargs)
        if self._windows is not None and self.meter is not None:
            self._windows += math.ceil(len(tokens) / self.max_length)
            self.meter.total = self._windows
        return tokens

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self._start(len(requests), "likelihoods")
        self._documents = [(request.task_name, request.doc_id) for request in requests]
        try:
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        finally:
            self._documents = None
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        self._start(0, "windows")
        self._choose(max((len(request.args[0].encode()) for request in requests), default=1))  # tokens are fewer
        self._windows = 0
        try:
            answers: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self._windows = None
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        self._start(len(requests), "generations")
        if any(request.args[1].get("do_sample") for request in requests):
            # Each text depends on all that were drawn before it.
            self._choose(self.max_length)
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
            return texts
        answers: dict[int, Answer] = {}
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        self._choose(
            max(
                length + int(request.args[1].get("max_gen_toks", self.max_gen_toks))
                for length, request in zip(lengths, requests, strict=True)
            )
        )
        for batch in self._generation_batches(requests, lengths):
            asked = [requests[index] for index in batch]
            said = self._answer(
                digest_of_batch("generation", [[one.args[0] for one in asked], asked[0].args[1]]),
                len(batch),
                partial(self._generate, asked, [lengths[index] for index in batch]),
                counted=True,
            )
            answers.update(zip(batch, said, strict=True))
        for index, (text, endless, cut) in answers.items():
            document = (requests[index].task_name, requests[index].doc_id)
            kinds = {"empty": not text.strip(), "endless": endless, "truncated": cut}
            for kind in (kind for kind, is_so in kinds.items() if is_so):
                self._flawed[kind].add(document)
        return [answers[index][0] for index in range(len(requests))]

    def _generate(self, requests: list[Any], lengths: Sequence[int]) -> list[Answer]:
        """One batch: the texts, whether they came to no end, and whether their prompts were cut."""
        texts = super().generate_until(requests, disable_tqdm=True)
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

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        self._choose(max((len(context) + len(text) for _, context, text in requests), default=1))
        answers: dict[int, Answer] = {}
        ask = super()._loglikelihood_tokens
        for batch in self._likelihood_batches(requests):
            asked = [requests[index] for index in batch]
            said = self._answer(
                digest_of_batch("likelihood", [[context, text] for _, context, text in asked]),
                len(batch),
                partial(ask, asked, disable_tqdm=True),
                counted=self._windows is None,
            )
            answers.update(zip(batch, said, strict=True))
        if self._documents is not None:
            for document, (_, context, text) in zip(self._documents, requests, strict=True):
                if len(context) + len(text) > self.max_length + 1:
                    self._flawed["truncated"].add(document)
        return [(answers[index][0], answers[index][1]) for index in range(len(requests))]

    def _answer(self, batch: str, size: int, ask: Callable[[], Sequence[Answer]], *, counted: bool) -> Sequence[Answer]:
        """The answers of a batch, which is asked if they are not known; ``counted`` if lm-eval tells of each that it asks."""
        said: Sequence[Answer] | None = self.known.get(batch)
        is_new = said is None or len(said) != size
        if said is None or is_new:
            said = ask()
            self.keep(batch, list(said))
        if self.meter is not None and not (is_new and counted):
            self.meter.advance(size)
        return said

    def _likelihood_batches(self, requests: Sequence[Any]) -> Iterator[list[int]]:
        """The requests, by number, that go through the model together.

        As in lm-eval 0.4: those whose texts differ in the last token alone share a prompt, the longest prompts come first.
        """

        def tokens(item: tuple[int, Any]) -> list[int]:
            return list(item[1][1]) + list(item[1][2])

        items = list(enumerate(requests))
        if self.backend == "causal" and self.logits_cache:
            shared = Collator.group(items, fn=lambda item: tokens(item)[:-1], group_by="contexts")
            groups = [(max(group, key=lambda item: len(item[1][2])), group) for group in shared.values()]
        else:
            groups = [(item, [item]) for item in items]
        groups.sort(key=lambda pair: (-len(tokens(pair[0])), tuple(tokens(pair[0]))))
        for start in range(0, len(groups), self.batch_size):
            yield sorted(index for _, group in groups[start : start + self.batch_size] for index, _ in group)

    def _generation_batches(self, requests: Sequence[Any], lengths: Sequence[int]) -> Iterator[list[int]]:
        """The same of generations: those of equal settings, the longest prompts first; in the order in which they are asked."""
        items = list(enumerate(requests))
        for group in Collator.group(items, fn=lambda item: item[1].args[1], group_by="gen_kwargs").values():
            ordered = sorted(group, key=lambda item: (-lengths[item[0]], item[1].args[0]))
            for start in range(0, len(ordered), self.batch_size):
                yield [index for index, _ in ordered[start : start + self.batch_size]]

    def _start(self, total: int, what: str) -> None:
        if self.meter is not None:
            self.meter.begin(total, what)


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
    lm.attach(meter)
    lm.watch_layers()
    return lm
