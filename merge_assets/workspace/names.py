"""What model references name: another recipe, a folder, or a repository on the Hub."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from merge_assets.errors import CheckpointError
from merge_assets.identity import ModelIdentity
from merge_assets.recipe import Recipe, RecipeBook
from merge_assets.reference import ModelReference
from merge_assets.regular import is_folder
from merge_assets.settings import Settings

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a look-up that say that there is no folder of this name."""


class Names:
    """What the references of a project name.

    Where a model lies is looked up anew each time; what models are called is settled when it is first asked, so that
    no name changes while a process works with it.
    """

    def __init__(
        self, settings: Settings, book: RecipeBook, planned: Mapping[ModelReference, ModelIdentity] | None = None
    ) -> None:
        """
        Args:
            settings: say where paths start.
            book: recipes come before folders.
            planned: what references were found to name when a run was planned, and name for it.
        """
        self.settings = settings
        self.book = book
        self._planned = planned or {}

    def identities(self) -> dict[ModelReference, ModelIdentity]:
        """What every reference of the book names that is no recipe; those that name nothing are left out."""
        found = {}
        for reference in sorted(self._mentioned, key=str):
            with suppress(CheckpointError):
                identity = self.identify(reference)
                if identity.kind != "recipe":
                    found[reference] = identity
        return found

    def uses_hub(self, reference: ModelReference) -> bool:
        """Whether a model or its adapter is a repository on the Hub."""
        return any(self.identify(part).kind == "hub" for part in (reference.model, reference.lora) if part is not None)

    def check_models(self, recipe: Recipe) -> None:
        """Tell whether every model that a recipe is made of is somewhere.

        Raises:
            CheckpointError: for the first that is not.
        """
        for reference in self.book.inputs(recipe):
            for part in (reference.model, reference.lora):
                if part is not None:
                    self.identify(part)

    def identify(self, reference: ModelReference) -> ModelIdentity:
        """Tell what a reference names: a recipe first, then a local directory, then the Hub, then a URL.

        Raises:
            CheckpointError: if it is none of these.
        """
        if self.book.resolve(reference) is not None:
            return ModelIdentity("recipe", (reference.path,), reference.path, reference)
        if reference in self._planned:
            return self._planned[reference]
        directory = self.local_path(reference)
        if directory is not None:
            return ModelIdentity("local", self._local_parts(directory), self._local_title(directory), reference)
        if reference.looks_like_hub_id:
            parts = reference.path.split("/")
            if reference.revision:
                plain = reference.revision.replace("/", "-")
                parts[-1] += f"@{plain}"
                if plain != reference.revision and ModelReference(reference.path, plain) in self._mentioned:
                    parts[-1] += f"+{_short_digest(reference.revision)}"
            return ModelIdentity("hub", tuple(parts), str(reference), reference)
        if reference.is_url:
            return _at_url(reference)
        raise CheckpointError(
            f"{reference}: neither a recipe, nor a local directory, nor org/name on the Hub; `./` and `/` paths must exist, "
            "and a + or @ of their own is written %2B or %40"
        )

    def local_path(self, reference: ModelReference) -> Path | None:
        """The directory a reference names, relative to the project root or the working directory.

        Raises:
            CheckpointError: if this user may not look whether there is one.
        """
        if reference.is_url:
            return None
        try:
            path = Path(reference.path).expanduser()
        except RuntimeError:
            user = reference.path.partition("/")[0]
            raise CheckpointError(f"{reference}: there is no home folder of {user}; write the whole path") from None
        problem = ""
        for candidate in (self.settings.root / path, Path.cwd() / path):
            try:
                if stat.S_ISDIR(candidate.stat().st_mode):
                    return Path(os.path.abspath(candidate))  # noqa: PTH100 - resolve() would follow links to other names
            except ValueError:  # a NUL: there is nothing of such a name
                continue
            except OSError as error:
                if error.errno not in _NOTHING_THERE:
                    problem = f"{candidate}: {error.strerror}"
        if problem:
            raise CheckpointError(f"{reference}: cannot be looked up ({problem}); let this user into its folders")
        return None

    def folder(self, reference: ModelReference) -> Path:
        """The directory of a reference that was identified as a local one.

        Raises:
            CheckpointError: if it went meanwhile.
        """
        directory = self.local_path(reference)
        if directory is None:
            raise CheckpointError(f"{reference}: the folder is not there any more")
        return directory

    def _local_parts(self, directory: Path) -> tuple[str, ...]:
        """The path, inside the project or from the root of the file system on; never that of another model.

        What gets a + here has the digest of its path behind it, so nothing else can be called so.
        """
        root = Path(os.path.abspath(self.settings.root))  # noqa: PTH100
        inside = directory.is_relative_to(root)
        parts = directory.relative_to(root).parts if inside else directory.parts[1:]
        name = "/".join(parts)
        taken = not inside and (is_folder(root / name) or ModelReference(name) in self._mentioned)
        if parts and not taken and name not in self.book.recipes:
            return parts
        return (*parts[:-1], f"{parts[-1] if parts else ''}+{_short_digest(str(directory))}")

    def _local_title(self, directory: Path) -> str:
        """The folder's name, or its whole path where another model of the project is called the same."""
        if self._names[directory.name] > 1 or directory.name in self.book.recipes:
            return "/".join(self._local_parts(directory))
        return directory.name

    @cached_property
    def _mentioned(self) -> frozenset[ModelReference]:
        """Every model and adapter that recipes name, or candidates of searches may name."""
        recipes = (*self.book.recipes.values(), *(one for points in self.book.searched.values() for one in points))
        wholes = {reference for recipe in recipes for reference in recipe.references()}
        return frozenset(part for whole in wholes for part in (whole.model, whole.lora) if part is not None)

    @cached_property
    def _names(self) -> Counter[str]:
        """How many local folders that recipes refer to have a name."""
        folders: set[Path] = set()
        for reference in self._mentioned:
            with suppress(CheckpointError):  # an error of the recipes that name it, not of the others
                if directory := self.local_path(reference):
                    folders.add(directory)
        return Counter(folder.name for folder in folders)


def _at_url(reference: ModelReference) -> ModelIdentity:
    """A folder in a bucket, or whatever fsspec has a file system for; that it is there is not looked up.

    Raises:
        CheckpointError: if another way to write the reference is the right one.
    """
    scheme, _, rest = reference.path.partition("://")
    bucket, *parts = rest.rstrip("/").split("/")
    if scheme in ("file", "local"):
        raise CheckpointError(
            f"{reference}: a folder of this machine; write its path, {rest.removeprefix('localhost')}"
        )
    if scheme in ("hf", "http", "https"):
        raise CheckpointError(
            f"{reference}: models on the Hub are written org/name[@REVISION], and folders in a bucket s3://BUCKET/PATH"
        )
    if reference.revision is not None:
        raise CheckpointError(
            f"{reference}: a URL has no revision; leave out @{reference.revision}, or write an @ of its own %40"
        )
    if not bucket or "" in parts or {".", ".."} & set(parts):
        raise CheckpointError(f"{reference}: not the URL of a folder; write it like s3://BUCKET/PATH")
    return ModelIdentity("url", (f"{scheme}={bucket}", *parts), reference.path.rstrip("/"), reference)


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
