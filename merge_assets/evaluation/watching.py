"""What all models of lm-eval have when they are watched: what they are asked and answer is counted and kept, batch by batch.

Imported by the model worker alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import lm_eval.api.model
from lm_eval.models.utils import Collator

from merge_assets.evaluation.answers import Answer, digest_of_batch
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.model_settings import ends_turns_as_texts

Document = tuple[str, int]
"""The name of a task and the number of one of its documents."""


class Watching(lm_eval.api.model.TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """In front of a model class of lm-eval: a :class:`Meter`, and no batch is answered twice.

    Requests are put into batches as lm-eval does it; each batch is then asked of lm-eval's class alone, whose numbers stay its
    own.
    """

    meter: Meter | None = None
    known: Mapping[str, list[Answer]] = {}
    keep: Callable[[str, list[Answer]], None] = staticmethod(lambda batch, answers: None)
    _windows: int | None = None
    _documents: Sequence[Document] | None = None

    spare = 1
    """Tokens of a text beyond the context that nothing is cut for: the last one is predicted, and not read."""

    def attach(self, meter: Meter) -> None:
        self.meter = meter
        self.set_cache_hook(meter)

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
        return {self.eot_token_id} - {None}

    def begin(self, known: Mapping[str, list[Answer]], keep: Callable[[str, list[Answer]], None]) -> None:
        """Get ready for a task.

        Args:
            known: the answers of batches that were asked before, by their digests.
            keep: gets those of each batch that is asked now.
        """
        self.known, self.keep = known, keep
        self._flawed: dict[str, set[Document]] = defaultdict(set)

    def flaws(self) -> dict[str, Flaws]:
        """What was wrong with the prompts and answers since :meth:`begin`, by the name of the task."""
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for kind, documents in self._flawed.items():
            for task, _ in documents:
                counts[task][kind] = counts[task].get(kind, 0) + 1
        return {task: Flaws(**kinds) for task, kinds in counts.items()}

    def tok_encode(self, string: Any, *args: Any, **kwargs: Any) -> Any:
        if self.meter is not None:
            self.meter.check()
        tokens = super().tok_encode(string, *args, **kwargs)
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
        raise NotImplementedError

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
                if len(context) + len(text) > self.max_length + self.spare:
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

        As in lm-eval 0.4: those whose texts differ in the last token alone share a prompt where one answer holds both, the
        longest prompts come first.
        """

        def tokens(item: tuple[int, Any]) -> list[int]:
            return list(item[1][1]) + list(item[1][2])

        items = list(enumerate(requests))
        if self._shares_prompts():
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

    def _shares_prompts(self) -> bool:
        return False

    def _choose(self, longest: int) -> None:
        """Learns how many tokens the longest of the next requests has, before they are asked."""

    def _start(self, total: int, what: str) -> None:
        if self.meter is not None:
            self.meter.begin(total, what)
