"""Look for inputs that fail: ``python -m tests.fuzz.run --seconds 60 [TARGET …]``.

Most targets are fuzzed with atheris, guided by the coverage of merge_assets. What a run learns stays in
``var/fuzz/TARGET/corpus``, so that the next one goes on from there; an input that fails is kept beside it as ``crash-…`` and is
tried again alone by ``--input FILE TARGET``. The target ``properties`` are the property tests of the suite, which try the same
examples in every other run and random ones here. It gets half of the seconds, the others share the rest.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
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
PROPERTIES = "properties"
KEPT = Path("var/fuzz")


def main() -> int:
    """Run the targets one after the other, each in a process of its own. Returns 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join((*TARGETS, PROPERTIES))}; default: all"
    )
    parser.add_argument("--seconds", type=int, default=60, help="in all, without the start of the processes")
    parser.add_argument("--input", type=Path, help="try this input alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    targets = options.targets or [*TARGETS, PROPERTIES]
    for name in targets:
        if name not in (*TARGETS, PROPERTIES):
            parser.error(f"there is no target {name}; the targets are {', '.join((*TARGETS, PROPERTIES))}")
    if options.child:
        if targets == [PROPERTIES]:
            return _search(options.seconds)
        _fuzz(targets[0], options.seconds, options.input)
        return 0
    fuzzed = [name for name in targets if name != PROPERTIES]
    most = options.seconds // 2 if fuzzed else options.seconds
    share = max(1, (options.seconds - (most if PROPERTIES in targets else 0)) // max(1, len(fuzzed)))
    failed = []
    if PROPERTIES in targets and not _searched(most):
        failed.append(PROPERTIES)
    for name in fuzzed:
        command = [sys.executable, "-m", "tests.fuzz.run", "--child", "--seconds", str(share), name]
        command += ["--input", str(options.input)] if options.input else []
        print(f"{name}: {share} s", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(
            f"failed: {', '.join(failed)}; inputs are in {KEPT}/TARGET/crash-*, examples of properties are printed above"
        )
    return int(bool(failed))


def _searched(seconds: int) -> bool:
    """Run the property tests with random examples, again and again while there is time. False if one failed."""
    print(f"{PROPERTIES}: {seconds} s", flush=True)
    end = time.monotonic() + seconds
    while (left := int(end - time.monotonic())) > 0:
        command = [sys.executable, "-m", "tests.fuzz.run", "--child", "--seconds", str(left), PROPERTIES]
        if subprocess.run(command, check=False).returncode:
            return False
    return True


def _search(seconds: int) -> int:
    """Run every property test once in random order, none after the time is over."""
    import pytest

    class Pass:
        end = 0.0

        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            random.shuffle(items)
            self.end = time.monotonic() + seconds

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(self) -> bool | None:
            return True if time.monotonic() > self.end else None  # True: it is done with

    arguments = [
        "--hypothesis-profile",
        "search",
        "-m",
        "hypothesis",
        "-q",
        "-r",
        "f",
        "-p",
        "no:cacheprovider",
        "tests",
    ]
    return int(pytest.main(arguments, [Pass()]))


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
