"""A project of text files that stand in for checkpoints, so that timelines of rebuilds run in seconds.

A fake checkpoint is a folder with one file ``weights``. Its fingerprint is the digest of the whole text; what merging,
analysing and evaluating take from it is the text before the first ``#``. So a change after the ``#`` is a change of
bytes that does not change any result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.errors import CheckpointError
from merge_assets.identity import search_line
from merge_assets.pipeline import analyses, importance, scores, searches, variants
from merge_assets.pipeline import leaderboard as leaderboard_module
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.reconciler import read
from merge_assets.recipe import candidate
from merge_assets.records import Details, FoundTrial, SearchDetails
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from merge_assets.workspace.texts import read_sample

SUITE = """\
description: one task
tasks:
  - {task: arc_easy, metric: acc, shots: 0}
"""

MEAN = """\
merge_method: linear
models:
  - {model: checkpoints/one, parameters: {weight: 1}}
  - {model: checkpoints/two, parameters: {weight: 1}}
"""

SECOND = """\
merge_method: linear
models:
  - {model: mean, parameters: {weight: 1}}
  - {model: checkpoints/three, parameters: {weight: 1}}
"""

PRUNED = """\
merge_method: passthrough
prune_layers: {model: checkpoints/three, by: snr, tensor: self_attn.v_proj, remove: {lowest: 2}}
"""

PRUNED_BY_TEXT = """\
merge_method: passthrough
prune_layers: {model: checkpoints/three, by: block_influence, text: words.txt, remove: 2}
"""

HUB = """\
merge_method: linear
models:
  - {model: some-org/some-model, parameters: {weight: 1}}
  - {model: checkpoints/one, parameters: {weight: 1}}
"""


SEARCH = """\
merge_method: linear
models:
  - {model: checkpoints/one, parameters: {weight: 1}}
  - {model: checkpoints/two, parameters: {weight: 1}}
search:
  space: {"models[1].parameters.weight": {low: 0, high: 1}, "models[0].model": [checkpoints/one, checkpoints/three]}
  objective: {suite: quick}
  trials: 3
"""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Project:
    """A project folder whose recipes and checkpoints a test edits."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("recipes", "suites", "checkpoints"):
            (root / folder).mkdir()
        (root / "suites" / "quick.yaml").write_text(SUITE)
        for name in ("one", "two", "three"):
            self.checkpoint(name, f"weights of {name}")

    def recipe(self, name: str, text: str) -> None:
        file = self.root / "recipes" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def checkpoint(self, name: str, text: str) -> None:
        folder = self.root / "checkpoints" / name
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(text)

    def text(self) -> str:
        """All its files in one text."""
        files = sorted(file for file in self.root.rglob("*") if file.is_file())
        return "\n".join(f"{file.relative_to(self.root)}\n{file.read_text()}" for file in files)

    def workspace(self, **settings: Any) -> Workspace:
        return Workspace.open(Settings(root=self.root, default_suites=["quick"], device="cpu", **settings))

    def definitions(self, **settings: Any) -> dg.Definitions:
        workspace = self.workspace(**settings)
        return build_definitions(workspace, build_graph(workspace))


@dataclass
class FakeApi:
    """The verbs on fake checkpoints. ``calls`` has one entry per call that a step makes."""

    calls: list[str] = field(default_factory=list)
    best: float = 0.5
    failing: set[str] = field(default_factory=set)
    crashing: set[str] = field(default_factory=set)
    failing_checks: set[str] = field(default_factory=set)
    during: Callable[[str], None] = lambda name: None
    results: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)

    def content(self, workspace: Workspace, reference: Any) -> str:
        """What others take from a model."""
        if workspace.book.resolve(reference) is not None:
            return self.results[reference.path]
        return self._text(workspace, reference).partition("#")[0]

    def observe(self, workspace: Workspace, reference: Any, **_: Any) -> Any:
        text = self._text(workspace, reference)
        fingerprint = sha(text) if workspace.names.local_path(reference) else text
        return SimpleNamespace(fingerprint=fingerprint, revision=None, tensors=1, bytes=1, layers=1, architecture="x")

    def build(self, workspace: Workspace, recipe: Any, **_: Any) -> Any:
        references = workspace.book.inputs(recipe)
        inputs = [self.content(workspace, reference) for reference in references]
        used = {
            str(reference): self.observe(workspace, reference).fingerprint
            for reference in references
            if workspace.book.resolve(reference) is None
        }
        self._call(recipe.name)
        outcomes = tuple(
            SimpleNamespace(name=name, passed=recipe.name not in self.failing_checks, description="", metadata={})
            for name in variants.CHECKS
        )
        methods = [(part.merge_method, sorted(part.parameters)) for part in (*workspace.book.folded(recipe), recipe)]
        self.results[recipe.name] = sha(f"{methods} {inputs}")
        # As in the store, a version that exists already keeps the manifest of its first build.
        version = self.results[recipe.name]
        artifact = self.artifacts.setdefault(version, _artifact(version, used))
        models = [SimpleNamespace(reference=name, fingerprint=fingerprint) for name, fingerprint in used.items()]
        return SimpleNamespace(artifact=artifact, reused=False, checks=outcomes, plan=SimpleNamespace(models=models))

    def analyse(self, workspace: Workspace, reference: Any, **_: Any) -> Any:
        self._call(f"snr {reference}")
        return SimpleNamespace(artifact=_artifact(sha(f"snr {self.content(workspace, reference)}")), reused=False)

    def measure_importance(self, workspace: Workspace, reference: Any, kind: str, sample: Any, **_: Any) -> Any:
        self._call(f"{kind} {reference}")
        text = read_sample(workspace.settings, sample).decode()
        return SimpleNamespace(artifact=_artifact(sha(f"{kind} {text} {self.content(workspace, reference)}")))

    def importance_cost(self, *_: Any) -> str:
        return "much"

    def conclude(self, workspace: Workspace, name: str, **_: Any) -> Any:
        """A search that finds :attr:`best` as the second weight."""
        self._call(f"search {name}")
        named = {one for point in workspace.book.searched[name] for one in point.references()}
        models = {str(one): self.observe(workspace, one).fingerprint for one in sorted(named, key=str)}
        values = {"models[1].parameters.weight": self.best}
        text = candidate(workspace.book.searches[name], 2, values).source.text
        found = FoundTrial(name=name, number=2, values=values, objectives={"quick": 0.5}, recipe=text, beside=())
        details = SearchDetails(search=name, study=f"{name}-x", trials=3, failed=0, found=(found,))
        with workspace.store.draft(search_line(name)) as draft:
            version = sha(f"{models} {values}")
            artifact = draft.commit(version, key=version, inputs=[], details=details)
        return SimpleNamespace(artifact=artifact, opened=SimpleNamespace(models=models), reused=False)

    def score(self, workspace: Workspace, reference: Any, suite: str, **_: Any) -> Any:
        self._call(f"{suite} {reference}")
        return SimpleNamespace(
            artifact=_artifact(sha(f"{suite} {self.content(workspace, reference)}")),
            reused=False,
            scores=SimpleNamespace(failures=(), failed=""),
        )

    def rank(self, workspace: Workspace, **_: Any) -> Any:
        self._call("rank")
        return SimpleNamespace(artifact=_artifact(sha(str(sorted(self.results.items())))), reused=False)

    def _text(self, workspace: Workspace, reference: Any) -> str:
        folder = workspace.names.local_path(reference)
        if folder is None and workspace.settings.hub_endpoint:
            return workspace.hub.fingerprint(workspace.hub.resolve(reference))
        if folder is None:
            raise CheckpointError(f"{reference}: the network is not reached in tests")
        return (folder / "weights").read_text()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.during(name)
        if name in self.failing:
            raise CheckpointError(f"{name} fails as asked")
        if name in self.crashing:
            raise OSError(f"{name} crashes as asked")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """Fake verbs in place of the real ones, and metadata without their details."""
    made = FakeApi()
    for name in ("observe", "build", "analyse", "measure_importance", "importance_cost", "conclude", "score", "rank"):
        monkeypatch.setattr(api, name, getattr(made, name))
    for module, name in (
        (variants, "variant_metadata"),
        (analyses, "analysis_metadata"),
        (importance, "importance_metadata"),
        (searches, "search_metadata"),
        (scores, "scores_metadata"),
        (leaderboard_module, "leaderboard_metadata"),
    ):
        monkeypatch.setattr(module, name, lambda *_: {"outcome": "built"})
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@contextmanager
def moved(seconds: float) -> Iterator[None]:
    """The reconciler's clock goes ahead of the world's."""
    real = read.time
    read.time = SimpleNamespace(time=lambda: real.time() + seconds)
    try:
        yield
    finally:
        read.time = real


class Daemon:
    """What the Dagster daemon does, tick by tick: sensors, automation, runs."""

    def __init__(self, project: Project, **settings: Any) -> None:
        self.project = project
        self.settings = settings
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.said = ""
        self.later = 0.0
        self.definitions = project.definitions(**settings)

    @classmethod
    def settled(cls, project: Project, fake: FakeApi) -> Daemon:
        """A daemon whose project is all observed, built and scored, as its first ticks leave it.

        Many timelines begin so. The ticks are made once for the same project; then their event log and runs are copied.
        """
        text = project.text()
        if text not in _SETTLED:
            first = cls.begun(project)
            _SETTLED[text] = _Settled(first.instance, first.cursor, fake.calls, fake.results, fake.artifacts)
        saved = _SETTLED[text]
        daemon = cls(project)
        _copy_instance(saved.instance, daemon.instance)
        daemon.cursor = saved.cursor
        fake.calls, fake.results, fake.artifacts = list(saved.calls), dict(saved.results), dict(saved.artifacts)
        return daemon

    @classmethod
    def begun(cls, project: Project, **settings: Any) -> Daemon:
        """A daemon after its first ticks on a project."""
        daemon = cls(project, **settings)
        daemon.observe()
        daemon.settle()
        return daemon

    def reload(self) -> None:
        """Load the code location again, as the Reload button does."""
        self.definitions = self.project.definitions(**self.settings)

    def observe(self) -> list[str]:
        """One tick of the sensor over local checkpoints; the keys whose change it recorded."""
        sensor = self.definitions.get_sensor_def("local_checkpoints")
        result = sensor(dg.build_sensor_context(instance=self.instance))
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return sorted(event.asset_key.to_user_string() for event in result.asset_events)

    def request(self) -> list[dg.RunRequest]:
        """One tick of the automation sensor; the runs it asks for."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.definitions.get_repository_def()
        )
        with moved(self.later):
            result = self.definitions.get_sensor_def("automation")(context)
        self.cursor = result.cursor
        self.said = result.skip_reason.skip_message if result.skip_reason else ""
        return list(result.run_requests or [])

    def run(self, keys: Iterable[dg.AssetKey], tags: Mapping[str, str] | None = None) -> bool:
        """Run assets; whether all succeeded."""
        job = self.definitions.resolve_job_def("build")
        result = job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=self.instance,
            asset_selection=list(keys),
            tags=dict(tags or {}),
            raise_on_error=False,
        )
        return result.success

    def queue(self, request: dg.RunRequest, tags: Mapping[str, str] | None = None) -> dg.DagsterRun:
        """A run that is asked for, and has not begun."""
        job = self.definitions.resolve_job_def("build")
        return self.instance.create_run_for_job(
            job,
            asset_selection=frozenset(request.asset_selection or []),
            tags={**request.tags, **(tags or {})},
            status=dg.DagsterRunStatus.NOT_STARTED,
        )

    def tick(self) -> list[str]:
        """One tick of the automation sensor and the runs that it asks for; the keys it requests."""
        requests = self.request()
        for request in requests:
            self.run(request.asset_selection or [], request.tags)
        return [key.to_user_string() for request in requests for key in request.asset_selection or []]

    def wait(self, seconds: float) -> None:
        """Let time pass for the sensor."""
        self.later += seconds

    def settle(self) -> list[str]:
        """Ticks until nothing is requested; all keys that were, in order."""
        seen: list[str] = []
        for _ in range(12):
            requested = self.tick()
            if not requested:
                return seen
            seen += requested
        raise AssertionError(f"automation does not come to rest: {seen}")


@dataclass(frozen=True)
class _Settled:
    """What :meth:`Daemon.settled` has kept of a project."""

    instance: dg.DagsterInstance
    cursor: Any
    calls: list[str]
    results: dict[str, str]
    artifacts: dict[str, Any]


_SETTLED: dict[str, _Settled] = {}


def _copy_instance(source: dg.DagsterInstance, target: dg.DagsterInstance) -> None:
    """Event log and runs of an instance in memory into another one."""
    for storage in ("_event_storage", "_run_storage"):
        one, other = (getattr(each, storage)._held_conn.connection.driver_connection for each in (source, target))
        one.backup(other)


def _artifact(version: str, inputs: dict[str, str] | None = None) -> Any:
    return SimpleNamespace(
        version=version,
        manifest=SimpleNamespace(fingerprints=inputs or {}, common=Details()),
        directory=lambda cache, **_: cache,
        read_bytes=lambda name: b"",
    )
