"""Helpers of the store's tests: write a version, and run code in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_assets.records import Details, Input
from merge_assets.store import Artifact, ArtifactStore

LINE = "variants/slerp-7b"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "plots/heat map.png": b"\x89PNG"}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def made_from(fingerprints: Mapping[str, str]) -> list[Input]:
    """Inputs by name."""
    return [Input(kind="local", name=name, fingerprint=digest) for name, digest in fingerprints.items()]


def commit(
    store: ArtifactStore,
    version: str = "f1",
    *,
    line: str = LINE,
    key: str = "k1",
    files: Mapping[str, bytes] = FILES,
    **more: Any,
) -> Artifact:
    """Write and commit one version."""
    with store.draft(line) as draft:
        write_files(draft.directory, files)
        fields: dict[str, Any] = {"inputs": made_from({"base": "aa"}), "details": Details(method="slerp")} | more
        return draft.commit(version, key=key, **fields)


def spawn(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run ``code`` in a Python process that sees this project's modules; ``arguments`` are its ``sys.argv[1:]``."""
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process of :func:`spawn`; returns what it printed, fails with its traceback."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()
