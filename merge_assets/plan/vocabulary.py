"""Which input gives the variant its tokenizer. Inputs with different vocabularies are refused, never cropped."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.checkpoint import tokenizer_files
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import Recipe


def tokenizer_donor(recipe: Recipe, inputs: Sequence[PlanInput], donor: int) -> int:
    """Index of the input whose tokenizer files are carried over.

    Args:
        recipe: the recipe.
        inputs: its inputs.
        donor: the donor of the config, whose tokenizer is taken by default.

    Raises:
        PlanError: if the recipe asks for a vocabulary that would have to be rebuilt.
    """
    settings = recipe.tokenizer
    key = "tokenizer_source" if recipe.tokenizer_source is not None else "tokenizer.source"
    source = recipe.tokenizer_source or (settings.source if settings else None)
    if settings is not None and (settings.tokens or settings.pad_to_multiple_of):
        raise plan_error(
            recipe,
            "tokenizer",
            "tokens and pad_to_multiple_of need rebuilt embeddings, which is not supported; leave them out",
        )
    if recipe.chat_template not in (None, "auto"):
        raise plan_error(
            recipe,
            "chat_template",
            "only auto is supported, the template of the tokenizer's donor; leave it out or write auto",
        )
    if source is None or source == "base":
        return donor
    if source == "union":
        for item in inputs:
            if not _same_tokenizer(item, inputs[donor]):
                raise plan_error(
                    recipe,
                    key,
                    f"the tokenizers of {inputs[donor].reference} and {item.reference} differ, and a union of different "
                    "vocabularies is not supported; merge models of one tokenizer",
                )
        return donor
    chosen = next(number for number, item in enumerate(inputs) if str(item.reference) == source)
    sizes = [inputs[number].checkpoint.config.get("vocab_size") for number in (donor, chosen)]
    if sizes[0] != sizes[1]:
        raise plan_error(
            recipe,
            key,
            f"{source} has {sizes[1]} tokens, {inputs[donor].reference} has {sizes[0]}; choose an equal one",
        )
    return chosen


def _same_tokenizer(one: PlanInput, other: PlanInput) -> bool:
    """Whether two inputs have the same tokenizer files, by digest where known, else by size."""
    names = [[n for n in tokenizer_files(item.checkpoint) if n.startswith("tokenizer")] for item in (one, other)]
    if names[0] != names[1]:
        return False
    if one.file_digests and other.file_digests:
        return all(one.file_digests[name] == other.file_digests[name] for name in names[0])
    return all(one.checkpoint.files[name] == other.checkpoint.files[name] for name in names[0])
