"""Models for whoever works with them: headers first, weights when they are needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from merge_assets.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from merge_assets.errors import CheckpointError, in_file
from merge_assets.identity import variant_line
from merge_assets.plan import Plan, PlanInput, Together, build_plan, planned_checkpoint
from merge_assets.recipe import LayerFigure, PruneLayers, Recipe
from merge_assets.records import Input
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace.bucket import StoredSource, tensor_digests
from merge_assets.workspace.local import LocalModels
from merge_assets.workspace.on_hub import HubModels
from merge_assets.workspace.on_url import UrlModels
from merge_assets.workspace.results import current_analysis, current_importance
from merge_assets.workspace.texts import text_digest
from merge_assets.workspace.workspace import Workspace


class Models:
    """The models of a workspace as one verb finds them: each opened, fetched and planned once.

    Whoever begins something makes new ones, also after it has built something itself. So nothing that is remembered here
    is older than what it is used for, in processes that live for days as well.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._settings = workspace.settings
        self._book = workspace.book
        self._store = workspace.store
        self._names = workspace.names
        self._stored = workspace.stored
        self._on_hub = HubModels(workspace)
        self.at_urls = UrlModels(workspace.settings)
        self.local = LocalModels(workspace.settings)
        self._opened: dict[tuple[ModelReference, bool], PlanInput] = {}
        self._opened_adapters: dict[tuple[ModelReference, bool], PlanInput] = {}
        self._fetched: dict[tuple[ModelReference, str | None, bool, bool], PlanInput] = {}
        self._fetched_adapters: dict[tuple[ModelReference, str | None, bool], PlanInput] = {}
        self._variants: dict[str, Artifact | None] = {}
        self._together: dict[str, Together] = {}

    def together(self, recipe: Recipe) -> Together:
        """What tells which files a recipe shares with the other points of its sweep, if it is one; one for all of them."""
        sweep = recipe.swept.sweep if recipe.swept is not None else ""
        if sweep not in self._together:
            self._together[sweep] = Together(self._book.beside(recipe))
        return self._together[sweep]

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
        key = (reference.lora, with_digests)
        if key not in self._opened_adapters:
            self._opened_adapters[key] = self._adapter_headers(*key)
        return replace(item, reference=reference, adapter=self._opened_adapters[key])

    def _headers(self, reference: ModelReference, with_digests: bool) -> PlanInput:
        if (reference, with_digests) not in self._opened:
            recipe = self._book.resolve(reference)
            # Those below come first: from one to the next, it would take a call inside a call for each recipe in a row.
            below = self._book.made_of(recipe, self._is_planned) if recipe and self._is_planned(recipe) else ()
            for one in (*(ModelReference(inner.name) for inner in below), reference):
                if (one, with_digests) not in self._opened:
                    self._opened[one, with_digests] = self._newly_opened(one, with_digests)
        return self._opened[reference, with_digests]

    def _newly_opened(self, reference: ModelReference, with_digests: bool) -> PlanInput:
        recipe = self._book.resolve(reference)
        if recipe is not None:
            artifact = self._variant(recipe) if recipe.materialize else None
            return self._of_artifact(reference, artifact) if artifact else self._of_plan(recipe, with_digests)
        kind = self._names.identify(reference).kind
        if kind == "local":
            directory = self._names.folder(reference)
            return self._known(reference, self.local.open(directory), with_digests)
        if kind == "url":
            return self.at_urls.open(reference).headers(with_digests=with_digests)
        mirrored = self._on_hub.mirror_of(reference)
        return self._of_artifact(reference, mirrored) if mirrored else self._on_hub.headers(reference)

    def _is_planned(self, recipe: Recipe) -> bool:
        """Whether a recipe stands for what it would be: it was never built, or is not stored."""
        return not recipe.materialize or self._variant(recipe) is None

    def _variant(self, recipe: Recipe) -> Artifact | None:
        if recipe.name not in self._variants:
            self._variants[recipe.name] = self._store.current(variant_line(recipe.name))
        return self._variants[recipe.name]

    def _adapter_headers(self, reference: ModelReference, with_digests: bool) -> PlanInput:
        if self._names.identify(reference).kind == "url":
            return self.at_urls.open(reference).headers(with_digests=with_digests)
        directory = self._adapter_path(reference)
        if directory is None:
            return self._on_hub.headers(reference)
        return self._known(reference, self.local.open_adapter(directory), with_digests)

    def _known(self, reference: ModelReference, checkpoint: Checkpoint, with_digests: bool) -> PlanInput:
        return self.local.known(reference, checkpoint) if with_digests else PlanInput(reference, checkpoint)

    def _adapter_path(self, reference: ModelReference) -> Path | None:
        """The folder of a local adapter, ``None`` if it is on the Hub."""
        identity = self._names.identify(reference)
        if identity.kind == "recipe":
            raise CheckpointError(f"{reference}: is a recipe, which makes a model; after the + stands an adapter")
        return self._names.folder(reference) if identity.kind == "local" else None

    def fetch(
        self,
        reference: ModelReference,
        *,
        commit: str | None = None,
        local: bool = True,
        with_digests: bool = True,
        work: Work = UNATTENDED,
    ) -> PlanInput:
        """A model, without an adapter, whose weights can be read.

        Args:
            reference: what to fetch.
            commit: Hub commit to take instead of the reference's revision, as an observation recorded it.
            local: whether the weights have to lie in a local directory; else what an object store holds stays there, and
                what is on the Hub is mirrored into it.
            with_digests: whether to digest every tensor, which reads the checkpoint once.
            work: told bytes downloaded; asked while downloading and digesting.

        Raises:
            CheckpointError: if a variant was not built yet or is not stored, or files are missing or damaged.
        """
        key = (reference, commit, local, with_digests)
        if key not in self._fetched:
            self._fetched[key] = self._newly_fetched(*key, work)
        return self._fetched[key]

    def _newly_fetched(
        self, reference: ModelReference, commit: str | None, local: bool, with_digests: bool, work: Work
    ) -> PlanInput:
        if reference.lora is not None:
            raise CheckpointError(
                f"{reference}: an adapter is applied when a recipe is built; name a recipe with `merge_method: passthrough` "
                "of this model instead"
            )
        recipe = self._book.resolve(reference)
        if recipe is not None and not recipe.materialize:
            raise CheckpointError(
                f"{reference.path}: this recipe is not stored (materialize: false), so there are no files to read; "
                f"write it to a folder with `merge-assets merge {reference.path} OUT`"
            )
        if recipe is not None:
            artifact = self._variant(recipe)
            if artifact is None:
                how = "build" if recipe.keep is None else "build --force"  # what `keep` let go counts as made
                raise CheckpointError(
                    f"{reference.path}: this recipe's variant is not in the store; "
                    f"run `merge-assets {how} {reference.path}`"
                )
            return self._of_artifact(reference, artifact, local=local)
        kind = self._names.identify(reference).kind
        if kind == "url":
            found = self.at_urls.open(reference).digested(work)
            return self._of_artifact(reference, found, local=local, elsewhere=True)
        if kind == "local":
            directory = self._names.folder(reference)
        elif self._store.in_bucket:
            mirrored = self._on_hub.mirrored(reference, commit, work)
            return self._of_artifact(reference, mirrored, local=local)
        else:
            directory = self._on_hub.downloaded(reference, commit, work)
        return self._in_folder(reference, self.local.open(directory), with_digests, work)

    def fetch_adapter(
        self,
        item: PlanInput,
        reference: ModelReference,
        *,
        commit: str | None = None,
        with_digests: bool = True,
        work: Work = UNATTENDED,
    ) -> PlanInput:
        """A model that was fetched, with the adapter that the reference names; see :meth:`fetch` for the rest."""
        if reference.lora is None:
            return item
        key = (reference.lora, commit, with_digests)
        if key not in self._fetched_adapters:
            self._fetched_adapters[key] = self._newly_fetched_adapter(*key, work)
        return replace(item, reference=reference, adapter=self._fetched_adapters[key])

    def _newly_fetched_adapter(
        self, reference: ModelReference, commit: str | None, with_digests: bool, work: Work
    ) -> PlanInput:
        if self._names.identify(reference).kind == "url":
            found = self.at_urls.open(reference).digested(work)
            directory = found.directory(self._settings.cache_dir / "artifacts", work=work)
        else:
            directory = self._adapter_path(reference) or self._on_hub.downloaded(reference, commit, work)
        return self._in_folder(reference, self.local.open_adapter(directory), with_digests, work)

    def _in_folder(
        self, reference: ModelReference, checkpoint: Checkpoint, with_digests: bool, work: Work
    ) -> PlanInput:
        return self.local.digested(reference, checkpoint, work) if with_digests else PlanInput(reference, checkpoint)

    def used(self, name: str, fingerprint: str) -> Input:
        """What to write down of a model or an adapter that was fetched.

        Args:
            name: as the recipe or the command calls it; where an adapter is applied, the model is meant.
            fingerprint: of its bytes.
        """
        reference = ModelReference.parse(name).model
        kind = self._names.identify(reference).kind
        known = self._on_hub.used.get(reference) or Input(kind=kind, name=name, fingerprint=fingerprint)
        return known.model_copy(update={"name": name, "fingerprint": fingerprint})

    def _of_artifact(
        self, reference: ModelReference, artifact: Artifact, *, local: bool = False, elsewhere: bool = False
    ) -> PlanInput:
        if artifact.in_bucket and not local:
            checkpoint = self._stored.open(artifact, elsewhere=elsewhere)
        elif artifact.path is not None:
            checkpoint = read_checkpoint(StoredSource(artifact))
        else:
            checkpoint = open_checkpoint(artifact.directory(self._settings.cache_dir / "artifacts"))
        files = {name: entry.digest for name, entry in artifact.manifest.files.items()}
        is_variant = self._book.resolve(reference) is not None
        return PlanInput(
            reference, checkpoint, artifact.version, tensor_digests(artifact), files, is_variant=is_variant
        )

    def _of_plan(self, recipe: Recipe, with_digests: bool) -> PlanInput:
        """The headers that a variant will have once it is built, or would have if it were."""
        with in_file(recipe.source.file):
            plan = build_plan(
                recipe,
                [self.headers(item, with_digests=with_digests) for item in recipe.references()],
                shard_size=int(self._settings.shard_size),
                figures=self.figures(recipe),
                together=self.together(recipe),
            )
        reference = ModelReference(recipe.name)
        if not recipe.materialize:
            return self.folded_input(reference, plan)
        digests = {tensor.name: f"key:{tensor.key}" for tensor in plan.tensors}
        return PlanInput(reference, planned_checkpoint(plan, self._stored.read), None, digests)

    def folded_input(self, reference: ModelReference, plan: Plan) -> PlanInput:
        """A recipe that is not stored as the input of another: its plan, and the checkpoint that it would be."""
        digests = {carried.file: carried.digest for carried in plan.carried if carried.digest is not None}
        digests |= {written.file: written.digest for written in plan.written}
        return PlanInput(reference, planned_checkpoint(plan, self._stored.read), file_digests=digests, folded=plan)

    # -- analyses ----------------------------------------------------------------------------------------------------

    def figures(self, recipe: Recipe, fingerprint: str | None = None) -> list[LayerFigure] | None:
        """Per-layer figures that a recipe's ``prune_layers`` asks for; ``None`` if it asks for none or they are missing.

        Args:
            recipe: the recipe.
            fingerprint: of the model; an analysis of other bytes counts as missing. ``None`` takes the latest.

        Raises:
            AnalysisError: if the stored analysis has no such tensor, or the text that a model is run on cannot be read.
        """
        template = recipe.prune_layers
        if template is None or not template.is_measured:
            return None
        if template.text is not None:
            return self._importance(template, fingerprint)
        artifact = current_analysis(self._store, self._names.identify(template.model), fingerprint)
        if artifact is None:
            return None
        from merge_assets.analysis.layers import TABLE, read_layers

        directory = artifact.directory(self._settings.cache_dir / "artifacts", checked=[TABLE])
        return [LayerFigure(**row) for row in read_layers(directory, template.tensor or "", template.by)]

    def _importance(self, template: PruneLayers, fingerprint: str | None) -> list[LayerFigure] | None:
        kind, sample = template.importance, template.text
        assert kind is not None and sample is not None
        identity, text = self._names.identify(template.model), text_digest(self._settings, sample)
        artifact = current_importance(self._store, identity, fingerprint, kind, sample, text)
        if artifact is None:
            return None
        from merge_assets.analysis.importance import TABLE, layer_rows, read_importance

        directory = artifact.directory(self._settings.cache_dir / "artifacts", checked=[TABLE])
        count = template.remove if isinstance(template.remove, int) else 1
        return [LayerFigure(**row) for row in layer_rows(read_importance(directory), template.by, count)]
