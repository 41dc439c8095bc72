"""The Hub model card of a variant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePath

from merge_assets.markup import escape_markdown, render
from merge_assets.plan import Plan
from merge_assets.plan.code import code_files, code_models, is_trusted
from merge_assets.plan.describe import format_figure, human_bytes, vocabulary_summary
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.model import PlannedModel
from merge_assets.plan.parameter_table import parameter_table
from merge_assets.recipe import Recipe, said_of
from merge_assets.reference import ModelReference

CARD = "README.md"
_PACKAGE = "merge_assets.variant"
_RECIPE = "\n## Recipe\n\n```"
"""The last section, which no text of a stranger can begin: a fence follows at once."""
_PATH = re.compile(r"(?:(?<=file://)|(?<![\w.:/~\\-]))(?:~[\w.-]*)?/(?:[\w.\\-]+/)+[\w.\\-]+")
"""The absolute path of a file or folder, as people write them into comments."""


def model_card(plan: Plan, recipe: Recipe, trusted: Collection[str] = ()) -> str:
    """The card as Markdown with its front matter. It is published: folders of this machine are called by their names alone.

    Its scores are not known before the variant is written.

    Args:
        plan: what was built.
        recipe: its recipe.
        trusted: models whose code may be run.
    """
    # Imported here since it takes a tenth of a second.
    from huggingface_hub import ModelCardData

    models = [model for model in plan.models if not model.folded]
    front = ModelCardData(
        base_model=list(dict.fromkeys(one for model in models if (one := _hub_id(model)) is not None)) or None,
        library_name="transformers",
        tags=["merge", "merge-assets", plan.method],
    )
    text = render(
        _PACKAGE,
        "card.md.j2",
        front=front.to_yaml(),
        recipe=recipe,
        search=said_of(recipe.found) if recipe.found is not None else [],
        plan=plan,
        models=models,
        size=human_bytes(plan.bytes_to_write),
        layers=layer_map(plan),
        parameters=parameter_table(plan),
        vocabulary=vocabulary_summary(plan),
        code_files=code_files(plan),
        code_models=code_models(plan),
        trusted=is_trusted(code_models(plan), trusted),
        figure=format_figure,
    )
    return _without_paths(text, {part.path for one in _references(plan, recipe) for part in (one, one.lora) if part})


def _references(plan: Plan, recipe: Recipe) -> Iterator[ModelReference]:
    yield from recipe.references()
    yield from (ModelReference.parse(model.reference) for model in plan.models)


def _without_paths(text: str, models: Collection[str]) -> str:
    """A card in which folders of this machine have as much of their paths as tells models apart, others their last part."""
    folders = sorted((path for path in models if path.startswith(("/", "~"))), key=len, reverse=True)
    for path, name in zip(folders, _tails(folders), strict=True):
        for form in (str, escape_markdown):
            text = text.replace(form(path), form(name))
    return _PATH.sub(lambda found: found[0].rpartition("/")[2], text)


def _tails(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that differ, of equal numbers of parts."""
    parts = [PurePath(path).parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        tails = ["/".join(part.strip("/") for part in own[-count:]) for own in parts]
        if len(set(tails)) == len(tails):
            return tails
    return [PurePath(path).name for path in paths]


def with_scores(card: str, version: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A card of :func:`model_card` with a section of scores; as it is if there are none.

    Args:
        card: of a variant.
        version: its fingerprint.
        rows: ``suite``, ``task``, ``metric`` and ``value`` of each score of exactly this version; ``beside``, its differences
            to the parents', may be empty, as may ``published``, what others published and the difference to it, and ``asked``,
            what was not asked as the suite says.
    """
    if not rows:
        return card
    before, recipe, text = card.partition(_RECIPE)
    compared = any(row.get("beside") for row in rows)
    published = any(row.get("published") for row in rows)
    asked = list(dict.fromkeys((row["suite"], row["asked"]) for row in rows if row.get("asked")))
    texts = {"rows": rows, "compared": compared, "published": published, "asked": asked}
    section = render(_PACKAGE, "card_scores.md.j2", version=version, **texts)
    return f"{before}\n{section}{recipe}{text}"


def _hub_id(model: PlannedModel) -> str | None:
    """The Hub's id of a model, of one with an adapter that of the model; ``None`` if it is from elsewhere.

    A folder may be called as a model of the Hub is; then its files lie in a folder of this name.
    """
    reference = ModelReference.parse(model.reference)
    is_folder = PurePath(model.location).parts[-2:] == tuple(reference.path.split("/"))
    return reference.path if reference.looks_like_hub_id and not is_folder else None
