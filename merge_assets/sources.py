"""Where models come from: a workspace opens what model references name, headers first and weights when needed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.checkpoint import (
    Checkpoint,
    CheckpointDigest,
    digest_checkpoint,
    known_digests,
    open_adapter,
    open_any,
    open_checkpoint,
)
from merge_assets.errors import CheckpointError, RecipeError, did_you_mean, in_file
from merge_assets.identity import ModelIdentity, analysis_line, checkpoint_line, variant_line
from merge_assets.plan import Plan, PlanInput, build_plan, planned_checkpoint
from merge_assets.progress import Progress, ShouldStop
from merge_assets.recipe import LayerFigure, Recipe, RecipeBook, load_recipe
from merge_assets.reference import ModelReference
from merge_assets.regular import is_file, is_folder
from merge_assets.settings import Settings, load_settings
from merge_assets.store import Artifact, ArtifactStore
from merge_assets.stored import StoredModels, tensor_digests

if TYPE_CHECKING:
    from merge_assets.evaluation.suite import Suites
    from merge_assets.hub import Hub


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a look-up that say that there is no folder of this name."""


class Workspace:
    """What every verb needs, opened once: settings, recipes, suites, store and Hub.

    Opening reads recipe and suite files and nothing else: no weights, no network, no torch.
    """

    def __init__(self, settings: Settings, book: RecipeBook, store: ArtifactStore) -> None:
        self.settings = settings
        self.book = book
        self.store = store

    @classmethod
    def open(cls, settings: Settings | None = None) -> Workspace:
        settings = settings or load_settings()
        store = ArtifactStore(settings.store_url, settings.store_secrets(), scratch=settings.cache_dir)
        return cls(settings, RecipeBook.load(settings.recipes), store)

    @cached_property
    def suites(self) -> Suites:
        from merge_assets.evaluation.suite import load_suites

        return load_suites(self.settings.suites)

    @cached_property
    def hub(self) -> Hub:
        from merge_assets.hub import Hub

        token = self.settings.hub_token.get_secret_value() if self.settings.hub_token else None
        return Hub(endpoint=self.settings.hub_endpoint, token=token, cache_dir=self.settings.hub_cache)

    @property
    def cache(self) -> Path:
        """Folder of digests, downloaded artifacts and finished evaluation tasks."""
        return self.settings.cache_dir

    # -- names -------------------------------------------------------------------------------------------------------

    def recipe(self, name: str) -> Recipe:
        """The recipe called ``name``, or the one in the file of that path.

        Raises:
            RecipeError: if there is none, or its file is broken.
        """
        if name in self.book.recipes:
            return self.book.recipes[name]
        for broken in self.book.broken:
            if broken.name == name:
                raise broken.error
        if Path(name).suffix in (".yaml", ".yml") or is_file(Path(name)):
            return load_recipe(Path(name))
        raise RecipeError(
            f"there is no recipe {name!r}{did_you_mean(name, self.book.recipes)}; "
            "`merge-assets recipes` lists them, or give the path of a YAML file"
        )

    def is_automated(self, recipe: Recipe) -> bool:
        """Whether automation may build a recipe; those that need the Hub, themselves or through others, must be enabled."""
        try:
            return self.settings.is_automated(recipe.name, self._needs_hub(recipe))
        except CheckpointError:  # a model is nowhere
            return False

    def _needs_hub(self, recipe: Recipe) -> bool:
        for reference in recipe.references():
            parent = self.book.resolve(reference)
            if parent and parent.name not in self._hub_users:
                self._hub_users[parent.name] = self._needs_hub(parent)
            if (parent and self._hub_users[parent.name]) or self.uses_hub(reference):
                return True
        return False

    @cached_property
    def _hub_users(self) -> dict[str, bool]:
        """What is known of the recipes of the book; asked for once, as there may be very many ways to one."""
        return {}

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
        """Tell what a reference names: a recipe first, then a local directory, then the Hub.

        Raises:
            CheckpointError: if it is none of these.
        """
        if self.book.resolve(reference) is not None:
            return ModelIdentity("recipe", (reference.path,), reference.path, reference)
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
        near = "; `./` and `/` paths must exist" if not reference.is_url else "; URLs are not read yet"
        raise CheckpointError(f"{reference}: neither a recipe, nor a local directory, nor org/name on the Hub{near}")

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

    def _local_parts(self, directory: Path) -> tuple[str, ...]:
        """The path, inside the project or from the root of the file system on; never that of another model.

        No reference has a + in its path, so nothing else can be called what gets one here.
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
        """Every model and adapter that recipes name."""
        wholes = {reference for recipe in self.book.recipes.values() for reference in recipe.references()}
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

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def headers(self, reference: ModelReference, *, with_digests: bool = False) -> PlanInput:
        """Headers of a model and of its adapter, for a plan. Reads no weights; a recipe that was never built, or is not
        stored, is planned.

        Args:
            reference: what to open.
            with_digests: whether to look up the digests of local files that were digested before and have not changed.
        """
        item = self._headers(reference.model, with_digests)
        if reference.lora is None:
            return item
        return replace(item, reference=reference, adapter=self._adapter_headers(reference.lora, with_digests))

    def _headers(self, reference: ModelReference, with_digests: bool) -> PlanInput:
        identity = self.identify(reference)
        if self.book.resolve_folded(reference) is not None:
            return self.folded_input(reference, self._planned(reference, with_digests))
        if identity.kind == "recipe":
            artifact = self.store.current(variant_line(reference.path))
            return (
                self._of_artifact(reference, artifact, local=False)
                if artifact
                else self._of_plan(reference, with_digests)
            )
        if identity.kind == "local":
            directory = self.local_path(reference)
            assert directory is not None
            return self._with_known_digests(reference, self.open_local(directory), with_digests)
        mirrored = self._mirror_of(reference)
        if mirrored is not None:
            return self._of_artifact(reference, mirrored, local=False)
        revision = self.hub.resolve(reference)
        return PlanInput(reference, self.hub.open(revision), self.hub.fingerprint(revision))

    def _adapter_headers(self, reference: ModelReference, with_digests: bool) -> PlanInput:
        directory = self._adapter_path(reference)
        if directory is not None:
            return self._with_known_digests(reference, open_adapter(self._readable(directory)), with_digests)
        revision = self.hub.resolve(reference)
        return PlanInput(reference, self.hub.open(revision), self.hub.fingerprint(revision))

    def _with_known_digests(self, reference: ModelReference, checkpoint: Checkpoint, wanted: bool) -> PlanInput:
        digest = known_digests(checkpoint, self.cache) if wanted else None
        if digest is None:
            return PlanInput(reference, checkpoint)
        return PlanInput(reference, checkpoint, digest.fingerprint, digest.tensors, digest.files)

    def _adapter_path(self, reference: ModelReference) -> Path | None:
        """The folder of a local adapter, ``None`` if it is on the Hub."""
        identity = self.identify(reference)
        if identity.kind == "recipe":
            raise CheckpointError(f"{reference}: is a recipe, which makes a model; after the + stands an adapter")
        return self.local_path(reference) if identity.kind == "local" else None

    def fetch(
        self,
        reference: ModelReference,
        *,
        commit: str | None = None,
        local: bool = True,
        with_digests: bool = True,
        progress: Progress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> PlanInput:
        """A model, without an adapter, whose weights can be read.

        Args:
            reference: what to fetch.
            commit: Hub commit to take instead of the reference's revision, as an observation recorded it.
            local: whether the weights have to lie in a local directory; else what an object store holds stays there, and
                what is on the Hub is mirrored into it.
            with_digests: whether to digest every tensor, which reads the checkpoint once.
            progress: called with bytes downloaded.
            should_stop: polled while downloading and digesting.

        Raises:
            CheckpointError: if a variant was not built yet or is not stored, or files are missing or damaged.
        """
        if reference.lora is not None:
            raise CheckpointError(
                f"{reference}: an adapter is applied when a recipe is built; name a recipe with `merge_method: passthrough` "
                "of this model instead"
            )
        identity = self.identify(reference)
        if self.book.resolve_folded(reference) is not None:
            raise CheckpointError(
                f"{reference.path}: this recipe is not stored (materialize: false), so there are no files to read; "
                f"write it to a folder with `merge-assets merge {reference.path} OUT`"
            )
        if identity.kind == "recipe":
            artifact = self.store.current(variant_line(reference.path))
            if artifact is None:
                raise CheckpointError(
                    f"{reference.path}: this recipe's variant is not in the store; "
                    f"run `merge-assets build {reference.path}`"
                )
            return self._of_artifact(reference, artifact, local=local)
        if identity.kind == "local":
            directory = self.local_path(reference)
            assert directory is not None
        elif self.store.in_bucket:
            mirrored = self._mirrored(reference, commit, progress, should_stop)
            return self._of_artifact(reference, mirrored, local=local)
        else:
            directory = self._downloaded(reference, commit, progress, should_stop)
        return self._digested(reference, self.open_local(directory), with_digests, should_stop)

    def fetch_adapter(
        self,
        item: PlanInput,
        reference: ModelReference,
        *,
        commit: str | None = None,
        with_digests: bool = True,
        progress: Progress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> PlanInput:
        """A model that was fetched, with the adapter that the reference names; see :meth:`fetch` for the rest."""
        if reference.lora is None:
            return item
        directory = self._adapter_path(reference.lora)
        if directory is None:
            directory = self._downloaded(reference.lora, commit, progress, should_stop)
        adapter = self._digested(reference.lora, open_adapter(self._readable(directory)), with_digests, should_stop)
        return replace(item, reference=reference, adapter=adapter)

    def _mirrored(
        self, reference: ModelReference, commit: str | None, progress: Progress | None, should_stop: ShouldStop | None
    ) -> Artifact:
        from merge_assets.hub.mirror import mirror

        wanted = ModelReference(reference.path, commit) if commit else reference
        line = checkpoint_line(reference)
        found = self._mirror_of(wanted)
        if found is not None:
            self.store.set_current(line, found.version)
            return found
        revision = self.hub.resolve(wanted)
        return mirror(self.hub, revision, self.store, line, self.cache, progress=progress, should_stop=should_stop)

    def _mirror_of(self, reference: ModelReference) -> Artifact | None:
        """The mirror of a commit, for which the Hub need not be asked."""
        if not (self.store.in_bucket and reference.is_commit):
            return None
        versions = self.store.versions(checkpoint_line(reference))
        return next((v for v in versions if v.manifest.inputs.get(reference.path) == reference.revision), None)

    def _downloaded(
        self, reference: ModelReference, commit: str | None, progress: Progress | None, should_stop: ShouldStop | None
    ) -> Path:
        wanted = ModelReference(reference.path, commit) if commit else reference
        return self.hub.download(self.hub.resolve(wanted), progress=progress, should_stop=should_stop)

    def _digested(
        self, reference: ModelReference, checkpoint: Checkpoint, with_digests: bool, should_stop: ShouldStop | None
    ) -> PlanInput:
        if not with_digests:
            return PlanInput(reference, checkpoint)
        digest = self.digest(checkpoint, should_stop)
        return PlanInput(reference, checkpoint, digest.fingerprint, digest.tensors, digest.files)

    def open_local(self, directory: Path) -> Checkpoint:
        """Open a folder; pickled weights are converted into the cache first, if the settings allow it.

        Raises:
            CheckpointError: if it holds no checkpoint, or weights that are not read.
        """
        return open_checkpoint(self._readable(directory))

    def open_any(self, directory: Path) -> Checkpoint:
        """Like :meth:`open_local`, but what the folder holds may be an adapter, too."""
        return open_any(self._readable(directory))

    def _readable(self, directory: Path) -> Path:
        """The folder itself or its conversion from pickles, if those are allowed."""
        if not self.settings.allow_pickle:
            return directory
        from merge_assets.engine.pickled import converted

        return converted(directory, self.cache / "converted")

    def digest(self, checkpoint: Checkpoint, should_stop: ShouldStop | None = None) -> CheckpointDigest:
        return digest_checkpoint(checkpoint, self.cache, should_stop)

    @cached_property
    def stored(self) -> StoredModels:
        """The models that builds read from the object store."""
        return StoredModels(self.cache / "tensors", int(self.settings.cache_size))

    def _of_artifact(self, reference: ModelReference, artifact: Artifact, *, local: bool) -> PlanInput:
        if artifact.in_bucket and not local:
            checkpoint = self.stored.open(artifact)
        else:
            checkpoint = open_checkpoint(artifact.directory(self.cache / "artifacts"))
        files = {name: entry.digest for name, entry in artifact.manifest.files.items()}
        is_variant = self.book.resolve(reference) is not None
        return PlanInput(
            reference, checkpoint, artifact.version, tensor_digests(artifact), files, is_variant=is_variant
        )

    def _of_plan(self, reference: ModelReference, with_digests: bool) -> PlanInput:
        """The headers that a variant will have once it is built."""
        plan = self._planned(reference, with_digests)
        digests = {tensor.name: f"key:{tensor.key}" for tensor in plan.tensors}
        return PlanInput(reference, planned_checkpoint(plan, self.stored.read), None, digests)

    def _planned(self, reference: ModelReference, with_digests: bool) -> Plan:
        recipe = self.book.recipes[reference.path]
        with in_file(recipe.source.file):
            return build_plan(
                recipe,
                [self.headers(item, with_digests=with_digests) for item in recipe.references()],
                shard_size=int(self.settings.shard_size),
                figures=self.figures(recipe),
            )

    def folded_input(self, reference: ModelReference, plan: Plan) -> PlanInput:
        """A recipe that is not stored as the input of another: its plan, and the checkpoint that it would be."""
        digests = {carried.file: carried.digest for carried in plan.carried if carried.digest is not None}
        digests |= {written.file: written.digest for written in plan.written}
        return PlanInput(reference, planned_checkpoint(plan, self.stored.read), file_digests=digests, folded=plan)

    # -- analyses ----------------------------------------------------------------------------------------------------

    def figures(self, recipe: Recipe, fingerprint: str | None = None) -> list[LayerFigure] | None:
        """Per-layer figures that a recipe's ``prune_layers`` asks for; ``None`` if it asks for none or they are missing.

        Args:
            recipe: the recipe.
            fingerprint: of the model; an analysis of other bytes counts as missing. ``None`` takes the latest.

        Raises:
            AnalysisError: if the stored analysis has no such tensor.
        """
        template = recipe.prune_layers
        if template is None or not template.is_measured:
            return None
        artifact = self.store.current(analysis_line(self.identify(template.model)))
        if artifact is None or (fingerprint and artifact.manifest.details["fingerprint"] != fingerprint):
            return None
        from merge_assets.analysis.layers import read_layers

        directory = artifact.directory(self.cache / "artifacts")
        return [LayerFigure(**row) for row in read_layers(directory, template.tensor or "", template.by)]
