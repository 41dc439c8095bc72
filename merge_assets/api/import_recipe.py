"""Import a merge config from where people publish it: a repository on the Hub, a model card, a web page, a YAML file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.errors import PlanError, RecipeError
from merge_assets.importing.sources import (
    CARD,
    MAX_BYTES,
    ConfigSource,
    local_source,
    repository_of,
    source_of,
    too_large,
)
from merge_assets.methods import methods
from merge_assets.plan import check_alone
from merge_assets.recipe import Recipe
from merge_assets.reference import ModelReference
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.importing.indentation import MethodParameters
    from merge_assets.importing.mending import Imported

STDIN = "-"


@dataclass(frozen=True)
class Found:
    """A merge config that was found, ready to be written.

    Attributes:
        imported: its text and what was mended.
        name: of the recipe, or of the file that holds several.
        origin: where it was found, in words.
        local: models that it names by a path or a name of the author's machine, one sentence each.
        refused: why a plan refuses it, whatever its models hold, one sentence for each recipe that it refuses.
    """

    imported: Imported
    name: str
    origin: str
    local: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def import_recipe(
    workspace: Workspace,
    source: str,
    *,
    name: str | None = None,
    pick: int | None = None,
    keep: Collection[str] = (),
    store_steps: bool = False,
    replaced: Mapping[str, str] | None = None,
    with_parents: bool = False,
    stdin: bytes | None = None,
) -> Found:
    """Find the merge config in a source and mend what copying broke. Nothing is written.

    Args:
        workspace: settings and the Hub.
        source: ``org/name[@revision]`` or the address of its page on the Hub, a file, a folder with a model card, or ``-``.
        name: of the recipe, instead of the config's own or the source's.
        pick: take this one of several configs, from 1, with those that it is made of.
        keep: operational keys (``schedule``, …) that are taken over, too; ``all`` for all of them.
        store_steps: store every step of a merge in several stages, instead of folding it into what is made of it.
        replaced: a model as the author named it, or the folder that it lies in -> what is written instead.
        with_parents: import the models of the Hub that it is made of, too, as far as they are merges themselves.
        stdin: the text, where ``source`` is ``-``.

    Raises:
        RecipeError: the source does not exist or holds no config that can be mended.
        HubError: the Hub refuses it or cannot be reached.
    """
    from merge_assets.importing.config import import_text, renamed  # needed by this command alone
    from merge_assets.importing.elsewhere import with_models_replaced
    from merge_assets.importing.folding import folded
    from merge_assets.importing.operations import OPERATIONAL
    from merge_assets.importing.publishing import with_layers_told, with_published

    for key in keep:
        if key not in OPERATIONAL and key != "all":
            known = ", ".join((*OPERATIONAL, "all"))
            raise RecipeError(f"--keep {key}: an import leaves out no such key; write one of {known}")
    opened = (
        source_of(stdin or b"", Path("standard input"), "imported") if source == STDIN else _open(workspace, source)
    )
    parameters = {
        method.name: {parameter.name: parameter.per_model for parameter in method.parameters}
        for method in methods().values()
    }
    kept = OPERATIONAL if "all" in keep else keep
    imported = import_text(opened.text, opened.file, name or opened.name, parameters, pick, kept)
    if replaced:
        imported = with_models_replaced(imported, opened.file, name or opened.name, replaced)
    names, card = (opened.name, opened.file.parent.name), opened.card or opened.text
    imported = with_published(imported, card, opened.origin, names, workspace.suites, opened.file)
    imported = with_layers_told(imported, card, names)
    if with_parents:
        imported = _with_ancestors(workspace, imported, name or opened.name, opened.file, parameters, kept)
    if not store_steps:
        imported = folded(imported, opened.file, name or opened.name)
    if name is not None and imported.recipes[-1].name != name:
        imported = renamed(imported, name, opened.file)
    recipes = imported.recipes
    local, refused = tuple(_local_models(workspace, recipes)), tuple(_refusals(workspace, recipes))
    return Found(imported, recipes[-1].name, opened.origin, local, refused)


def _with_ancestors(
    workspace: Workspace,
    imported: Imported,
    name: str,
    file: Path,
    parameters: MethodParameters,
    keep: Collection[str],
) -> Imported:
    from merge_assets.importing.config import import_text
    from merge_assets.importing.lineage import as_one
    from merge_assets.importing.parents import ancestors_of

    def read(model: ModelReference) -> tuple[Imported, str, str] | None:
        reference, names = repository_of(str(model), workspace.settings.hub_endpoint)
        source = _on_hub(workspace, reference, names, required=False)
        if source is None:
            return None
        return import_text(source.text, source.file, source.name, parameters, keep=keep), source.name, source.origin

    last = imported.recipes[-1].name
    lineage = ancestors_of(imported, name, read)
    whole = as_one(imported, last, lineage.ancestors, file)
    return replace(whole, unread=(*whole.unread, *lineage.left))


def write_recipe(workspace: Workspace, found: Found, to: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write an imported config as a recipe file, with a comment that names its source.

    Args:
        workspace: whose recipes it joins.
        found: from :func:`import_recipe`.
        to: the file; left out: ``NAME.yaml`` in the first folder of recipes.
        overwrite: replace a file that is there.

    Returns:
        The file.

    Raises:
        RecipeError: the file is there already, or another recipe of the project has the name.
    """
    from merge_assets.importing.recipe_file import write_recipe_file  # needed by this command alone

    if to is None and not workspace.settings.recipes:
        raise RecipeError("the setting recipes names no folder; say with --to where the recipe goes")
    target = to or workspace.settings.recipes[0] / f"{found.name}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        raise RecipeError("a recipe's file ends in .yaml; name such a file with --to", file=target)
    if target.exists() and not overwrite:
        raise RecipeError("is there already; --overwrite replaces it, --name or --to takes another name", file=target)
    _check_names(workspace, found, target)
    write_recipe_file(found.imported, found.origin, found.local, target)
    return target


def _refusals(workspace: Workspace, recipes: Sequence[Recipe]) -> Iterator[str]:
    """What a plan would say before it asks for any model."""
    for recipe in recipes:
        try:
            check_alone(workspace.listed(recipe))
        except PlanError as error:
            whose = f"{recipe.name}: " if len(recipes) > 1 else ""
            yield f"{whose}{error.key}: {error.message}"


def _local_models(workspace: Workspace, recipes: Sequence[Recipe]) -> Iterator[str]:
    """What to do with each model that is neither on the Hub nor a recipe at hand."""
    names = {*(recipe.name for recipe in recipes), *workspace.book.recipes}
    told: set[str] = set()
    for recipe in recipes:
        for key, reference in recipe.mentions():
            for part in (reference.model, reference.lora):
                if part is None or part.is_url or part.looks_like_hub_id or {part.path} & (names | told):
                    continue
                told.add(part.path)
                if workspace.names.local_path(part) is not None:
                    yield f"{key}: {part.path} is a path of the author's that is here, too; see that it is the model meant"
                else:
                    yield (
                        f"{key}: {part.path} is a path or a recipe of the author's machine; write where that model is on "
                        "the Hub (org/name), or your own folder of it"
                    )


def _check_names(workspace: Workspace, found: Found, target: Path) -> None:
    """Two recipes of one name would both be broken."""
    if not any(target.resolve().is_relative_to(folder.resolve()) for folder in workspace.settings.recipes):
        return
    for recipe in found.imported.recipes:
        other = workspace.book.recipes.get(recipe.name)
        if other is not None and other.source.file.resolve() != target.resolve():
            raise RecipeError(
                f"{recipe.name!r} is the name of the recipe in {other.source.file} already; "
                "give this one another with --name",
                file=target,
                key="name",
            )


def _open(workspace: Workspace, source: str) -> ConfigSource:
    if (found := local_source(source, (Path.cwd(), workspace.settings.root))) is not None:
        return found
    reference, names = repository_of(source, workspace.settings.hub_endpoint)
    found = _on_hub(workspace, reference, names)
    assert found is not None
    return found


def _on_hub(
    workspace: Workspace, reference: ModelReference, names: Sequence[str], *, required: bool = True
) -> ConfigSource | None:
    """The first of some files that a repository has; ``None`` or an error if it has none."""
    revision = workspace.hub.resolve(reference)
    name = next((name for name in names if name in revision.files), None)
    if name is None and not required:
        return None
    if name is None:
        raise RecipeError(f"{revision} has no {' and no '.join(names)}; is its config published elsewhere?")
    if revision.files[name].size > MAX_BYTES:
        raise too_large(f"{revision}/{name}")
    raw = workspace.hub.read(revision, name)
    beside = name != CARD and CARD in names and CARD in revision.files and revision.files[CARD].size <= MAX_BYTES
    card = source_of(workspace.hub.read(revision, CARD), Path(CARD), CARD).text if beside else ""
    origin = f"{name} of {reference.path} on the Hub (commit {revision.commit})"
    found = source_of(raw, Path(f"{reference.path}/{name}"), reference.path.rpartition("/")[2], origin)
    return replace(found, card=card)
