"""What differs between two versions of the store: how they were made, their bytes, their scores."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from merge_assets.api.housekeeping import inventory
from merge_assets.api.lines import choose_one
from merge_assets.errors import StoreError
from merge_assets.records import Input
from merge_assets.store import Artifact, FileEntry
from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.workspace import Workspace
from merge_assets.workspace.results import SCORES_FILE, KnownScores
from merge_assets.workspace.samples import StoredSamples

if TYPE_CHECKING:
    from merge_assets.evaluation.scores import Scores

RECIPE_FILES = ("recipe.yaml", "mergekit_config.yml")
"""What the user wrote, and what it came to with every parameter."""

_SCORES = "scores/"
_V = TypeVar("_V")


@dataclass(frozen=True)
class Compared:
    """Names that only one of two versions has, those that differ, and how many are the same.

    Attributes:
        same: how many.
        changed: in both, with other bytes.
        only_a: missing in the second.
        only_b: missing in the first.
    """

    same: int
    changed: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class ScoreChange:
    """One task's value of both versions; ``None`` where it was not evaluated.

    Attributes:
        suite, task, metric: what was measured; the headline of a suite has no task and no metric.
        a, b: values in lm-eval's unit.
        stderr_a, stderr_b: their standard errors.
        verdict: what the documents say of the second beside the first: better, worse or cannot tell, adjusted for all scores of
            the comparison; empty where one was not evaluated.
    """

    suite: str
    task: str
    metric: str
    a: float | None
    b: float | None
    stderr_a: float | None
    stderr_b: float | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side.

    Attributes:
        a, b: the versions.
        recipe: lines of a unified diff by file of :data:`RECIPE_FILES`, where they differ.
        facts: what their manifests say otherwise than each other: name -> both values. The code that made them is there.
        inputs: name -> what each was made from under it, where that differs.
        tensors: by name, compared by digest.
        files: all other files, compared by digest.
        scores: of the same suites.
    """

    a: StoredVersion
    b: StoredVersion
    recipe: Mapping[str, Sequence[str]]
    facts: Mapping[str, tuple[Any, Any]]
    inputs: Mapping[str, tuple[Input | None, Input | None]]
    tensors: Compared
    files: Compared
    scores: Sequence[ScoreChange]

    @property
    def alike(self) -> bool:
        """Whether all bytes but those about how they were made are the same."""
        return self.a.artifact.version == self.b.artifact.version


def compare(workspace: Workspace, a: str, b: str | None = None) -> Comparison:
    """Compare two versions.

    Args:
        workspace: whose store it is.
        a: ``LINE``, ``LINE@VERSION``, or the same of a recipe without ``variants/``; of a line its current version.
        b: likewise; by default ``a`` is compared with the version of its line before it.

    Raises:
        StoreError: if there is no such version, or a file of one cannot be read.
    """
    found = inventory(workspace)
    second = _chosen(workspace, found, a)
    if b is None:
        first = _before(found, second)
    else:
        first, second = second, _chosen(workspace, found, b)
    one, other = first.artifact.manifest, second.artifact.manifest
    return Comparison(
        first,
        second,
        recipe={name: lines for name in RECIPE_FILES if (lines := _text_difference(first, second, name))},
        facts=_otherwise(_said(first), _said(second)),
        inputs=_otherwise(*({item.name: item for item in manifest.inputs} for manifest in (one, other))),
        tensors=_difference(_tensors(one.files), _tensors(other.files)),
        files=_difference(_others(one.files), _others(other.files)),
        scores=_scores(workspace, found, first, second),
    )


def _chosen(workspace: Workspace, found: Inventory, text: str) -> StoredVersion:
    line, at, version = text.partition("@")
    inside = f"variants/{line}"
    return choose_one(
        workspace, found, f"{inside}{at}{version}" if line not in found.versions and inside in found.versions else text
    )


def _before(found: Inventory, stored: StoredVersion) -> StoredVersion:
    versions = list(found.versions[stored.artifact.line])
    at = versions.index(stored)
    if at == 0:
        raise StoreError(
            f"{stored.artifact.line}: has no version before {stored.artifact.version[:12]}; name two versions to compare"
        )
    return versions[at - 1]


def _otherwise(a: Mapping[str, _V], b: Mapping[str, _V]) -> dict[str, tuple[_V | None, _V | None]]:
    """Both values of every name that has not the same in both."""
    return {name: (a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)}


def _said(stored: StoredVersion) -> dict[str, Any]:
    """What a manifest says, but for what is compared by itself."""
    manifest = stored.artifact.manifest
    plain = {name: value for name, value in manifest.details.items() if isinstance(value, (str, int, float))}
    made = manifest.provenance
    methods = {f"method {name}": version for name, version in manifest.details.get("methods", {}).items()}
    code = {"merge_assets": made.merge_assets, "commit": made.commit, "command": made.command, "host": made.host}
    return {"line": manifest.line, "version": manifest.version, "input key": manifest.key} | plain | methods | code


def _tensors(files: Mapping[str, FileEntry]) -> dict[str, str]:
    return {piece.name: piece.digest for entry in files.values() for piece in entry.pieces if piece.name}


def _others(files: Mapping[str, FileEntry]) -> dict[str, str]:
    return {name: entry.digest for name, entry in files.items() if not entry.pieces}


def _difference(a: Mapping[str, str], b: Mapping[str, str]) -> Compared:
    both = [name for name in a if name in b]
    changed = tuple(name for name in both if a[name] != b[name])
    return Compared(
        len(both) - len(changed),
        changed,
        tuple(name for name in a if name not in b),
        tuple(name for name in b if name not in a),
    )


def _text_difference(a: StoredVersion, b: StoredVersion, name: str) -> list[str]:
    one, other = (
        stored.artifact.read_bytes(name).decode("utf-8", "replace").splitlines()
        if name in stored.artifact.manifest.files
        else []
        for stored in (a, b)
    )
    return list(difflib.unified_diff(one, other, n=2, lineterm=""))[2:]


@dataclass(frozen=True)
class _Measured:
    """A value, with the scores that it is from."""

    value: float
    stderr: float | None
    higher_is_better: bool
    scores: Scores
    artifact: Artifact


def _scores(workspace: Workspace, found: Inventory, a: StoredVersion, b: StoredVersion) -> list[ScoreChange]:
    from merge_assets.evaluation.judge import Judge
    from merge_assets.evaluation.verdicts import Pair

    one, other = (_scores_of(found, stored.artifact.version) for stored in (a, b))
    samples = StoredSamples(KnownScores(workspace), workspace.cache)
    for measured in (*one.values(), *other.values()):
        samples.add(measured.scores, measured.artifact)
    both = [key for key in one if key in other]
    pairs = [
        Pair(other[key].scores, one[key].scores, key[1] or None, key[2] or None, other[key].higher_is_better)
        for key in both
    ]
    words = {key: each.word for key, each in zip(both, Judge(samples).verdicts(pairs), strict=True)}
    return [ScoreChange(*key, *_pair(one.get(key), other.get(key)), words.get(key, "")) for key in {**one, **other}]


def _pair(a: _Measured | None, b: _Measured | None) -> tuple[float | None, float | None, float | None, float | None]:
    (value_a, error_a), (value_b, error_b) = (
        (None, None) if one is None else (one.value, one.stderr) for one in (a, b)
    )
    return value_a, value_b, error_a, error_b


def _scores_of(found: Inventory, version: str) -> dict[tuple[str, str, str], _Measured]:
    """The newest values of everything that was evaluated of a version, by suite, task and metric."""
    rows: dict[tuple[str, str, str], _Measured] = {}
    for line in sorted(line for line in found.versions if line.startswith(_SCORES)):
        for stored in found.versions[line]:
            if version in stored.artifact.manifest.fingerprints.values():
                scores = _read(stored)
                if scores.headline is not None and not scores.part:  # of a part, it is another thing
                    rows[scores.suite, "", ""] = _Measured(
                        scores.headline, scores.headline_stderr, True, scores, stored.artifact
                    )
                rows |= {
                    (scores.suite, row.task, row.metric): _Measured(
                        row.value, row.stderr, row.higher_is_better, scores, stored.artifact
                    )
                    for row in scores.tasks
                }
    return rows


def _read(stored: StoredVersion) -> Scores:
    from merge_assets.evaluation.scores import Scores

    return Scores.from_json(stored.artifact.read_bytes(SCORES_FILE))
