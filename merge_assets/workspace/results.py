"""What the store has of a model, as far as it is not out of date: its analysis and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from merge_assets.analysis.layers import ANALYSIS_VERSION
from merge_assets.freshness import Basis, stale_reason
from merge_assets.identity import ModelIdentity, analysis_line, scores_line
from merge_assets.plan.model import digest_of
from merge_assets.records import AnalysisDetails
from merge_assets.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite import Suite

SCORES_FILE = "scores.json"


def scores_key(suite: Suite, fingerprint: str, *, lm_eval: str | None = None) -> str:
    """Key of a model's scores on a suite: of what the suite says, and of the result of every task.

    Args:
        suite: the suite.
        fingerprint: of the model.
        lm_eval: version of lm-eval; default: the one that is installed.
    """
    from merge_assets.evaluation.runner import result_keys

    keys = result_keys(suite, fingerprint, lm_eval=lm_eval)
    return digest_of({"suite": suite.digest, "results": [key.digest for key in keys]})


@cache
def lm_eval_version() -> str | None:
    """The version of lm-eval that evaluations here would use; ``None`` where it is not installed."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return None


def analysis_key(fingerprint: str | None, modules: Sequence[str] | None) -> str:
    """Key of an analysis.

    Args:
        fingerprint: of the model.
        modules: parts of tensor names, sorted; ``None`` is every matrix of the layers.
    """
    return digest_of({"fingerprint": fingerprint, "modules": modules, "version": ANALYSIS_VERSION})


def current_analysis(store: ArtifactStore, model: ModelIdentity, fingerprint: str | None) -> Artifact | None:
    """The latest analysis of a model; ``None`` if there is none or it is out of date.

    Args:
        store: where it would be.
        model: the model.
        fingerprint: of the bytes that it has to be of; ``None`` takes what there is.
    """
    artifact = store.current(analysis_line(model))
    if artifact is None:
        return None
    details = artifact.manifest.described(AnalysisDetails)
    was = Basis(artifact.manifest.key, {model.title: details.fingerprint})
    now = Basis(analysis_key(details.fingerprint, details.modules), {model.title: fingerprint})
    return artifact if stale_reason(was, now) is None else None


def current_scores(store: ArtifactStore, model: ModelIdentity, suite: Suite, fingerprint: str | None) -> Scores | None:
    """The latest scores of a model on a suite; ``None`` if there are none or they are out of date.

    Args:
        store: where they would be.
        model: the model.
        suite: the suite as it is now.
        fingerprint: of the bytes that they have to be of; ``None`` takes what there is.
    """
    from merge_assets.evaluation.scores import Scores

    artifact = store.current(scores_line(model, suite.name))
    if artifact is None:
        return None
    scores = Scores.from_json(artifact.read_bytes(SCORES_FILE))
    # Where nothing can be evaluated, what was evaluated elsewhere is not out of date for that.
    now = scores_key(suite, scores.fingerprint, lm_eval=lm_eval_version() or scores.versions.get("lm_eval", "none"))
    was = Basis(artifact.manifest.key, {model.title: scores.fingerprint})
    return scores if stale_reason(was, Basis(now, {model.title: fingerprint})) is None else None
