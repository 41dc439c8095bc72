"""Builds while somebody keeps writing their inputs: what is published was computed from the bytes that it records.

``python -m tests.faults.changing_inputs [--builds 200] [--bucket]``. A writer changes, replaces, truncates and restores a shard
at random moments and, in many builds, between two sweeps of one tensor. Every state that the shard is ever left in is kept. A
version that is published is made again from the kept copy that it names; both have to be the same.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from merge_assets import api
from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import CheckpointError, EngineError
from merge_assets.settings import Settings
from merge_assets.work import Work
from tests.s3.rgw import Rgw
from tests.synthetic import write_checkpoint

ELEMENTS = 1 << 20
CONFIG = {"architectures": ["X"], "model_type": "llama", "num_hidden_layers": 0, "vocab_size": 4}
RECIPES = {
    "linear": "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n",
    "slerp": "merge_method: slerp\nmodels: [{model: b}]\nbase_model: a\nparameters: {t: 0.25}\n",
    "ties": "merge_method: ties\nmodels: [{model: b, parameters: {weight: 1, density: 0.5}}]\nbase_model: a\n",
    "copied": "merge_method: passthrough\nmodels: [{model: a}]\n",
}


@dataclass
class Writer:
    """Somebody who writes a shard without asking.

    Attributes:
        shard: the file.
        kept: folder with a copy of every state.
        counts: what was done how often.
    """

    shard: Path
    kept: Path
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self) -> None:
        """Keep a copy of the folder as it is now, under its fingerprint."""
        name = digest_checkpoint(open_checkpoint(self.shard.parent)).fingerprint
        if not (self.kept / name).exists():
            shutil.copytree(self.shard.parent, self.kept / name)

    def act(self) -> None:
        """Do one thing to the shard, with its time of modification as it was in two cases of three."""
        with self.lock:
            times = self.shard.stat()
            what = self.random.choice(("change", "replace", "truncate and restore", "change and restore"))
            getattr(self, what.partition(" ")[0])(restore=what.endswith("restore"))
            if self.random.random() < 2 / 3:
                os.utime(self.shard, ns=(times.st_atime_ns, times.st_mtime_ns))
            self.keep()
            self.counts[what] += 1

    def change(self, *, restore: bool) -> None:
        at = self.random.randrange(4096, self.shard.stat().st_size)
        with self.shard.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            for value in (bytes([byte[0] ^ 1]), *([byte] if restore else [])):
                file.seek(at)
                file.write(value)
                file.flush()
                if restore:
                    threading.Event().wait(self.random.uniform(0, 0.02))

    def replace(self, *, restore: bool) -> None:
        other = self.shard.with_name(".other")
        shutil.copyfile(self.shard, other)
        with other.open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(self.random.randbytes(2) + b"\x80\x3f" + b"\0\0\0\x3f")  # numbers
        other.replace(self.shard)

    def truncate(self, *, restore: bool) -> None:
        data = self.shard.read_bytes()
        with self.shard.open("r+b") as file:
            file.truncate(len(data) // 2)
            threading.Event().wait(self.random.uniform(0, 0.02))
            file.seek(len(data) // 2)
            file.write(data[len(data) // 2 :])


class Watching:
    """Hears how far a build is, and has the writer act between two sweeps if it is to."""

    def __init__(self, writer: Writer, *, between: bool) -> None:
        self.between = 0
        self._writer = writer
        self._armed = between
        self._begun: dict[str, int] = {}

    def report(self, done: int, total: int, label: str) -> None:
        if not self._armed or label not in ("w1", "w2"):
            return
        begun = self._begun.setdefault(label, done)
        # Both inputs of a sweep were read: the next bytes are those of the second.
        if done - begun >= 2 * 4 * ELEMENTS - 4 * 4096 and done < total:
            self._armed = False
            self.between += 1
            self._writer.act()


def write_project(root: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    for name in "ab":
        tensors = {n: torch.randn(ELEMENTS, generator=generator) for n in ("w1", "w2")}
        write_checkpoint(root / name, tensors, CONFIG)
    (root / "recipes").mkdir()
    for name, text in RECIPES.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)
    return root


@contextmanager
def writing(writer: Writer, *, pause: float) -> Iterator[None]:
    """The writer at work, at random moments."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(writer.random.expovariate(1 / pause)):
            writer.act()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def build(root: Path, recipe: str, settings: Mapping[str, Any], work: Work) -> api.Built:
    space = api.Workspace.open(Settings(root=root, memory=200_000, threads=1, **settings))
    return api.build(space, space.recipe(recipe), work=work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--builds", type=int, default=200)
    parser.add_argument("--bucket", action="store_true", help="with the store in a bucket")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    outcomes, wrong, between = Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="changing-") as folder, Rgw() if options.bucket else nullcontext() as rgw:
        root = write_project(Path(folder) / "project")
        bucket = "" if rgw is None else rgw.bucket("changing")
        writer = Writer(root / "a" / "model.safetensors", Path(folder) / "kept", dice)
        writer.keep()
        for number in range(options.builds):
            recipe = dice.choice(tuple(RECIPES))
            settings: dict[str, Any] = {"store": str(Path(folder) / f"store-{number}")}
            if rgw is not None:
                settings = {"store": f"s3://{bucket}/{number}", "store_options": rgw.options()}
            armed = recipe in ("slerp", "ties") and dice.random() < 0.6
            watching = Watching(writer, between=armed)
            noisy = (
                nullcontext() if armed or dice.random() < 0.3 else writing(writer, pause=dice.choice((0.05, 0.2, 1)))
            )
            try:
                with noisy:
                    built = build(root, recipe, settings, Work(watching.report))
            except (CheckpointError, EngineError) as error:
                outcomes["refused"] += 1
                assert str(root / "a") in str(error), error
            else:
                outcomes["published"] += 1
                wrong += not _is_true(built, writer.kept, root, recipe, Path(folder) / "again")
            between += watching.between
            shutil.rmtree(Path(folder) / f"store-{number}", ignore_errors=True)
    print(f"{options.builds} builds: {dict(outcomes)}; {sum(writer.counts.values())} changes {dict(writer.counts)},")
    print(f"{between} of them between two sweeps of a build; {wrong} published that are not what they record")
    if wrong:
        raise SystemExit(1)


def _is_true(built: api.Built, kept: Path, root: Path, recipe: str, again: Path) -> bool:
    """Whether the recorded inputs are states that were there, and give the same version."""
    state = kept / built.artifact.manifest.fingerprints["a"]
    if not state.is_dir():
        return False
    shutil.rmtree(again, ignore_errors=True)
    again.mkdir()
    shutil.copytree(state, again / "a")
    shutil.copytree(root / "b", again / "b")
    shutil.copytree(root / "recipes", again / "recipes")
    return build(again, recipe, {}, Work()).artifact.version == built.artifact.version


if __name__ == "__main__":
    main()
