"""The tokenizer's files for a vocabulary that has more tokens than the donor's.

The donor's ``tokenizer.json`` stays as it is: how text is normalised, split, joined and decoded, and every number. Tokens are
added to it. What another tokenizer finds in a text before it is split, such as ``<|im_start|>``, is found so here, too. What
it makes by merging becomes part of the model: of a BPE with the merges that make it, after all of the donor's, so that the
donor's merges go first; of a Unigram with its score.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_assets.checkpoint import Tokenizer
from merge_assets.checkpoint.tokenizer import DOCUMENT, FLAGS, SETTINGS, TEMPLATE

STALE = ("vocab.json", "merges.txt", "vocab.txt", "*.model", "*.tiktoken", "tekken.json")
"""Files that hold the donor's tokens in other formats; a vocabulary with more tokens cannot carry them along."""


@dataclass(frozen=True)
class NewToken:
    """A token that the donor lacks.

    Attributes:
        text: the token.
        number: its number in the output.
        origin: the model that it comes from, ``None`` if only the recipe names it.
        flags: how it is found in a text before the text is split; ``None`` for a token that merging makes.
    """

    text: str
    number: int
    origin: int | None
    flags: Mapping[str, bool] | None


def extended_document(donor: Tokenizer, tokenizers: Mapping[int, Tokenizer], new: Sequence[NewToken]) -> dict[str, Any]:
    """The donor's ``tokenizer.json`` with more tokens.

    Args:
        donor: the donor.
        tokenizers: every model's tokenizer, by model.
        new: tokens to add, in order of their numbers.
    """
    assert donor.document is not None
    document = copy.copy(dict(donor.document))
    document["model"] = model = dict(document["model"])
    found = [token for token in new if token.flags is not None]
    made = [token for token in new if token.flags is None]
    if found:
        listed = list(document.get("added_tokens") or ())
        listed += [{"id": t.number, "content": t.text, **_in_order(t.flags or {})} for t in found]
        document["added_tokens"] = sorted(listed, key=lambda item: item["id"])
    numbers = {text: donor.ids[text] for text in donor.added} | {token.text: token.number for token in found}
    outside = {text: number for text, number in numbers.items() if text not in donor.in_model}
    if not made and sorted(outside.values()) == list(range(len(donor.in_model), len(donor.in_model) + len(outside))):
        return document
    # Readers number the added tokens behind the model's, whatever the file says, save those that the model knows, too.
    joining = outside | {token.text: token.number for token in made}
    if donor.kind == "Unigram":
        _extend_pieces(model, joining, {t.text: _score(t, tokenizers) for t in made})
    else:
        model["vocab"] = {**model["vocab"], **joining}
        if donor.kind == "BPE":
            origins = dict.fromkeys(token.origin for token in made if token.origin is not None)
            _extend_merges(model, donor, [tokenizers[origin] for origin in origins])
    return document


def _score(token: NewToken, tokenizers: Mapping[int, Tokenizer]) -> float | None:
    return tokenizers[token.origin].scores.get(token.text) if token.origin is not None else None


def _extend_pieces(model: dict[str, Any], joining: Mapping[str, int], scores: Mapping[str, float | None]) -> None:
    """Append pieces to a Unigram model, where a piece's place is its number; those without a score get the lowest."""
    pieces = [list(piece) for piece in model["vocab"]]
    lowest = min((score for _, score in pieces), default=0.0)
    by_number = {number: text for text, number in joining.items()}
    for number in range(len(pieces), max(by_number) + 1):
        text = by_number.get(number, f"<unused {number}>")
        score = scores.get(text)
        pieces.append([text, lowest if score is None else score])
    model["vocab"] = pieces


def _extend_merges(model: dict[str, Any], donor: Tokenizer, others: Sequence[Tokenizer]) -> None:
    """Append the others' merges that the donor lacks, in the form that the donor's have."""
    merges = dict.fromkeys(donor.merges())
    known = len(merges)
    for other in others:
        merges |= dict.fromkeys(other.merges())
    vocabulary = model["vocab"]
    prefix = str(model.get("continuing_subword_prefix") or "")
    appended = [
        (a, b)
        for a, b in list(merges)[known:]
        if a in vocabulary and b in vocabulary and a + b.removeprefix(prefix) in vocabulary
    ]
    kept = list(model.get("merges") or ())
    as_text = bool(kept) and isinstance(kept[0], str)
    model["merges"] = kept + [f"{a} {b}" if as_text else [a, b] for a, b in appended]


def extended_settings(donor: Tokenizer, new: Sequence[NewToken], template: str | None) -> Mapping[str, Any]:
    """The donor's ``tokenizer_config.json`` with more added tokens, and another chat template if one is given."""
    settings = copy.copy(dict(donor.settings))
    found = [token for token in new if token.flags is not None]
    if found and isinstance(settings.get("added_tokens_decoder"), dict):
        settings["added_tokens_decoder"] = settings["added_tokens_decoder"] | {
            str(token.number): {"content": token.text, **_in_order(token.flags or {})} for token in found
        }
    if template is not None:
        settings["chat_template"] = template
    return settings


def written_texts(
    donor: Tokenizer,
    tokenizers: Mapping[int, Tokenizer],
    new: Sequence[NewToken],
    template: str | None,
    carried: Sequence[str],
) -> dict[str, str]:
    """The files that replace or join the donor's, by name.

    Args:
        donor: the tokenizer that tokens are added to.
        tokenizers: every model's, by model.
        new: tokens to add.
        template: the chat template, ``None`` for the donor's.
        carried: names of the donor's files.
    """
    texts: dict[str, str] = {}
    if new:
        document = extended_document(donor, tokenizers, new)
        texts[DOCUMENT] = json.dumps(document, ensure_ascii=False) + "\n"  # indented, it would take ten times as long
        found = {token.text: token.number for token in new if token.flags is not None}
        if found and "added_tokens.json" in carried:
            numbers = {text: donor.ids[text] for text in donor.added} | found
            texts["added_tokens.json"] = json.dumps(numbers, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    if template is not None and TEMPLATE in carried:
        texts[TEMPLATE] = template
    settings = extended_settings(donor, new, template)
    if settings != donor.settings:
        texts[SETTINGS] = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    return texts


def differing_parts(donor: Tokenizer, other: Tokenizer) -> list[str]:
    """The parts in which two tokenizers treat a text differently, apart from their tokens and merges."""
    if donor.document is None or other.document is None:
        return []
    parts = [
        key for key in ("normalizer", "pre_tokenizer", "decoder") if donor.document.get(key) != other.document.get(key)
    ]
    return ["model", *parts] if donor.kind != other.kind else parts


def _in_order(flags: Mapping[str, bool]) -> dict[str, bool]:
    return {flag: flags.get(flag, False) for flag in FLAGS}
