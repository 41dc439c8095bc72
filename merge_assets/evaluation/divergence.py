"""How far a model's next tokens are from those of another model, on a text: Kullback-Leibler divergence, exact.

Per token, in nats, of the other model's distribution P from this one's Q: the sum over the whole vocabulary of
P (log P - log Q), as llama.cpp's perplexity tool has it. Imported by the model worker alone.

The text is asked in lm-eval's windows: each piece by itself, behind the other model's token that begins a text, in windows of
the shorter context of the two. Every token is predicted once; the last window of a piece begins earlier, to be as long.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.utils import get_rolling_token_windows, handle_non_serializable, hash_string, make_disjoint_window

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.answers import Answer, digest_of_batch
from merge_assets.evaluation.disagreement import MOST, Disagreement
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.results import ResultKey
from merge_assets.evaluation.suite_task import DIVERGENCE
from merge_assets.evaluation.watched import WatchedLM

_ROWS = 1 << 22
"""Probabilities that are worked on at once, float64."""

_PER_PIECE = 3
"""Disagreements that are kept in the sample of a piece, and of a window."""

_BEFORE = 8
"""Tokens of the text that are shown before one."""


class Divergence:
    """Two loaded models.

    Args:
        ours: the model.
        theirs: that it is compared with.
        meter: told of every window.

    Raises:
        EvaluationError: their vocabularies differ.
    """

    def __init__(self, ours: WatchedLM, theirs: WatchedLM, meter: Meter) -> None:
        mine, other = (lm.tokenizer.get_vocab() for lm in (ours, theirs))
        if mine != other:
            differing = len(mine.items() ^ other.items())
            raise EvaluationError(
                f"the vocabularies of the two models differ ({len(mine)} and {len(other)} tokens, {differing} of them not the "
                "same), so that their next tokens cannot be compared; use bits_per_byte, or compare with a model of the same "
                "tokenizer"
            )
        self._ours, self._theirs, self._meter = ours, theirs, meter

    @property
    def dtype(self) -> torch.dtype:
        """Of the loaded weights."""
        found: torch.dtype = self._ours.model.dtype
        return found

    def begin(self, windows: int) -> None:
        """Say how many windows there are."""
        self._meter.begin(windows, "windows")

    def windows(self, text: str) -> list[tuple[int, list[int], list[int]]]:
        """Of each window the number of its first token in the text, what goes through the models, and what is predicted.

        Raises:
            EvaluationError: the two models make other tokens of the text.
        """
        tokens = self._theirs.tok_encode(text)
        if self._ours.tok_encode(text) != tokens:
            raise EvaluationError("the two tokenizers cut the text into different tokens; use bits_per_byte")
        begin = self._theirs.prefix_token_id
        longest = min(self._ours.max_length, self._theirs.max_length)
        found, start = [], 0
        for pair in get_rolling_token_windows(tokens, begin, longest, context_len=1):
            before, predicted = make_disjoint_window(pair)
            found.append((start, [*before, *predicted[:-1]], list(predicted)))
            start += len(predicted)
        return found

    def answer(self, window: Sequence[int], predicted: int) -> Answer:
        """The sum of the divergences where a window's last tokens are predicted, so many, and those that are largest, as JSON:
        position among them, divergence, and both models' likeliest tokens."""
        tokens = torch.tensor([window], device=self._ours.device)
        logits = self._ours._model_call(tokens)[0, -predicted:]
        others = self._theirs._model_call(tokens.to(self._theirs.device))[0, -predicted:].to(logits.device)
        if logits.shape != others.shape:
            raise EvaluationError(
                f"the models give {logits.shape[-1]} and {others.shape[-1]} probabilities for the next token; their "
                "embeddings have to be of one size"
            )
        rows = max(_ROWS // logits.shape[-1], 1)
        found = torch.cat(
            [divergences(mine, other) for mine, other in zip(logits.split(rows), others.split(rows), strict=True)]
        )
        largest = found.topk(min(_PER_PIECE, len(found))).indices.tolist()
        mine, other = logits.argmax(-1), others.argmax(-1)
        top = [[at, float(found[at]), int(mine[at]), int(other[at])] for at in largest]
        return float(found.sum()), json.dumps(top)

    def asked(self, windows: Iterator[tuple[int, list[int], list[int]]]) -> Iterator[tuple[int, list[int], Answer]]:
        """The windows with their answers; what was answered before is not asked again."""
        for start, window, predicted in windows:
            digest = digest_of_batch(DIVERGENCE, [window, len(predicted)])
            known = self._ours.known.get(digest)
            if known is None:
                known = [self.answer(window, len(predicted))]
                self._ours.keep(digest, known)
            self._meter.advance(1)
            yield start, predicted, known[0]

    def told(self, piece: int, tokens: Sequence[int], top: Sequence[Any]) -> Disagreement:
        """A position for people: its number, the divergence, and both models' tokens."""
        at, kl, ours, theirs = top

        def decode(tokens: Sequence[int]) -> str:
            found: str = self._ours.tok_decode(list(tokens), skip_special_tokens=False)
            return found

        return Disagreement(
            piece=piece,
            position=at,
            kl=kl,
            before=decode(tokens[max(at - _BEFORE, 0) : at]),
            token=decode([tokens[at]]),
            ours=decode([ours]),
            theirs=decode([theirs]),
        )


def divergences(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the second from the first, row by row, in nats.

    Args:
        ours: logits, (rows, vocabulary), any dtype.
        theirs: the same of the other model, whose probabilities weigh.

    Returns:
        (rows,), float64; 0 or more but for rounding.
    """
    log_q, log_p = (logits.double().log_softmax(-1) for logits in (ours, theirs))
    terms = log_p.exp() * (log_p - log_q)
    # What the other model never says adds nothing, also where this one never says it.
    return torch.where(log_p == -math.inf, 0.0, terms).sum(-1)


def diverging(
    models: Divergence, task: Any, key: ResultKey, samples: Mapping[str, Sequence[int]] | None
) -> tuple[dict[str, Any], tuple[Disagreement, ...]]:
    """Compare two models on the pieces of a text.

    Args:
        models: both, loaded.
        task: of lm-eval, whose documents are the pieces.
        key: of the result.
        samples: per task name, the numbers of the pieces that are asked; None takes all, or the first.

    Returns:
        What lm-eval's evaluation would give, and the positions where they differ most.
    """
    pieces = task.eval_docs
    numbers: Sequence[int] = range(len(pieces)) if samples is None else samples[key.task]
    if samples is None and key.limit is not None:
        most = math.ceil(key.limit * len(pieces)) if key.limit < 1 else int(key.limit)
        numbers = numbers[:most]
    windows = {number: models.windows(pieces[number]["text"]) for number in numbers}
    models.begin(sum(map(len, windows.values())))
    rows, all_told = [], []
    for number, own in windows.items():
        tokens = [token for *_, predicted in own for token in predicted]
        total, top = 0.0, []
        for start, _, (added, told) in models.asked(iter(own)):
            total += added
            top += [[start + at, *rest] for at, *rest in json.loads(told)]
        row = _row(number, pieces[number], len(tokens), key.to)
        if math.isfinite(total) and tokens:
            worst = heapq.nlargest(_PER_PIECE, top, key=lambda one: one[1])
            shown = [models.told(number, tokens, one) for one in worst]
            row |= {"metrics": [DIVERGENCE], DIVERGENCE: (total, len(tokens))}
            row["disagreements"] = [one.model_dump() for one in shown]
            all_told += shown
        rows.append(row)
    measured = [row[DIVERGENCE] for row in rows if row["metrics"]]
    if not measured:
        raise EvaluationError("the divergence is no finite number in any piece of the text; a model gives no numbers")
    value = sum(total for total, _ in measured) / sum(count for _, count in measured)
    output = {
        "results": {key.task: {f"{DIVERGENCE},none": value}},
        "higher_is_better": {key.task: {DIVERGENCE: False}},
        "n-shot": {key.task: 0},
        "n-samples": {key.task: {"original": len(pieces), "effective": len(measured)}},
        "versions": {key.task: task.VERSION},
        "config": {"model_dtype": str(models.dtype)},
        "samples": {key.task: rows},
    }
    return output, tuple(heapq.nlargest(MOST, all_told, key=lambda one: one.kl))


def _row(number: int, piece: Mapping[str, Any], tokens: int, to: str | None) -> dict[str, Any]:
    """The sample of a piece, known by its text as lm-eval knows it."""
    told = json.dumps(piece, indent=2, default=handle_non_serializable, ensure_ascii=False)
    text = piece["text"]
    return {
        "doc_id": number,
        "doc": piece,
        "target": text,
        "filter": "none",
        "metrics": [],
        "tokens": tokens,
        "doc_hash": hash_string(told),
        "prompt_hash": hash_string(f"{to} {text}"),  # what is asked is the other model, too
        "target_hash": hash_string(text),
    }
