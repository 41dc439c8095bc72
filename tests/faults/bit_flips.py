"""Bits that flip in any file that is read again: nobody is told anything wrong by them.

``python -m tests.faults.bit_flips [--flips 60] [--only "digests"]``. For each kind of file a small project is made;
then, again and again, one bit of one file flips (times of modification stay), and the verb that reads the file runs. Right is
an error that is no traceback, or that the thing is made anew; what is published or shown is what it was before, or, of a base
whose bit flipped, what the same recipe makes of such a base in an empty store.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from merge_assets import api
from merge_assets.errors import MergeAssetsError, Stopped
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.work import Work
from tests.evaluation_support import write_checkpoint, write_suite
from tests.synthetic import read_tensors, write_llama

RECIPES = {
    "parent": "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\nevaluate: []\n",
    "child": "merge_method: slerp\nmodels: [{model: b}]\nbase_model: parent\nparameters: {t: 0.25}\nevaluate: []\n",
    "twin": "merge_method: linear\n"
    "models: [{model: a}, {model: b, parameters: {weight: [{filter: q_proj, value: 2}, {value: 1}]}}]\n"
    "parameters: {weight: 1}\nevaluate: []\n",
}


def space(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root, threads=1))


def built(root: Path, name: str) -> str:
    """The version of a recipe, and all that it holds that a merge is."""
    here = space(root)
    return api.build(here, here.recipe(name)).artifact.version


def in_an_empty_store(root: Path, name: str) -> str:
    shutil.rmtree(root / "var")
    return built(root, name)


def analysed(root: Path) -> str:
    """An analysis of a model that differs in one tensor from the one whose spectra are there."""
    found = api.analyse(space(root), ModelReference("a"))
    return repr([sorted(row.items()) for row in read_rows(root, found)])


def read_rows(root: Path, found: api.Analysed) -> list[dict[str, object]]:
    from merge_assets.analysis.layers import read_rows as rows

    directory = found.artifact.directory(root / "var" / "cache", checked=["snr.json"])
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(directory)]


def scored(root: Path) -> str:
    return repr([(t.task, t.metric, t.text) for t in api.evaluate(space(root), root / "words", "tiny").scores.tasks])


def resumed(root: Path) -> str:
    return built(root, "parent")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        prepare: makes what is there before the flip, in the project.
        files: which may flip.
        consume: runs the verb that reads them, and gives what is published or shown.
        own: what would be right after the flip, where it is not what was right before it.
    """

    prepare: Callable[[Path], object]
    files: Callable[[Path], Iterable[Path]]
    consume: Callable[[Path], str]
    own: Callable[[Path], str] | None = None


def _stopped(root: Path) -> None:
    reports: list[int] = []
    here = space(root)
    try:
        api.build(
            here,
            here.recipe("parent"),
            work=Work(lambda done, total, label: reports.append(done), lambda: len(reports) > 60),
        )
    except Stopped:
        return
    raise AssertionError("was not stopped")


def _store(pattern: str) -> Callable[[Path], list[Path]]:
    return lambda root: [path for path in (root / "var").glob(pattern) if path.is_file()]


def _change_one(root: Path) -> None:
    from safetensors.torch import save_file

    api.analyse(space(root), ModelReference("a"))
    tensors = {name: t.clone() for name, t in read_tensors(root / "a").items()}
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.5
    save_file(tensors, root / "a" / "model.safetensors", metadata={"format": "pt"})


KINDS = {
    "shards of a base": Kind(
        lambda root: built(root, "parent"),
        lambda root: [root / "a" / "model.safetensors"],
        lambda root: built(root, "parent"),
        lambda root: in_an_empty_store(root, "parent"),
    ),
    "shards of a parent": Kind(
        lambda root: built(root, "parent"),
        _store("store/variants/parent/*/model*.safetensors"),
        lambda root: built(root, "child"),
    ),
    "shards that are reused": Kind(
        lambda root: built(root, "parent"),
        _store("store/variants/parent/*/model*.safetensors"),
        lambda root: built(root, "twin"),
    ),
    "config and tokenizer of a parent": Kind(
        lambda root: built(root, "parent"),
        _store("store/variants/parent/*/[ct]o*.json"),
        lambda root: built(root, "child"),
    ),
    "manifests": Kind(
        lambda root: built(root, "parent"),
        _store("store/variants/parent/*/manifest.json"),
        lambda root: built(root, "parent") + built(root, "child"),
    ),
    "indexes and pointers": Kind(
        lambda root: (built(root, "parent"), built(root, "twin")),
        lambda root: [*_store("store/variants/index.txt")(root), *_store("store/variants/*/current.json")(root)],
        lambda root: built(root, "parent") + built(root, "twin") + built(root, "child"),
    ),
    "caches of digests": Kind(
        lambda root: built(root, "parent"),
        _store("cache/digests/*"),
        lambda root: built(root, "parent") + built(root, "twin"),
    ),
    "spectra": Kind(_change_one, _store("store/analyses/**/spectra.safetensors"), analysed),
    "tables of analyses": Kind(
        lambda root: api.analyse(space(root), ModelReference("a")), _store("store/analyses/**/snr.json"), analysed
    ),
    "finished answers": Kind(scored, _store("cache/evaluations/*/*/*"), scored),
    "progress of a build": Kind(_stopped, _store("store/.drafts/kept-*/journal"), resumed),
    "half-built shards": Kind(_stopped, _store("store/.drafts/kept-*/content/*.safetensors"), resumed),
}


def write_project(root: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_llama(root / name, seed=seed)
    write_checkpoint(root / "words")
    write_suite(root / "suites")
    (root / "recipes").mkdir()
    for name, text in RECIPES.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)
    return root


def flip(file: Path, dice: random.Random) -> str:
    """One bit; says which."""
    times = file.stat()
    file.chmod(0o644)
    at = dice.randrange(times.st_size * 8)
    with file.open("r+b") as opened:
        opened.seek(at // 8)
        byte = opened.read(1)[0]
        opened.seek(at // 8)
        opened.write(bytes([byte ^ (1 << at % 8)]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return f"bit {at} of {file.name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=84, help="of each kind")
    parser.add_argument("--only", default="", help="part of the kinds' names")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="flips-") as folder:
        plain = write_project(Path(folder) / "plain")
        for title, kind in KINDS.items():
            if options.only not in title:
                continue
            dice = random.Random(title)
            here = Path(folder) / "project"
            shutil.copytree(plain, here)
            kind.prepare(here)
            prepared = here.rename(Path(folder) / "prepared")
            shutil.copytree(prepared, here)
            right = kind.consume(here)
            outcomes = Counter[str]()
            for _ in range(options.flips):
                shutil.rmtree(here)
                shutil.copytree(prepared, here)
                what = flip(dice.choice(sorted(kind.files(here))), dice)
                try:
                    found = kind.consume(here)
                except MergeAssetsError as error:
                    outcomes[f"error ({error.kind})"] += 1
                except Exception as error:
                    outcomes["WRONG: traceback"] += 1
                    print(f"  {title}: {what}: {type(error).__name__}: {error}"[:300], flush=True)
                else:
                    good = found == right or (kind.own is not None and found == kind.own(here))
                    outcomes["right" if good else "WRONG: published"] += 1
                    if not good:
                        print(f"  {title}: {what}: is not what it should be", flush=True)
            failed += sum(count for outcome, count in outcomes.items() if outcome.startswith("WRONG"))
            shutil.rmtree(here)
            shutil.rmtree(prepared)
            print(f"{title}: {options.flips} flips: {dict(outcomes)}", flush=True)
    if failed:
        raise SystemExit(f"{failed} ended wrong")


if __name__ == "__main__":
    main()
