"""Evaluate models on suites, into a folder of task results or into the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.joined import card_rows_of, scores_of
from merge_assets.api.preflight import data_hub, endpoint_of, index_of, refused
from merge_assets.extras import require
from merge_assets.identity import scores_line, variant_line
from merge_assets.model_worker import Limits
from merge_assets.records import ScoresDetails
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact, Turn
from merge_assets.variant.card import CARD, with_scores
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace
from merge_assets.workspace.guard import look_through
from merge_assets.workspace.results import SCORES_FILE, KnownScores, scores_key
from merge_assets.workspace.samples import StoredSamples
from merge_assets.workspace.trust import trusts, trusts_folder

if TYPE_CHECKING:
    from merge_assets.evaluation.results import StoredResult
    from merge_assets.evaluation.runner import Evaluation, Other
    from merge_assets.evaluation.samples import SuiteSamples
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.session import Sitting
    from merge_assets.evaluation.suite import Suite
    from merge_assets.evaluation.suite_task import Documents


@dataclass(frozen=True)
class Scored:
    """One model's scores on one suite, in the store.

    Attributes:
        artifact: the committed version.
        reused: whether it was there already, or another process made it meanwhile.
        scores: the scores.
        evaluated: tasks that were run now.
        changes: what measuring again changed, a sentence each; ``None`` if nothing was there before, or it was not asked for.
    """

    artifact: Artifact
    reused: bool
    scores: Scores
    evaluated: tuple[str, ...]
    changes: tuple[str, ...] | None = None


def evaluate(
    workspace: Workspace,
    model_dir: Path | str,
    suite: str,
    *,
    out: Path | str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    refresh: bool = False,
    documents: Documents = "all",
    model: ModelReference | None = None,
    fingerprint: str | None = None,
    sitting: Sitting | None = None,
    work: Work = UNATTENDED,
) -> Evaluation:
    """Evaluate a model folder on a suite, without the store; the result has the scores.

    Finished tasks are kept in the cache, so that an interrupted evaluation continues with the next task.

    Args:
        workspace: where suites are found.
        model_dir: folder that ``from_pretrained`` opens.
        suite: name of the suite.
        out: folder for ``scores.json``, ``scores.md``, task results and samples.
        limit: documents per task; for a quick look.
        batch_size: sequences per forward pass, instead of the suite's.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        refresh: evaluate every task again, and keep what comes out instead of what is in the cache.
        documents: of each task: all, those that a search may see, or those that the suite's ``confirm`` keeps from it.
        model: what the folder is of; a variant is asked as its recipe has it.
        fingerprint: of the folder, where nobody writes into it; else it is digested, and looked at again afterwards.
        sitting: where several models are evaluated in one session; see :func:`~merge_assets.evaluation.runner.evaluate_suite`.
        work: told thousandths of a task; asked throughout.
    """
    from merge_assets.evaluation.results import TaskResults
    from merge_assets.evaluation.runner import evaluate_suite

    wanted = _checked(workspace, suite, model, work)
    evaluation = evaluate_suite(
        Path(model_dir),
        wanted,
        results=TaskResults(workspace.cache / "evaluations"),
        fingerprint=fingerprint,
        device=device or workspace.settings.device,
        limit=limit,
        batch_size=batch_size,
        refresh=refresh,
        trust_remote_code=trusts_folder(workspace, wanted, Path(model_dir)),
        hub=data_hub(workspace),
        endpoint=endpoint_of(workspace),
        fetched=workspace.fetched,
        limits=Limits.of(workspace.settings),
        index=index_of(workspace, wanted, work),
        documents=documents,
        others=_others(workspace, Models(workspace), wanted, work),
        sitting=sitting,
        work=work,
    )
    if out is not None:
        evaluation.write(Path(out))
    return evaluation


def score(
    workspace: Workspace,
    reference: ModelReference,
    suite: str,
    *,
    commit: str | None = None,
    refresh: bool = False,
    work: Work = UNATTENDED,
) -> Scored:
    """Evaluate a model on a suite into the store, unless the store has these scores of these bytes.

    Tasks that fail are part of the scores, with why; they are tried again by the next call. Where all fail, such scores are
    kept, too, and it is an error.

    Args:
        workspace: where to keep the scores.
        reference: the model; a recipe's name stands for its variant in the store.
        suite: name of the suite.
        commit: Hub commit that an observation recorded.
        refresh: measure again, whatever the store and the cache have. What comes out becomes the current version; it is the
            same version if nothing is different.
        work: told thousandths of a task; asked throughout. Finished tasks are kept when it is stopped.
    """
    from merge_assets.evaluation.circumstances import changes
    from merge_assets.evaluation.results import TaskResults
    from merge_assets.evaluation.runner import evaluate_suite
    from merge_assets.evaluation.samples import samples_of_results
    from merge_assets.evaluation.scores import Scores

    require("lm_eval")
    wanted = _checked(workspace, suite, reference, work)
    started = datetime.now(UTC)
    identity = workspace.names.identify(reference)
    models = Models(workspace)
    item = models.fetch(reference, commit=commit, work=work.silent())
    assert item.fingerprint is not None
    line = scores_line(identity, suite)
    trust = trusts(workspace, wanted, reference, item.fingerprint)
    others = _others(workspace, models, wanted, work)
    compared = {name: other.fingerprint for name, other in others.items()}
    key = scores_key(wanted, item.fingerprint, trust_remote_code=trust, others=compared)

    def stored() -> Scored | None:
        found = workspace.store.reuse(line, key)
        if found is None:
            return None
        scores = Scores.from_json(found.read_bytes(SCORES_FILE))
        # What failed is tried again, but for what another process has tried while this one waited for it.
        return Scored(found, True, scores, ()) if not scores.failures or found.manifest.created > started else None

    before = stored() if refresh else None
    inputs = [models.used(str(reference), item.fingerprint)]
    inputs += [models.used(name, found) for name, found in compared.items() if name != str(reference)]
    variant = workspace.store.get(variant_line(reference.path), item.fingerprint) if identity.kind == "recipe" else None

    def make(turn: Turn) -> Scored:
        def keep(scores: Scores, write: Callable[[Path], None], results: Sequence[StoredResult] = ()) -> Artifact:
            known = KnownScores(workspace)
            stored_samples = StoredSamples(known, workspace.cache)

            def samples(of: Scores) -> SuiteSamples:
                return samples_of_results(results) if of is scores else stored_samples(of)

            with workspace.store.draft(line, started, turn=turn) as draft:
                write(draft.directory)
                if variant is not None and scores.tasks:  # it is as it is for ever, its card too
                    others = [one for one in scores_of(workspace, known, variant) if one.suite != suite]
                    rows = card_rows_of(workspace, variant, [*others, scores], known, samples)
                    card = with_scores(variant.read_bytes(CARD).decode(), variant.version, rows)
                    (draft.directory / CARD).write_text(card, encoding="utf-8")
                return draft.commit(
                    scores.digest,
                    key=key,
                    inputs=inputs,
                    details=ScoresDetails(model=identity.title, suite=suite, headline=scores.headline),
                )

        def keep_failed(scores: Scores) -> None:
            keep(scores, scores.write)

        evaluation = evaluate_suite(
            Path(item.checkpoint.location),
            wanted,
            results=TaskResults(workspace.cache / "evaluations"),
            title=identity.title,
            fingerprint=item.fingerprint,
            guard=partial(
                look_through, item, workspace.settings.verify_inputs, models.local.digested_states, turn.work.silent()
            ),
            device=workspace.settings.device,
            refresh=refresh,
            trust_remote_code=trust,
            hub=data_hub(workspace),
            endpoint=endpoint_of(workspace),
            fetched=workspace.fetched,
            limits=Limits.of(workspace.settings),
            index=index_of(workspace, wanted, turn.work),
            failed=keep_failed,
            others=others,
            work=turn.work,
        )
        artifact = keep(evaluation.scores, evaluation.write, evaluation.results)
        changed = None if before is None else changes(before.scores, evaluation.scores)
        return Scored(artifact, False, evaluation.scores, evaluation.evaluated, changed)

    return workspace.store.once(
        line,
        key,
        lambda: None if refresh else stored(),
        make,
        task=f"evaluating {identity.title} on {suite}",
        work=work,
    )[0]


def _checked(workspace: Workspace, name: str, model: ModelReference | None, work: Work) -> Suite:
    """The suite as a model is asked it, of which nothing is wrong as far as files tell."""
    suite = workspace.suite_of(name, None if model is None else workspace.book.resolve(model))
    for error in refused(workspace, [name], of_suite=True, work=work).values():
        raise error
    return suite


def _others(workspace: Workspace, models: Models, suite: Suite, work: Work) -> dict[str, Other]:
    """The models that a suite compares with, fetched."""
    from merge_assets.evaluation.runner import Other

    verify, found = workspace.settings.verify_inputs, {}
    for name in suite.others:
        item = models.fetch(ModelReference.parse(name), work=work.silent())
        assert item.fingerprint is not None
        guard = partial(look_through, item, verify, models.local.digested_states, work.silent())
        found[name] = Other(item.fingerprint, Path(item.checkpoint.location), guard)
    return found
