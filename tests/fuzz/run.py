"""Fuzz with atheris, guided by the coverage of merge_assets: ``python -m tests.fuzz.run --seconds 60 [TARGET …]``.

The seconds are shared between the targets. What a run learns stays in ``var/fuzz/TARGET/corpus``, so that the next one goes
on from there; an input that fails is kept beside it as ``crash-…`` and is tried again alone by ``--input FILE TARGET``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = (
    "recipe",
    "import",
    "header",
    "shard",
    "index",
    "config",
    "generation",
    "tokenizer",
    "tokenizer_config",
    "adapter",
    "scales",
    "quantisation",
    "pickle",
    "project",
)
KEPT = Path("var/fuzz")


def main() -> int:
    """Run the targets one after the other, each in a process of its own. Returns 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="in all, without the start of the processes")
    parser.add_argument("--input", type=Path, help="try this input alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = options.targets or list(TARGETS)
    for name in targets:
        if name not in TARGETS:
            parser.error(f"there is no target {name}; the targets are {', '.join(TARGETS)}")
    if options.child:
        _fuzz(targets[0], options.seconds, options.input)
        return 0
    share = max(1, options.seconds // len(targets))
    failed = []
    for name in targets:
        command = [sys.executable, "-m", "tests.fuzz.run", "--child", "--seconds", str(share), name]
        command += ["--input", str(options.input)] if options.input else []
        print(f"{name}: {share} s", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}; the inputs are in {KEPT}/TARGET/crash-*")
    return int(bool(failed))


def _fuzz(name: str, seconds: int, alone: Path | None) -> None:
    """Fuzz one target; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["merge_assets"]):
        from tests.fuzz import targets

    assert tuple(targets.TARGETS) == TARGETS
    corpus = KEPT / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        project = targets.Project(Path(folder))
        project.warm_up()
        for number, seed in enumerate(targets.seeds(project, name)):
            (corpus / f"seed-{number}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            "-timeout=60",
            "-rss_limit_mb=6000",
            "-max_len=20000",
            "-print_final_stats=1",
            f"-artifact_prefix={KEPT / name}/",
        ]
        inputs = [str(alone)] if alone else [*options, str(corpus)]
        target = targets.TARGETS[name]
        atheris.Setup([sys.argv[0], *inputs], lambda data: target(project, data))
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
