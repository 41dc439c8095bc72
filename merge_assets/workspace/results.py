"""What the store has of a model, as far as it is not out of date: its analysis and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_assets.freshness import Basis, stale_reason
from merge_assets.identity import ModelIdentity, analysis_line, scores_line
from merge_assets.plan.model import digest_of
from merge_assets.records import AnalysisDetails
from merge_assets.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite import Suite

ANALYSIS_VERSION = "1"
"""Changes whenever an analysis of the same bytes would have other figures."""

SCORES_FILE = "scores.json"


def analysis_key(fingerprint: str | None, modules: Sequence[str] | None) -> str:
    """Key of an analysis, which is its version, too.

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
    was = Basis(artifact.version, {model.title: details.fingerprint})
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
    was = Basis(scores.suite_digest, {model.title: scores.fingerprint})
    now = Basis(suite.digest, {model.title: fingerprint})
    return scores if stale_reason(was, now) is None else None
