"""What the store has of a model: its analysis, as far as it is not out of date, and its scores, by what they are of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from merge_assets.analysis.importance import IMPORTANCE_VERSION
from merge_assets.analysis.layers import ANALYSIS_VERSION
from merge_assets.errors import RecipeError
from merge_assets.freshness import Basis, stale_reason
from merge_assets.identity import ModelIdentity, analysis_line, importance_line, scores_line
from merge_assets.methods import find_method
from merge_assets.plan.model import NUMERICS_VERSION, digest_of
from merge_assets.recipe import ImportanceKind, Recipe, TextSample
from merge_assets.records import AnalysisDetails, ImportanceDetails, VariantDetails
from merge_assets.store import Artifact, ArtifactStore
from merge_assets.store.manifest import Manifest
from merge_assets.workspace.trust import trusts

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores
    from merge_assets.evaluation.suite import Suite
    from merge_assets.workspace.workspace import Workspace

SCORES_FILE = "scores.json"

_CARRIES = "passthrough"
"""The method of parts of a model that a recipe does not name, whatever its own is."""


def scores_key(
    suite: Suite,
    fingerprint: str,
    *,
    lm_eval: str | None = None,
    trust_remote_code: bool = False,
    others: Mapping[str, str] | None = None,
) -> str:
    """Key of a model's scores on a suite: of what the suite says, and of the result of every task.

    Args:
        suite: the suite.
        fingerprint: of the model.
        lm_eval: version of lm-eval; default: the one that is installed.
        trust_remote_code: whether the model's own code may be run.
        others: fingerprints of the models that the suite compares with, by how it names them.
    """
    from merge_assets.evaluation.result_keys import result_keys

    keys = result_keys(suite, fingerprint, lm_eval=lm_eval, trust_remote_code=trust_remote_code, others=others)
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


def importance_key(fingerprint: str | None, kind: ImportanceKind, sample: TextSample, text: str) -> str:
    """Key of a measurement of layer importance; the path of the text is not in it.

    Args:
        fingerprint: of the model.
        kind: what is measured.
        sample: settings of the text.
        text: digest of the text.
    """
    settings = sample.model_dump(exclude={"file"})
    return digest_of(
        {"fingerprint": fingerprint, "kind": kind, "settings": settings, "text": text, "version": IMPORTANCE_VERSION}
    )


def current_importance(
    store: ArtifactStore,
    model: ModelIdentity,
    fingerprint: str | None,
    kind: ImportanceKind,
    sample: TextSample,
    text: str,
) -> Artifact | None:
    """The latest measurement of a model's layers on a text; ``None`` if there is none or it is out of date.

    Args:
        store: where it would be.
        model: the model.
        fingerprint: of the bytes that it has to be of; ``None`` takes what there is.
        kind: what is measured.
        sample: settings of the text.
        text: digest of the text.
    """
    artifact = store.current(importance_line(model, kind, sample.label))
    if artifact is None:
        return None
    details = artifact.manifest.described(ImportanceDetails)
    was = Basis(artifact.manifest.key, {model.title: details.fingerprint})
    now = Basis(importance_key(details.fingerprint, kind, sample, text), {model.title: fingerprint})
    return artifact if stale_reason(was, now) is None else None


def variant_code(recipe: Recipe, folded: Sequence[Recipe]) -> str:
    """Key of what says how a variant is made: recipes, code of methods, numerics. Equal ones with equal inputs make the same.

    Args:
        recipe: its recipe.
        folded: the recipes that are folded into it.
    """
    methods = {name: find_method(name).version for name in (_CARRIES, *(one.merge_method for one in (recipe, *folded)))}
    digest = digest_of([recipe.digest, {inner.name: inner.digest for inner in folded}, methods])
    return f"{digest[:16]}-numerics-{NUMERICS_VERSION}"


def made_from(manifest: Manifest) -> Basis:
    """What a variant was made from."""
    code = manifest.described(VariantDetails).code
    return Basis(code, manifest.fingerprints)


def basis_key(basis: Basis) -> str:
    """Key under which the store keeps what else came out as a version that it had: bytes that are made from others, too."""
    return digest_of({"code": basis.code, "inputs": dict(basis.inputs)})


class KnownScores:
    """The scores of a store as one verb finds them, by the bytes that they are of; each line is read once.

    Scores of another text of the suite count as none: their numbers are of something else. So do those that a model's own code
    made or did not make, where a recipe or the suite says otherwise by now.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self._current: dict[str, Artifact | None] = {}
        self._versions: dict[str, list[Artifact]] = {}
        self._read: dict[tuple[str, str], Scores] = {}
        self._found: dict[tuple[str, str], Artifact] = {}

    def of(self, model: ModelIdentity, suite: Suite, fingerprint: str) -> Scores | None:
        """The latest scores of exactly these bytes, also where those of others were made since; ``None`` without any."""
        line = scores_line(model, suite.name)
        return next(
            (
                scores
                for artifact in self._latest_first(line)
                if fingerprint in artifact.manifest.fingerprints.values()
                and (scores := self._scores(artifact)).fingerprint == fingerprint
                and self._is_of(artifact, scores, suite, model)
            ),
            None,
        )

    def latest(self, model: ModelIdentity, suite: Suite) -> Iterator[tuple[datetime, Scores]]:
        """All scores of a model on a suite with when they were made, whatever bytes they are of; the latest first."""
        for artifact in self._latest_first(scores_line(model, suite.name)):
            scores = self._scores(artifact)
            if self._is_of(artifact, scores, suite, model):
                yield artifact.manifest.created, scores

    def complete(self, model: ModelIdentity, suites: Sequence[str], fingerprint: str) -> bool:
        """Whether there is a value of every task of these suites, of which there is one, for exactly these bytes."""
        found = [
            self.of(model, self._workspace.suites[name], fingerprint)
            for name in suites
            if name in self._workspace.suites
        ]
        return bool(suites) and len(found) == len(suites) and all(one is not None and not one.failures for one in found)

    def artifact(self, scores: Scores) -> Artifact | None:
        """The version that scores were found in; ``None`` if they were not found here."""
        return next((self._found[name] for name, read in self._read.items() if read is scores), None)

    def _latest_first(self, line: str) -> Iterator[Artifact]:
        """The versions of a line: the current one, for which they need not be listed, then from the newest on."""
        if line not in self._current:
            self._current[line] = self._store.current(line)
        current = self._current[line]
        if current is None:
            return
        yield current
        if line not in self._versions:
            self._versions[line] = self._store.versions(line)
        yield from (one for one in reversed(self._versions[line]) if one.version != current.version)

    def _scores(self, artifact: Artifact) -> Scores:
        from merge_assets.evaluation.scores import Scores

        name = (artifact.line, artifact.version)
        if name not in self._read:
            self._read[name], self._found[name] = Scores.from_json(artifact.read_bytes(SCORES_FILE)), artifact
        return self._read[name]

    def _is_of(self, artifact: Artifact, scores: Scores, suite: Suite, model: ModelIdentity) -> bool:
        """Whether the suite, as the model is asked it now, measures the same."""
        try:
            suite = self._workspace.suite_of(suite.name, self._workspace.book.resolve(model.reference))
        except RecipeError:  # it is said where it would be evaluated
            return False
        # Where nothing can be evaluated, what was evaluated elsewhere is not out of date for that.
        lm_eval = lm_eval_version() or scores.versions.get("lm_eval", "none")
        trust = trusts(self._workspace, suite, model.reference, scores.fingerprint)
        # Scores are of the bytes that were compared with, whatever those models are now.
        others = {name: artifact.manifest.fingerprints.get(name, "") for name in suite.others}
        now = scores_key(suite, scores.fingerprint, lm_eval=lm_eval, trust_remote_code=trust, others=others)
        return stale_reason(Basis(artifact.manifest.key, {}), Basis(now, {})) is None
