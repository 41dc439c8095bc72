"""One step of the benchmark of builds into S3, in a process of its own: it prints what it found as one line of JSON.

python -m benchmarks.object_store_step '{"do": "build", …}'
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merge_assets import api
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import Models

# What a build imports sooner or later, so that it is in memory, and its time spent, before anything is measured.
_IMPORTED = (
    "merge_assets.engine.execute",
    "merge_assets.variant.surroundings",
    "merge_assets.variant.checks",
    "merge_assets.hub.mirror",
    "merge_assets.store.sending",
    "merge_assets.store.sent",
    "merge_assets.methods.expression",
    "merge_assets.variant.agreement",
    "merge_assets.engine.compute",
    "merge_assets.methods.built_in.linear",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "huggingface_hub",
    "s3fs",
    "aiobotocore.session",
)
_PHASES = (
    ("merge_assets.hub.mirror", "mirror", "mirror"),
    ("merge_assets.hub.hub", "Hub.download", "download"),
    ("merge_assets.workspace.local", "LocalModels.digest", "digest the inputs"),
    ("merge_assets.store.store", "ArtifactStore.origins", "look for finished tensors"),
    ("merge_assets.store.store", "ArtifactStore.sound", "verify what is reused"),
    ("merge_assets.store.building", "Building.add", "set out"),
    ("merge_assets.store.sending", "SentBuilding.add", "set out"),
    ("merge_assets.engine.execute", "execute", "engine"),
    ("merge_assets.api.build", "check_variant", "checks"),
    ("merge_assets.store.draft", "BuildDraft.describe", "wait for transfers"),
    ("merge_assets.store.draft", "BuildDraft.commit", "publish"),
)


class Phases:
    """Seconds of a build's phases; what is called within one belongs to it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within = threading.local()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Measure while this holds."""
        changed: list[tuple[Any, str, Any]] = []
        for module, path, label in _PHASES:
            owner: Any = importlib.import_module(module)
            *outer, name = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            changed.append((owner, name, getattr(owner, name)))
            setattr(owner, name, self._timed(label, changed[-1][2]))
        try:
            yield
        finally:
            for owner, name, function in reversed(changed):
                setattr(owner, name, function)

    def _timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if getattr(self._within, "phase", None):
                return function(*arguments, **options)
            self._within.phase = label
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self._within.phase = None
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - began

        return timed


def build(settings: dict[str, Any], recipe: str, checks: bool, imported: bool) -> dict[str, Any]:
    """Build a recipe.

    Args:
        settings: of the workspace.
        recipe: its name.
        checks: whether to make the checks of the finished variant.
        imported: whether all modules are imported, and the store was asked something, before the measurement begins.
    """
    if imported:
        for name in _IMPORTED:
            importlib.import_module(name)
        _connect(settings)
    phases = Phases()
    if not checks:
        vars(importlib.import_module("merge_assets.api.build"))["check_variant"] = lambda *_, **__: []
    space = api.Workspace.open(Settings(**settings))
    _forget_peak()
    idle, modules, cpu = _memory("VmRSS"), set(sys.modules), time.process_time()
    with phases.watch():
        began = time.perf_counter()
        built = api.build(space, space.recipe(recipe))
        wall = time.perf_counter() - began
    manifest = built.artifact.manifest
    return {
        "wall": wall,
        "cpu": time.process_time() - cpu,
        "idle_memory": idle,
        "peak_memory": _memory("VmHWM"),
        "imported_late": sorted(set(sys.modules) - modules) if imported else [],
        "phases": phases.seconds,
        "version": built.artifact.version,
        "line": built.artifact.line,
        "input_bytes": built.plan.bytes_to_read,
        "output_bytes": built.plan.bytes_to_write,
        "shards": len(built.plan.shards),
        "tensors": len(built.plan.tensors),
        "report": {k: v for k, v in dict(built.report).items() if isinstance(v, (int, float))},
        "digests": {p.name: p.digest for f in manifest.files.values() for p in f.pieces if p.name},
    }


def mirror(settings: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """Bring models of the Hub into the store."""
    space = api.Workspace.open(Settings(**settings))
    began = time.perf_counter()
    for model in models:
        Models(space).fetch(ModelReference(model), local=False)
    return {"wall": time.perf_counter() - began}


def verify(settings: dict[str, Any], line: str, version: str) -> dict[str, Any]:
    """Read every byte of a version, and load it as its readers do."""
    space = api.Workspace.open(Settings(**settings))
    began = time.perf_counter()
    artifact = space.store.get(line, version)
    assert artifact is not None
    problems = space.store.verify(artifact)
    from transformers import AutoModelForCausalLM

    folder = artifact.directory(space.cache / "artifacts")
    loader: Any = AutoModelForCausalLM
    _, report = loader.from_pretrained(folder, dtype="auto", output_loading_info=True)
    loading = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    return {"wall": time.perf_counter() - began, "problems": problems, "loading": loading}


def _connect(settings: dict[str, Any]) -> None:
    """One request, so that the client's own modules and buffers are in memory before a build."""
    if settings["store"].startswith("s3://"):
        api.Workspace.open(Settings(**settings)).store.lines("none")


def _memory(name: str) -> int:
    """A figure of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _forget_peak() -> None:
    """The peak of resident memory begins anew at what there is."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Entry point."""
    from benchmarks.object_store_copy import copy

    logging.basicConfig(level=logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    steps: dict[str, Callable[..., dict[str, Any]]] = {"build": build, "mirror": mirror, "verify": verify, "copy": copy}
    arguments = json.loads(sys.argv[1])
    print(json.dumps(steps[arguments.pop("do")](**arguments)))


if __name__ == "__main__":
    main()
