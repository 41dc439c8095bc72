"""The tokens of a variant: the donor's, and what a union or the recipe itself adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_assets.checkpoint import Tokenizer, read_tokenizer
from merge_assets.checkpoint.tokenizer import VOCABULARY_FILES, unread_tokenizer
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.model import PlannedVocabulary
from merge_assets.plan.problems import plan_error
from merge_assets.plan.vocabulary_files import NewToken, differing_parts
from merge_assets.plan.vocabulary_rows import Row, TokenRule, Vocabulary
from merge_assets.plan.vocabulary_tensors import Embeddings
from merge_assets.recipe import Recipe, TokenSettings, TokenSource
from merge_assets.reference import ModelReference

KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")
"""Kinds of tokenizers that tokens can be added to."""

_SPECIAL, _ORDINARY = {"special": True}, {"special": False}
"""Flags of tokens that no model knows, and of those that no model finds in a text before it is split."""
_SHOWN = 5


@dataclass(frozen=True)
class Union:
    """The vocabulary of a variant.

    Attributes:
        vocabulary: its tokens and those of the inputs.
        new: tokens that the donor lacks, in order of their numbers.
        tokenizers: of all models, by model.
        planned: what the plan says of it.
        warnings: things a person should know.
    """

    vocabulary: Vocabulary
    new: tuple[NewToken, ...]
    tokenizers: Mapping[int, Tokenizer]
    planned: PlannedVocabulary
    warnings: tuple[str, ...]


def read_tokenizers(
    recipe: Recipe, inputs: Sequence[PlanInput], members: Sequence[int], donor: int, embeddings: Embeddings
) -> tuple[dict[int, Tokenizer], list[str]]:
    """The tokenizer of every input, and warnings.

    A model without a tokenizer and with as many rows as the donor is taken to have the donor's.

    Raises:
        PlanError: if a model that must have one has no tokenizer or no embedding.
        CheckpointError: if a tokenizer cannot be read.
    """
    found = {donor: read_tokenizer(inputs[donor].checkpoint)}
    warnings = []
    for number, item in enumerate(inputs):
        if embeddings.count(number) is None:
            raise plan_error(
                recipe,
                "tokenizer",
                f"{item.reference} has no embedding with a row per token that is known as one; leave the tokenizer out",
            )
        if number == donor:
            continue
        if any(name in item.checkpoint.files for name in VOCABULARY_FILES[:-1]):
            found[number] = read_tokenizer(item.checkpoint)
            continue
        lacks = unread_tokenizer(item.checkpoint) or "has no tokenizer"
        if embeddings.count(number) == embeddings.count(donor) and number in members:
            found[number] = found[donor]
            warnings.append(f"{item.reference} {lacks}; its tokens are taken to be {inputs[donor].reference}'s")
        else:
            raise plan_error(
                recipe,
                "tokenizer",
                f"{item.reference} {lacks}, and {embeddings.count(number)} rows, {inputs[donor].reference} has "
                f"{embeddings.count(donor)}; put its tokenizer.json beside its config.json",
            )
    return dict(sorted(found.items())), warnings


def make_union(
    recipe: Recipe,
    inputs: Sequence[PlanInput],
    members: Sequence[int],
    donor: int,
    tokenizers: Mapping[int, Tokenizer],
    embeddings: Embeddings,
) -> Union:
    """The vocabulary that a recipe asks for.

    The donor's tokens keep their numbers. Those of the others follow in the order of the inputs and of their numbers, then
    tokens that only the recipe lists.

    Raises:
        PlanError: if a token's embedding is to come from where there is none.
    """
    own = tokenizers[donor]
    settings = recipe.tokenizer
    source = settings.source if settings else recipe.tokenizer_source
    known = dict(own.ids)
    new: list[NewToken] = []

    def add(text: str, origin: int | None, flags: Mapping[str, bool] | None) -> None:
        known[text] = own.size + len(new)
        new.append(NewToken(text, known[text], origin, flags))

    for number in members if source == "union" else ():
        other = tokenizers[number]
        for text in other.by_number():
            if text is not None and text not in known:
                add(text, number, other.added.get(text))
    listed = settings.tokens if settings else {}
    for text, token in listed.items():
        if text not in known:
            origin = _origin(inputs, token, text, tokenizers)
            add(text, origin, _SPECIAL if origin is None else tokenizers[origin].added.get(text, _ORDINARY))
    if new and (own.document is None or own.kind not in KINDS):
        raise plan_error(
            recipe,
            "tokenizer",
            f"{inputs[donor].reference} has no tokenizer.json that tokens can be added to; make one with transformers: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        )
    tokens = own.by_number() + [token.text for token in new]
    rows = len(tokens) if new else max(len(tokens), embeddings.count(donor) or 0)
    multiple = settings.pad_to_multiple_of if settings and settings.pad_to_multiple_of else 1
    base = next((n for n, item in enumerate(inputs) if item.reference == recipe.base_model), None)
    vocabulary = Vocabulary(
        tokens=tokens,
        rows=-(-rows // multiple) * multiple,
        ids={number: tokenizers[number].ids for number in members},
        base=base,
        donor=donor,
        rules={t: _rule(recipe, inputs, t, token, tokenizers, embeddings) for t, token in listed.items()},
        changed=bool(new),
    )
    limits = {number: embeddings.count(number) or 0 for number in vocabulary.ids}
    counts = {number: sum(token.origin == number for token in new) for number in members}
    counts[donor] = len(own.ids)
    planned = PlannedVocabulary(
        source=source or "union",
        donor=donor,
        tokens=len(known),
        rows=vocabulary.rows,
        parts=tuple((number, count) for number, count in sorted(counts.items(), key=lambda part: part[0] != donor)),
    )
    warnings = [*_without_rows(recipe, vocabulary, limits), *_different(inputs, donor, tokenizers, new)]
    return Union(vocabulary, tuple(new), tokenizers, planned, tuple(warnings))


def _origin(
    inputs: Sequence[PlanInput], token: TokenSettings, text: str, tokenizers: Mapping[int, Tokenizer]
) -> int | None:
    """The model that a token listed in the recipe is known from: its source, or else the first that has it."""
    models = [number for number, item in enumerate(inputs) if item.reference == token.source]
    having = [number for number in (*models, *tokenizers) if text in tokenizers[number].ids]
    return having[0] if having else None


def _rule(
    recipe: Recipe,
    inputs: Sequence[PlanInput],
    text: str,
    token: TokenSettings,
    tokenizers: Mapping[int, Tokenizer],
    embeddings: Embeddings,
) -> TokenRule:
    source = token.source
    if source is None:
        return TokenRule(None, token.force)
    if isinstance(source, ModelReference):
        source = TokenSource(kind="model_token", model=source, token=text)
    if source.kind == "zero":
        return TokenRule((), token.force)
    key = f"tokenizer.tokens.{text}.source"
    number = next(n for n, item in enumerate(inputs) if item.reference == source.model)
    row, count = source.token_id, embeddings.count(number) or 0
    if source.token is not None:
        row = tokenizers[number].ids.get(source.token)
        if row is None:
            raise plan_error(recipe, key, f"{source.token!r} is not a token of {source.model}; name one that it has")
    assert row is not None
    if row >= count:
        raise plan_error(
            recipe,
            key,
            f"token {row} of {source.model} has no embedding, there are {count}; name another, or kind: zero",
        )
    sole: Row = ((number, row),)
    return TokenRule(sole, token.force)


def _without_rows(recipe: Recipe, vocabulary: Vocabulary, limits: Mapping[int, int]) -> list[str]:
    """A warning for tokens that no model has a row for.

    Raises:
        PlanError: if one of them is listed in the recipe, which then must say where its row comes from.
    """
    having = {text for model, ids in vocabulary.ids.items() for text, row in ids.items() if row < limits[model]}
    having_or_listed = having | vocabulary.rules.keys()
    lacking = [text for text in vocabulary.tokens if text is not None and text not in having_or_listed]
    for text, rule in vocabulary.rules.items():
        if rule.row is None and text not in having:
            raise plan_error(
                recipe,
                f"tokenizer.tokens.{text}",
                "no model has an embedding for this token; give it a source, such as {kind: zero}",
            )
    if not lacking:
        return []
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return [f"tokens without an embedding in any model get zeros: {', '.join(lacking[:_SHOWN])}{more}"]


def _different(
    inputs: Sequence[PlanInput], donor: int, tokenizers: Mapping[int, Tokenizer], new: Sequence[NewToken]
) -> list[str]:
    """Warnings for models whose tokens may never come out of the donor's way to split a text."""
    warnings = []
    for number in dict.fromkeys(token.origin for token in new if token.origin is not None and token.flags is None):
        parts = differing_parts(tokenizers[donor], tokenizers[number])
        if parts:
            warnings.append(
                f"the tokenizers of {inputs[donor].reference} and {inputs[number].reference} differ in {', '.join(parts)}; "
                f"text is treated as the first does, so that some tokens of the second may never be used"
            )
    return warnings
