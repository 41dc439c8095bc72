"""What a model answered to one document, for people: the end of its prompt, the answer, and the gold one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.evaluation.scores import Scores

Lines = Callable[[Scores, str, str], Iterable[bytes]]
"""The JSON lines of a task's samples, by the scores, the digits that tell the result, and the task; none where none are."""

_PROMPT, _ANSWER = 700, 300
"""Characters that are shown."""


@dataclass(frozen=True)
class ShownDocument:
    """One document as one model answered it.

    Attributes:
        prompt: its end, which has the question; examples come before.
        answer: what was generated or chosen; empty where a text was only read.
        raw: what was generated, where the answer was extracted from it and is another.
        gold: the answer that counts.
    """

    prompt: str
    answer: str
    raw: str
    gold: str


def read_documents(
    lines: Iterable[bytes], filter_name: str, metric: str, places: Collection[int]
) -> dict[int, ShownDocument]:
    """Some documents of a task.

    Args:
        lines: as lm-eval logs them.
        filter_name: of the answers.
        metric: as the suite names it, which says how an answer was chosen.
        places: which documents, by their place among those of the filter.
    """
    found: dict[int, ShownDocument] = {}
    place = 0
    for line in lines:
        if len(found) == len(places):
            break
        row = json.loads(line)
        if str(row.get("filter", "none")) != filter_name:
            continue
        if place in places:
            found[place] = shown(row, metric)
        place += 1
    return found


def shown(row: Mapping[str, Any], metric: str) -> ShownDocument:
    """One logged document."""
    requests = [request for request in _requests(row.get("arguments")) if request]
    answers = row.get("filtered_resps") or []
    scored = [
        answer[0] for answer in answers if isinstance(answer, Sequence) and not isinstance(answer, str) and answer
    ]
    prompt = str(requests[0][0]) if requests else ""
    if scored and len(scored) == len(requests) and len(requests) > 1:
        options = _options(requests)
        chosen = options[_chosen(scored, [str(request[-1]) for request in requests], metric)]
        if len({str(request[0]) for request in requests}) > 1:
            prompt = _common(requests)
        return ShownDocument(_end(prompt), _clipped(chosen), "", _clipped(_gold(row.get("target"), options)))
    answer = next((text for text in answers if isinstance(text, str)), "")
    raw = next((text for each in row.get("resps") or [] for text in each if isinstance(text, str)), "")
    if not answer and not raw and prompt in ("", str(row.get("target"))):  # a text that was read, and nothing asked
        return ShownDocument("", "", "", _clipped(str(row.get("target", "")), _PROMPT))
    gold = _clipped(_gold(row.get("target"), ()))
    return ShownDocument(_end(prompt), _clipped(answer), "" if raw.strip() == answer.strip() else _clipped(raw), gold)


def _requests(arguments: object) -> list[Sequence[Any]]:
    """The arguments of each request, in either of the forms in which lm-eval logs them."""
    if isinstance(arguments, Mapping):
        arguments = [list(one.values()) if isinstance(one, Mapping) else one for one in arguments.values()]
    if not isinstance(arguments, Sequence) or isinstance(arguments, str):
        return []
    return [one if isinstance(one, Sequence) and not isinstance(one, str) else [one] for one in arguments]


def _options(requests: Sequence[Sequence[Any]]) -> list[str]:
    """What could be chosen: the continuations; where they are one, what differs before it."""
    texts = [str(request[-1]) for request in requests]
    if len(set(texts)) > 1:
        return texts
    contexts = [str(request[0]) for request in requests]
    start = len(_common(requests))
    return [context[start:] for context in contexts]


def _common(requests: Sequence[Sequence[Any]]) -> str:
    """What all contexts begin with, up to the last word that is whole."""
    contexts = [str(request[0]) for request in requests]
    low, high = min(contexts), max(contexts)
    same = next((i for i, char in enumerate(low) if i >= len(high) or high[i] != char), len(low))
    return low[: low.rfind(" ", 0, same) + 1]


def _chosen(scored: Sequence[Any], texts: Sequence[str], metric: str) -> int:
    """The option with the highest log-likelihood, per character or byte where the metric counts so."""

    def figure(place: int) -> float:
        try:
            value = float(scored[place])
        except (TypeError, ValueError):
            return float("-inf")
        if metric.startswith("acc_norm"):
            return value / max(len(texts[place]), 1)
        return value / max(len(texts[place].encode()), 1) if metric.startswith("acc_bytes") else value

    return max(range(len(texts)), key=figure)


def _gold(target: object, options: Sequence[str]) -> str:
    if isinstance(target, str) and target.isdecimal() and options:
        target = int(target)
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(options):
        return options[target]
    if isinstance(target, list):
        return " | ".join(str(one) for one in target)
    return str(target) if target is not None else ""


def _end(text: str) -> str:
    return text if len(text) <= _PROMPT else f"… {text[-_PROMPT:]}"


def _clipped(text: str, most: int = _ANSWER) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"
