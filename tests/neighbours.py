"""Hostile neighbours of a good recipe: whatever a person, a stranger's file or a broken disk can put into a project."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.inputs import model_files, write_folder

BODY = "merge_method: passthrough\nmodels: [{model: ./good-model}]\n"
"""A recipe that is sound but for what a neighbour adds."""

SUITE = "tasks: [{task: arc_easy, metric: acc, shots: 0}]\n"

Neighbour = Callable[[Path], None]
"""Puts something into a project's folder."""


def recipe(text: str | bytes, name: str | bytes = "bad.yaml") -> Neighbour:
    """A recipe file of this content."""
    return lambda root: put_file(root / "recipes", name, text)


def suite(text: str | bytes, name: str | bytes = "bad.yaml", user: bool = True) -> Neighbour:
    """A suite file of this content, and a recipe that names it."""

    def put(root: Path) -> None:
        put_file(root / "suites", name, text)
        if user:
            put_file(root / "recipes", "user.yaml", f"{BODY}evaluate: [bad]\n")

    return put


def task(text: str | bytes, name: str = "t.yaml") -> Neighbour:
    """A task file in a folder of a suite that lists the task ``t``."""

    def put(root: Path) -> None:
        suite("include_path: tasks\ntasks: [{task: t, metric: acc}]\n")(root)
        (root / "suites" / "tasks").mkdir()
        put_file(root / "suites" / "tasks", name, text)

    return put


def model(reference: str, more: str = "") -> Neighbour:
    """A recipe of one model."""
    return recipe(f"merge_method: passthrough\nmodels:\n- model: {json.dumps(reference)}\n{more}")


def put_file(folder: Path, name: str | bytes, text: str | bytes) -> None:
    """Write a file, whose name may be bytes that are not UTF-8."""
    path = folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def special(where: str, kind: str) -> Neighbour:
    """What is no file, where one is expected; ``kind`` is what :func:`make_special` makes, or where a link leads."""

    def put(root: Path) -> None:
        path = root / where
        path.parent.mkdir(parents=True, exist_ok=True)
        make_special(path, kind)

    return put


def make_special(path: Path, kind: str) -> None:
    """A FIFO, socket, folder or unreadable file, or a link to where ``kind`` says."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind == "unreadable file":
        path.write_text(BODY)
        path.chmod(0)
    elif kind == "unreadable folder":
        path.mkdir()
        (path / "a.yaml").write_text(BODY)
        path.chmod(0)
    else:
        path.symlink_to(kind)


def folders(depth: int, name: str = "d", where: str = "recipes") -> Neighbour:
    """Folders in folders, and a recipe in the deepest."""

    def put(root: Path) -> None:
        here = os.open(root / where, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=here)
            there = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = there
        file = os.open("deep.yaml", os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(file, BODY.encode())
        os.close(file)
        os.close(here)

    return put


def damaged_model(name: str, change: str | bytes) -> Neighbour:
    """A recipe of a local model of which one file holds something else, or is something else (``!fifo``)."""

    def put(root: Path) -> None:
        write_folder(root / "bad-model", model_files())
        file = root / "bad-model" / name
        file.unlink(missing_ok=True)
        if isinstance(change, str) and change.startswith("!"):
            make_special(file, change[1:])
        else:
            put_file(file.parent, file.name, change)
        model("./bad-model")(root)

    return put


def both(*neighbours: Neighbour) -> Neighbour:
    def put(root: Path) -> None:
        for neighbour in neighbours:
            neighbour(root)

    return put


def documents(texts: list[str]) -> str:
    return "---\n".join(texts)


def chain(length: int, materialize: bool = True) -> str:
    """Recipes that are each made of the one before."""
    stored = "" if materialize else "materialize: false\n"
    return documents(
        [
            f"name: c{n}\n{stored}merge_method: passthrough\nmodels: [{{model: {f'c{n - 1}' if n else './good-model'}}}]\n"
            for n in range(length)
        ]
    )


def diamonds(levels: int) -> str:
    """Recipes that are not stored, two on each level, each made of both below it: as many ways as 2 to the levels."""
    made = []
    for n in range(levels):
        below = [f"d{n - 1}a", f"d{n - 1}b"] if n else ["./good-model", "./second-model"]
        for side in "ab":
            models = ", ".join(f"{{model: {name}, parameters: {{weight: 1}}}}" for name in below)
            made.append(f"name: d{n}{side}\nmaterialize: false\nmerge_method: linear\nmodels: [{models}]\n")
    return documents(made)


def merge_keys(levels: int, width: int = 2) -> str:
    """YAML's merge keys, each level twice the one below."""
    lines = ["a0: &a0 {k: 1, l: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def aliases(levels: int, width: int = 9) -> str:
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def number(text: str) -> Neighbour:
    return recipe(f"{BODY}parameters: {{scale: {text}}}\n")


def merge(*models: str) -> str:
    """A recipe of these models, all of one weight."""
    return f"merge_method: linear\nmodels: [{', '.join(f'{{model: {name}, parameters: {{weight: 1}}}}' for name in models)}]\n"


def analysed(name: str, reference: str) -> str:
    """A recipe that needs the analysis of a model."""
    template = f"{{model: {reference}, by: snr, tensor: v_proj, remove: {{lowest: 1}}}}"
    return f"name: {name}\nmerge_method: passthrough\nprune_layers: {template}\n"
