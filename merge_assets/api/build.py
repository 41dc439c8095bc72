"""Build variants into the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from merge_assets.api.again import require_equal
from merge_assets.api.plan import device_of, fetched_inputs, plan, planned
from merge_assets.checkpoint import fingerprint_files, fingerprint_of
from merge_assets.digests import digest_of
from merge_assets.errors import RecipeError
from merge_assets.extras import require
from merge_assets.freshness import Basis
from merge_assets.identity import variant_line
from merge_assets.model_worker import Limits
from merge_assets.plan import Plan
from merge_assets.plan.code import code_models, trusted_in
from merge_assets.plan.model import PlannedModel
from merge_assets.recipe import Recipe
from merge_assets.recipe.book import not_stored
from merge_assets.records import BuildReport, Check, StoredBuildReport, VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact, BuildDraft, Origin, PlannedFile, PlannedPiece, Turn
from merge_assets.store.reach import in_reach
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
        reused: whether it was there already, or another process made it meanwhile, so that nothing was computed.
        confirmed: whether it was there already, and computing it again gave the same bytes.
        plan: what it was built from.
        checks: outcomes of the checks made when it was built, as the recipe judges them now.
        report: what this build did, of a version that was there already as well; ``None`` if reused.
    """

    artifact: Artifact
    reused: bool
    plan: Plan
    checks: tuple[Check, ...]
    report: StoredBuildReport | None
    confirmed: bool = False


def build(
    workspace: Workspace,
    recipe: Recipe,
    *,
    commits: Mapping[ModelReference, str] | None = None,
    force: bool = False,
    work: Work = UNATTENDED,
) -> Built:
    """Build a recipe's variant into the store, unless the store has it.

    Args:
        workspace: where to build.
        recipe: what to build.
        commits: Hub commits that observations recorded, to build from exactly these.
        force: compute every tensor, also where the store has it. A version that is there is compared with what comes out and
            stays as it is.
        work: told bytes; asked throughout. What was finished until a stop is kept for the next attempt.

    Raises:
        RecipeError: if the recipe is not stored (``materialize: false``).
        NotReproducedError, DamageError: if the version that is there is not what comes out.
        MergeAssetsError: if the recipe does not fit its inputs or the build fails.
    """
    if not recipe.materialize:
        raise RecipeError(not_stored(recipe.name, workspace.book.consumers(recipe.name)), file=recipe.source.file)
    started = datetime.now(UTC)
    recipe = workspace.listed(recipe)
    if any(workspace.names.uses_hub(reference) for reference in workspace.book.inputs(recipe)):
        plan(workspace, recipe)  # from headers, before weights are downloaded
    models = Models(workspace)
    inputs = fetched_inputs(workspace, models, recipe, commits, work)
    made = planned(workspace, models, recipe, inputs, None, work)
    line = variant_line(recipe.name)
    (artifact, report), ours = workspace.store.once(
        line,
        made.key,
        lambda: _found(workspace, line, made.key),
        lambda turn: _written(workspace, models, recipe, made, line, started, turn, force=force),
        task=f"building {line}",
        work=work,
    )
    if force and not ours:
        with workspace.store.trial(line, work=work.silent()) as draft:
            did = compute(workspace, models, recipe, made, draft, {}, work)
            report = reported(did, made, {}, draft.building, 0)
            computed = draft.describe({}, work.silent())
        require_equal(workspace.store, artifact, computed, [shard.file for shard in made.shards], work)
    basis = Basis(_code(workspace, recipe), {m.reference: m.fingerprint or "" for m in _read(made)})
    if basis != made_from(artifact.manifest):  # of the first that came out as these bytes
        workspace.store.remember(line, basis_key(basis), artifact.version)
    checks = tuple(_judged(check, recipe) for check in artifact.manifest.described(VariantDetails).checks)
    return Built(artifact, not ours and not force, made, checks, report, confirmed=not ours and force)


def _found(workspace: Workspace, line: str, key: str) -> tuple[Artifact, None] | None:
    artifact = workspace.store.reuse(line, key)
    return None if artifact is None else (artifact, None)


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
    return planned(workspace, models, recipe, fetched_inputs(workspace, models, recipe, None, work), None).key


def _written(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    made: Plan,
    line: str,
    started: datetime,
    turn: Turn,
    *,
    force: bool,
) -> tuple[Artifact, StoredBuildReport]:
    store, stored, work = workspace.store, workspace.stored, turn.work
    require("torch", "transformers")  # the checks, which come last, need both
    origins = {} if force else _origins(workspace, made, line, work)
    fetched = stored.fetched
    verify = workspace.settings.verify_inputs != "off"
    with store.build(line, made.key, started, verify=verify, turn=turn, work=work) as draft:
        report = compute(workspace, models, recipe, made, draft, origins, work)
        draft.building.beside = {} if force else stored.beside(made, store.place)
        origins = {name: origin for name, origin in origins.items() if name in draft.building.reused}
        known = stored.nonfinite(made)
        known |= {name: origin.nonfinite for name, origin in origins.items()}
        bad = count_nonfinite(made, report.nonfinite, known, work)
        outcomes = check_variant(
            draft.directory,
            made,
            bad,
            here=not store.in_bucket,
            agreement=_known_agreement(store.current(line), draft),
            trusted=trusted_in(workspace.book, recipe),
            limits=Limits.of(workspace.settings),
            work=work,
        )
        did = reported(report, made, origins, draft.building, stored.fetched - fetched)
        artifact = draft.commit(
            written_fingerprint(made, draft, work),
            key=made.key,
            inputs=[models.used(m.reference, m.fingerprint or "") for m in _read(made)],
            details=VariantDetails(
                recipe=recipe.name,
                code=_code(workspace, recipe),
                code_models=code_models(made),
                method=made.method,
                methods=made.methods,
                layers=made.layer_count,
                parameters=made.parameter_count,
                nonfinite=bad,
                geometry=dict(report.geometry) | {n: o.geometry for n, o in origins.items() if o.geometry},
                checks=tuple(outcomes),
                report=did,
            ),
            work=work.silent(),
        )
        return artifact, did


def written_fingerprint(made: Plan, draft: BuildDraft, work: Work) -> str:
    """The fingerprint of the variant whose files lie in a draft."""
    digests = {name: entry.digest for name, entry in draft.describe({}, work.silent()).items()}
    shards = [shard.file for shard in made.shards]
    return fingerprint_of({name: digests[name] for name in fingerprint_files(digests, shards)})


def compute(
    workspace: Workspace,
    models: Models,
    recipe: Recipe,
    made: Plan,
    draft: BuildDraft,
    origins: Mapping[str, Origin],
    work: Work,
) -> BuildReport:
    """Write the files of a variant into a draft."""
    from merge_assets.engine.execute import execute
    from merge_assets.variant.surroundings import write_surroundings

    draft.building.add(shard_files(made), origins)
    report = execute(
        made,
        draft.directory,
        device=device_of(workspace, recipe),
        threads=workspace.settings.threads,
        # Half of it is for what is on its way from and to a bucket.
        memory=int(workspace.settings.memory) // (2 if workspace.store.in_bucket else 1),
        work=work,
        allow_nonfinite=recipe.allow_nonfinite,
        inputs=workspace.stored.inputs(models.local.digested_states),
        landing=draft.building,
        verify=workspace.settings.verify_inputs,
    )
    write_surroundings(made, recipe, draft.directory, workspace.stored.read, trusted=trusted_in(workspace.book, recipe))
    return report


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


def shard_files(made: Plan) -> list[PlannedFile]:
    """The shards of a plan as the store writes them."""
    pieces: list[list[PlannedPiece]] = [[] for _ in made.shards]
    for tensor in made.tensors:
        pieces[tensor.shard].append(PlannedPiece(tensor.name, tensor.begin, tensor.end, tensor.key))
    heads = [len(shard.header).to_bytes(8, "little") + shard.header.encode("ascii") for shard in made.shards]
    return [PlannedFile(s.file, head, tuple(own)) for s, head, own in zip(made.shards, heads, pieces, strict=True)]


def _origins(workspace: Workspace, made: Plan, line: str, work: Work) -> dict[str, Origin]:
    """Where the store has tensors of a plan already: those of equal keys, and those that are copied out of it, or out of models
    that its server reaches."""
    store = workspace.store
    by_key = store.origins({tensor.key for tensor in made.tensors}, line)
    found = {tensor.name: by_key[tensor.key] for tensor in made.tensors if tensor.key in by_key}
    ours, others = workspace.stored.origins(made, [tensor for tensor in made.tensors if tensor.name not in found])
    if not store.in_bucket:  # what is copied or linked is hashed where it comes to lie
        return found | ours
    return store.sound(found | ours | in_reach(store.place, line, others, work), workspace.settings.verify, work)


def reported(
    report: BuildReport, made: Plan, origins: Mapping[str, Origin], building: Building, fetched: int
) -> StoredBuildReport:
    """What an execution did, with what was taken from elsewhere.

    Args:
        report: of the execution.
        made: the plan.
        origins: by tensor, of those that were taken from other versions.
        building: which it was written into.
        fetched: bytes read from the object store.
    """
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


def _judged(check: Check, recipe: Recipe) -> Check:
    """What a check found, accepted if the recipe allows it: that may change without a byte changing."""
    if check.name != "finite" or check.passed or not recipe.allow_nonfinite:
        return check
    accepted = f"{check.description}, which allow_nonfinite accepts"
    return check.model_copy(update={"passed": True, "description": accepted})
