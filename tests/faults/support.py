"""A project whose merges take a while, and what a reader finds in it after something went wrong."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.commands import Done
from tests.synthetic import write_checkpoint

LAYERS, WIDTH, FEED, VOCABULARY = 6, 1024, 2048, 512
RECIPES = {
    "ties": "merge_method: ties\nbase_model: ./m0\nmodels: [{model: ./m1}, {model: ./m2}]\n"
    "parameters: {weight: 0.6, density: 0.5}\n",
    "linear": "merge_method: linear\nmodels: [{model: ./m0}, {model: ./m1}]\nparameters: {weight: 0.5}\n",
    "copy": "merge_method: passthrough\nmodels: [{model: ./m1}]\n",
}


def write_project(root: Path) -> Path:
    """Three checkpoints of 26 MB and the recipes of :data:`RECIPES`. No transformers knows the architecture: no loading."""
    config = {
        "architectures": ["X"],
        "model_type": "unheard-of",
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    }
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        tensors = {"model.embed_tokens.weight": torch.randn(VOCABULARY, WIDTH, generator=generator)}
        for layer in range(LAYERS):
            tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.randn(FEED, WIDTH, generator=generator)
            tensors[f"model.layers.{layer}.input_layernorm.weight"] = torch.randn(WIDTH, generator=generator)
        tensors["model.norm.weight"] = torch.randn(WIDTH, generator=generator)
        write_checkpoint(root / f"m{seed}", {name: tensor.bfloat16() for name, tensor in tensors.items()}, config)
    write_recipes(root)
    return root


def write_recipes(root: Path) -> None:
    (root / "merge-assets.toml").write_text("")
    (root / "recipes").mkdir()
    for name, text in RECIPES.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)


def content(folder: Path) -> dict[str, str]:
    """Digest of every file of a folder, by relative path; empty if there is no folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden entries included."""
    return sorted(path.name for path in folder.iterdir())


def the_error(done: Done) -> str:
    """The one message with which a command failed: a line of its own, the last, with a remedy, and no traceback."""
    assert done.code == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "thread" not in done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if "error" in line] == lines[-1:]
    assert lines[-1].startswith("error: ")
    return lines[-1]


def build_faults(folder: Path) -> str:
    """Compile the library that makes file operations fail when it is preloaded; returns its path."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", library, source, "-ldl"], check=True)
    return str(library)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes mounted at ``folder``."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
