"""Plan and build variants, into a folder or into the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.joined import card_rows, scores_of_folder
from merge_assets.api.staging import publish, staging_folder
from merge_assets.checkpoint import fingerprint_files, fingerprint_of
from merge_assets.digests import digest_of
from merge_assets.errors import EngineError, RecipeError, in_file
from merge_assets.extras import require
from merge_assets.freshness import Basis
from merge_assets.identity import variant_line
from merge_assets.model_worker import Limits
from merge_assets.plan import Plan, PlanInput, build_plan, check_alone
from merge_assets.plan.model import PlannedModel
from merge_assets.recipe import Recipe
from merge_assets.recipe.book import not_stored
from merge_assets.records import BuildReport, Check, StoredBuildReport, VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact, BuildDraft, Origin, PlannedFile, PlannedPiece
from merge_assets.variant.agreement import check_agreement
from merge_assets.variant.card import CARD, with_scores
from merge_assets.variant.checks import check_variant, count_nonfinite
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace
from merge_assets.workspace.results import basis_key, made_from, variant_code

if TYPE_CHECKING:
    from merge_assets.store.building import Building


@dataclass(frozen=True)
class Built:
    """A variant in the store.

    Attributes:
        artifact: the committed version.
        reused: whether it was there already, so that nothing was computed.
        plan: what it was built from.
        checks: outcomes of the checks made when it was built, as the recipe judges them now.
        report: what the build did; of the original build if reused.
    """

    artifact: Artifact
    reused: bool
    plan: Plan
    checks: tuple[Check, ...]
    report: StoredBuildReport


def plan(workspace: Workspace, recipe: Recipe, *, shard_size: int | None = None) -> Plan:
    """Plan a recipe from headers alone. Digests of local models are in it where they are known from earlier.

    Raises:
        MergeAssetsError: for everything that is wrong with the recipe or its inputs.
    """
    return _of_headers(workspace, recipe, shard_size, with_digests=True)


def _of_headers(workspace: Workspace, recipe: Recipe, shard_size: int | None, *, with_digests: bool) -> Plan:
    check_alone(recipe)
    with in_file(recipe.source.file):
        workspace.names.check_models(recipe)  # before the Hub is asked for any
        models = Models(workspace)
        inputs = [models.headers(reference, with_digests=with_digests) for reference in recipe.references()]
    return _plan(workspace, models, recipe, inputs, shard_size)


def merge(
    workspace: Workspace,
    recipe: Recipe,
    out: Path | str,
    *,
    device: str | None = None,
    threads: int | None = None,
    shard_size: int | None = None,
    tile: int | None = None,
    overwrite: bool = False,
    work: Work = UNATTENDED,
) -> BuildReport:
    """Build a recipe's variant into a folder; also that of a recipe which is not stored.

    The folder appears, or replaces the earlier one, only when it is complete. Recipes that this one refers to are
    built into the store first if they are not there, save those that are not stored: they are folded in.

    Raises:
        EngineError: if ``out`` holds files and ``overwrite`` is False, or the build fails.
        MergeAssetsError: if the recipe does not fit its inputs.
    """
    from merge_assets.engine.execute import execute
    from merge_assets.variant.surroundings import write_surroundings

    target = Path(out)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise EngineError(f"{target}: is not a folder; choose another output folder")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise EngineError(
            f"{target}: holds files already; choose another output folder, or replace it with --overwrite"
        )
    # Everything that is wrong with the recipe, before anything is built or downloaded. What is written does not depend on
    # what happens to be known of the inputs.
    made = _of_headers(workspace, recipe, shard_size, with_digests=False)
    chosen = device or _device(workspace, recipe)
    if chosen.startswith("cuda") or any(t.declaration is not None and t.declaration.in_torch for t in made.tensors):
        require("torch")
    # Only an analysis of exactly these bytes may choose layers.
    measured = any(part.prune_layers is not None for part in (recipe, *workspace.book.folded(recipe)))
    inputs, models = workspace.book.inputs(recipe), Models(workspace)
    if measured or any(
        workspace.names.identify(r.model).kind != "local" or workspace.names.uses_hub(r) for r in inputs
    ):
        _build_parents(workspace, recipe, work.silent())
        models = Models(workspace)
        fetched = _fetched(workspace, models, recipe, None, work, with_digests=measured)
        made = _plan(workspace, models, recipe, fetched, shard_size, work)
    try:
        with staging_folder(target) as staging:
            report = execute(
                made,
                staging,
                device=chosen,
                threads=threads or workspace.settings.threads,
                tile=tile,
                memory=int(workspace.settings.memory),
                work=work,
                allow_nonfinite=recipe.allow_nonfinite,
                inputs=workspace.stored.inputs(models.local.digested_states),
                verify=workspace.settings.verify_inputs,
            )
            write_surroundings(made, recipe, staging, workspace.stored.read)
            _add_scores(workspace, recipe, staging, work)
            publish(staging, target)
    except OSError as error:
        raise EngineError(f"{error.filename or target}: {error.strerror}; choose another output folder") from error
    return report


def _add_scores(workspace: Workspace, recipe: Recipe, folder: Path, work: Work) -> None:
    """Write the scores of the version that lies in a folder into its card, if the store has any of exactly these bytes."""
    version, scores = scores_of_folder(workspace, recipe.name, folder, work.silent())
    if scores:
        card = folder / CARD
        text = with_scores(card.read_text(encoding="utf-8"), version, card_rows(scores))
        card.write_text(text, encoding="utf-8")


def build(
    workspace: Workspace,
    recipe: Recipe,
    *,
    commits: Mapping[ModelReference, str] | None = None,
    work: Work = UNATTENDED,
) -> Built:
    """Build a recipe's variant into the store, unless the store has it.

    Args:
        workspace: where to build.
        recipe: what to build.
        commits: Hub commits that observations recorded, to build from exactly these.
        work: told bytes; asked throughout. What was finished until a stop is kept for the next attempt.

    Raises:
        RecipeError: if the recipe is not stored (``materialize: false``).
        MergeAssetsError: if the recipe does not fit its inputs or the build fails.
    """
    if not recipe.materialize:
        raise RecipeError(not_stored(recipe.name, workspace.book.consumers(recipe.name)), file=recipe.source.file)
    started = datetime.now(UTC)
    if any(workspace.names.uses_hub(reference) for reference in workspace.book.inputs(recipe)):
        plan(workspace, recipe)  # from headers, before weights are downloaded
    models = Models(workspace)
    inputs = _fetched(workspace, models, recipe, commits, work)
    made = _plan(workspace, models, recipe, inputs, None, work)
    line = variant_line(recipe.name)
    found = workspace.store.reuse(line, made.key)
    artifact = found or _written(workspace, models, recipe, made, line, started, work)
    basis = Basis(_code(workspace, recipe), {m.reference: m.fingerprint or "" for m in _read(made)})
    if basis != made_from(artifact.manifest):  # of the first that came out as these bytes
        workspace.store.remember(line, basis_key(basis), artifact.version)
    return _built(artifact, made, recipe, reused=found is not None)


def _code(workspace: Workspace, recipe: Recipe) -> str:
    return variant_code(recipe, workspace.book.folded(recipe))


def _read(made: Plan) -> list[PlannedModel]:
    """The models and adapters whose files a plan reads."""
    return [model for model in made.models if model.folded is None]


def key_now(workspace: Workspace, recipe: Recipe, *, work: Work = UNATTENDED) -> str:
    """The key of the version that :func:`build` would make, which equals that of a version that was made in the same way.

    Raises:
        MergeAssetsError: as :func:`build`.
    """
    models = Models(workspace)
    return _plan(workspace, models, recipe, _fetched(workspace, models, recipe, None, work), None).key


def _written(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    made: Plan,
    line: str,
    started: datetime,
    work: Work,
) -> Artifact:
    from merge_assets.engine.execute import execute
    from merge_assets.variant.surroundings import write_surroundings

    store, stored = workspace.store, workspace.stored
    require("torch", "transformers")  # the checks, which come last, need both
    origins, fetched = _origins(workspace, made, line, work), stored.fetched
    verify = workspace.settings.verify_inputs
    with store.build(line, made.key, started, verify=verify != "off", work=work) as draft:
        draft.building.add(_files(made), origins)
        report = execute(
            made,
            draft.directory,
            device=_device(workspace, recipe),
            threads=workspace.settings.threads,
            # Half of it is for what is on its way from and to a bucket.
            memory=int(workspace.settings.memory) // (2 if store.in_bucket else 1),
            work=work,
            allow_nonfinite=recipe.allow_nonfinite,
            inputs=stored.inputs(models.local.digested_states),
            landing=draft.building,
            verify=verify,
        )
        origins = {name: origin for name, origin in origins.items() if name in draft.building.reused}
        write_surroundings(made, recipe, draft.directory, read_file=stored.read)
        known = stored.nonfinite(made)
        known |= {name: origin.nonfinite for name, origin in origins.items()}
        bad = count_nonfinite(made, report.nonfinite, known, work)
        outcomes = check_variant(
            draft.directory,
            made,
            bad,
            here=not store.in_bucket,
            agreement=_known_agreement(store.current(line), draft),
            limits=Limits.of(workspace.settings),
            work=work,
        )
        digests = {name: entry.digest for name, entry in draft.describe({}, work.silent()).items()}
        shards = [shard.file for shard in made.shards]
        return draft.commit(
            fingerprint_of({name: digests[name] for name in fingerprint_files(digests, shards)}),
            key=made.key,
            inputs=[models.used(m.reference, m.fingerprint or "") for m in _read(made)],
            details=VariantDetails(
                recipe=recipe.name,
                code=_code(workspace, recipe),
                method=made.method,
                layers=made.layer_count,
                parameters=made.parameter_count,
                nonfinite=bad,
                geometry=dict(report.geometry) | {n: o.geometry for n, o in origins.items() if o.geometry},
                checks=tuple(outcomes),
                report=_reported(report, made, origins, draft.building, stored.fetched - fetched),
            ),
            work=work.silent(),
        )


def _known_agreement(earlier: Artifact | None, draft: BuildDraft) -> Check | None:
    """What was found of the line's current version, if it has the same config and headers: transformers need not be asked
    again, which takes seconds."""
    if earlier is None:
        return None
    files = earlier.manifest.files
    before = {name: entry.pieces[0].digest for name, entry in files.items() if entry.pieces}
    heads = {name: digest_of(file.head) for name, file in draft.building.files.items()}
    config = sha256((draft.directory / "config.json").read_bytes()).hexdigest()
    if before != heads or "config.json" not in files or files["config.json"].sha256 != config:
        return None
    outcomes = earlier.manifest.described(VariantDetails).checks
    made = [one for one in outcomes if one.name == "config_agrees" and one.passed and one.metadata.get("tried", True)]
    return made[0] if made else None


def _files(made: Plan) -> list[PlannedFile]:
    """The shards of a plan as the store writes them."""
    pieces: list[list[PlannedPiece]] = [[] for _ in made.shards]
    for tensor in made.tensors:
        pieces[tensor.shard].append(PlannedPiece(tensor.name, tensor.begin, tensor.end, tensor.key))
    heads = [len(shard.header).to_bytes(8, "little") + shard.header.encode("ascii") for shard in made.shards]
    return [PlannedFile(s.file, head, tuple(own)) for s, head, own in zip(made.shards, heads, pieces, strict=True)]


def _origins(workspace: Workspace, made: Plan, line: str, work: Work) -> dict[str, Origin]:
    """Where the store has tensors of a plan already: those of equal keys, and those that are copied out of it."""
    by_key = workspace.store.origins({tensor.key for tensor in made.tensors}, line)
    found = {tensor.name: by_key[tensor.key] for tensor in made.tensors if tensor.key in by_key}
    for tensor in made.tensors:
        if tensor.is_copy and tensor.name not in found:
            origin = workspace.stored.origin(made, tensor.inputs[0])
            if origin is not None:
                found[tensor.name] = origin
    if not workspace.store.in_bucket:  # what is copied or linked is hashed where it comes to lie
        return found
    return workspace.store.sound(found, workspace.settings.verify, work)


def _reported(
    report: BuildReport, made: Plan, origins: Mapping[str, Origin], building: Building, fetched: int
) -> StoredBuildReport:
    names = {tensor.name for tensor in made.tensors}
    tally = building.tally
    return StoredBuildReport(
        **report.model_dump(exclude={"geometry"}),  # which is kept with that of the tensors that were reused
        tensors_reused=len(names & origins.keys()),
        tensors_by_server=tally.by_server,
        tensors_resumed=len(names & building.resumed),
        bytes_reused=tally.reused,
        bytes_linked=tally.linked,
        bytes_moved=tally.copied,
        bytes_resumed=tally.resumed,
        bytes_fetched=tally.fetched + fetched,
        bytes_sent=tally.sent,
    )


def _built(artifact: Artifact, made: Plan, recipe: Recipe, *, reused: bool) -> Built:
    details = artifact.manifest.described(VariantDetails)
    return Built(artifact, reused, made, tuple(_judged(check, recipe) for check in details.checks), details.report)


def _judged(check: Check, recipe: Recipe) -> Check:
    """What a check found, accepted if the recipe allows it: that may change without a byte changing."""
    if check.name != "finite" or check.passed or not recipe.allow_nonfinite:
        return check
    accepted = f"{check.description}, which allow_nonfinite accepts"
    return check.model_copy(update={"passed": True, "description": accepted})


def _build_parents(workspace: Workspace, recipe: Recipe, work: Work) -> None:
    """Bring the variants that a recipe is made of, and those that they are made of, into the store."""
    for parent in workspace.book.made_of(recipe):
        if parent.materialize:
            build(workspace, parent, work=work)


def _fetched(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    commits: Mapping[ModelReference, str] | None,
    work: Work,
    *,
    with_digests: bool = True,
) -> list[PlanInput]:
    """The inputs of a recipe, of which those in an object store stay there."""
    recorded = commits or {}
    folded: dict[str, PlanInput] = {}

    def inputs(made: Recipe) -> list[PlanInput]:
        with in_file(made.source.file):
            return [fetched(reference) for reference in made.references()]

    def fetched(reference: ModelReference) -> PlanInput:
        item = model(reference.model)
        if reference.lora is None:
            return item
        return models.fetch_adapter(
            item, reference, commit=recorded.get(reference.lora), with_digests=with_digests, work=work
        )

    def model(reference: ModelReference) -> PlanInput:
        inner = workspace.book.resolve_folded(reference)
        if inner is not None:
            return folded[inner.name]
        return models.fetch(
            reference, commit=recorded.get(reference), local=False, with_digests=with_digests, work=work
        )

    for inner in workspace.book.folded(recipe):
        planned = _plan(workspace, models, inner, inputs(inner), None, work)
        folded[inner.name] = models.folded_input(ModelReference(inner.name), planned)
    return inputs(recipe)


def _plan(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    inputs: list[PlanInput],
    shard_size: int | None,
    work: Work = UNATTENDED,
) -> Plan:
    fingerprint = None
    if recipe.prune_layers is not None:
        fingerprint = next(i.fingerprint for i in inputs if i.reference == recipe.prune_layers.model)
    size = shard_size or int(workspace.settings.shard_size)
    with in_file(recipe.source.file):
        made = build_plan(recipe, inputs, shard_size=size, figures=models.figures(recipe, fingerprint))
        check_agreement(made, inputs, str(recipe.source.file), limits=Limits.of(workspace.settings), work=work)
    return made


def _device(workspace: Workspace, recipe: Recipe) -> str:
    return recipe.device if recipe.device != "auto" else workspace.settings.device
