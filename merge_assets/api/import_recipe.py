"""Import a merge config from where people publish it: a repository on the Hub, a model card, a web page, a YAML file."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from merge_assets.errors import RecipeError
from merge_assets.importing.cleaning import without_passwords
from merge_assets.methods import methods
from merge_assets.recipe import Recipe
from merge_assets.recipe.load import BrokenRecipe, read_recipes
from merge_assets.reference import ModelReference
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.importing.config import Imported

CONFIGS = ("mergekit_config.yml", "mergekit_config.yaml", "README.md")
"""Files of a repository or folder that may hold its merge config, the first that is there is read."""

MAX_BYTES = 4 << 20
"""Upper bound on a model card or web page in bytes."""

STDIN = "-"

_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")


@dataclass(frozen=True)
class Found:
    """A merge config that was found, ready to be written.

    Attributes:
        imported: its text and what was mended.
        name: of the recipe, or of the file that holds several.
        origin: where it was found, in words.
        local: models that it names by a path or a name of the author's machine, one sentence each.
    """

    imported: Imported
    name: str
    origin: str
    local: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A text that may hold a config; ``file`` stands for it in errors, ``name`` is what a recipe from it is called."""

    text: str
    file: Path
    name: str
    origin: str


def import_recipe(
    workspace: Workspace,
    source: str,
    *,
    name: str | None = None,
    pick: int | None = None,
    keep: Collection[str] = (),
    stdin: bytes | None = None,
) -> Found:
    """Find the merge config in a source and mend what copying broke. Nothing is written.

    Args:
        workspace: settings and the Hub.
        source: ``org/name[@revision]`` or the address of its page on the Hub, a file, a folder with a model card, or ``-``.
        name: of the recipe, instead of the config's own or the source's.
        pick: take this one of several configs, from 1.
        keep: operational keys (``schedule``, …) that are taken over, too; ``all`` for all of them.
        stdin: the text, where ``source`` is ``-``.

    Raises:
        RecipeError: the source does not exist or holds no config that can be mended.
        HubError: the Hub refuses it or cannot be reached.
    """
    from merge_assets.importing.config import import_text, renamed  # needed by this command alone
    from merge_assets.importing.operations import OPERATIONAL

    for key in keep:
        if key not in OPERATIONAL and key != "all":
            known = ", ".join((*OPERATIONAL, "all"))
            raise RecipeError(f"--keep {key}: an import leaves out no such key; write one of {known}")
    opened = (
        _from_bytes(stdin or b"", Path("standard input"), "imported") if source == STDIN else _open(workspace, source)
    )
    parameters = {
        method.name: {parameter.name: parameter.per_model for parameter in method.parameters}
        for method in methods().values()
    }
    kept = OPERATIONAL if "all" in keep else keep
    imported = import_text(opened.text, opened.file, name or opened.name, parameters, pick, kept)
    if name is not None and imported.recipes[-1].name != name:
        imported = renamed(imported, name, opened.file)
    return Found(imported, imported.recipes[-1].name, opened.origin, tuple(_local_models(workspace, imported.recipes)))


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
    if to is None and not workspace.settings.recipes:
        raise RecipeError("the setting recipes names no folder; say with --to where the recipe goes")
    target = to or workspace.settings.recipes[0] / f"{found.name}.yaml"
    if target.suffix not in (".yaml", ".yml"):
        raise RecipeError("a recipe's file ends in .yaml; name such a file with --to", file=target)
    if target.exists() and not overwrite:
        raise RecipeError("is there already; --overwrite replaces it, --name or --to takes another name", file=target)
    _check_names(workspace, found, target)
    imported = found.imported
    alone = len(imported.recipes) == 1
    if alone and target.stem != found.name:  # the file's stem would be the name otherwise
        from merge_assets.importing.config import renamed

        imported = renamed(imported, found.name, target)
    head = [f"Imported by merge-assets from {found.origin}: {imported.place}."]
    if imported.repairs:
        head.append(f"Mended: {', '.join(imported.repairs)}.")
    if imported.dropped:
        head.append(f"Left out: {', '.join(imported.dropped)}.")
    head += [f"Not certain: {choice}." for choice in imported.choices]
    head += [f"Local: {sentence}." for sentence in found.local]
    text = "".join(f"# {line}\n" for line in head) + imported.text
    for entry in read_recipes(text, target, target.stem):
        if isinstance(entry, BrokenRecipe):
            raise entry.error
    draft = target.with_name(f".{target.name}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, target)  # noqa: PTH105
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror or error}", file=target) from None
    finally:
        draft.unlink(missing_ok=True)
    return target


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


def _open(workspace: Workspace, source: str) -> _Source:
    path = Path(source).expanduser()
    for candidate in (Path.cwd() / path, workspace.settings.root / path):
        if candidate.is_file():
            return _from_file(candidate, path)
        if candidate.is_dir():
            for name in CONFIGS:
                if (candidate / name).is_file():
                    return _from_file(candidate / name, path / name)
            raise RecipeError(f"the folder has none of {', '.join(CONFIGS)}", file=source)
    reference, names = _hub_page(workspace, source) if "://" in source else (_hub_name(source), CONFIGS)
    if reference is None:
        raise RecipeError(
            f"{without_passwords(source)!r} is neither a file, nor a folder, nor a repository on the Hub "
            "(org/name[@revision]); - reads standard input"
        )
    return _from_hub(workspace, reference, names)


def _hub_name(source: str) -> ModelReference | None:
    try:
        reference = ModelReference.parse(source)
    except ValueError:
        return None
    return reference if reference.looks_like_hub_id and reference.lora is None else None


def _hub_page(workspace: Workspace, address: str) -> tuple[ModelReference | None, tuple[str, ...]]:
    """The repository, and the file if one is shown, of a page on the Hub."""
    url = urlsplit(address)
    endpoint = workspace.settings.hub_endpoint
    hosts = (*_HUB_HOSTS, *([urlsplit(endpoint).netloc] if endpoint else []))
    parts = [unquote(part) for part in url.path.split("/") if part]
    if url.netloc not in hosts or len(parts) < 2:
        raise RecipeError(
            f"{without_passwords(address)}: only models on the Hub are fetched; save the page and import the file"
        )
    revision = parts[3] if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "raw") else None
    names = ("/".join(parts[4:]),) if len(parts) > 4 and parts[2] != "tree" else CONFIGS
    return _hub_name("/".join(parts[:2]) + (f"@{revision}" if revision else "")), names


def _from_hub(workspace: Workspace, reference: ModelReference, names: tuple[str, ...]) -> _Source:
    revision = workspace.hub.resolve(reference)
    name = next((name for name in names if name in revision.files), None)
    if name is None:
        raise RecipeError(f"{revision} has no {' and no '.join(names)}; is its config published elsewhere?")
    if revision.files[name].size > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES >> 20} MiB, which no merge config is", file=f"{revision}/{name}")
    raw = workspace.hub.read(revision, name)
    origin = f"{name} of {reference.path} on the Hub (commit {revision.commit})"
    return _from_bytes(raw, Path(f"{reference.path}/{name}"), reference.path.rpartition("/")[2], origin)


def _from_file(file: Path, shown: Path) -> _Source:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=shown) from None
    name = file.resolve().parent.name if file.name in CONFIGS else file.stem
    return _from_bytes(raw, shown, name)


def _from_bytes(raw: bytes, file: Path, name: str, origin: str | None = None) -> _Source:
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES >> 20} MiB, which no merge config is", file=file)
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8", file=file) from None
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:100]
    return _Source(text, file, allowed or "imported", origin or str(file))
