"""A package of an extra that is missing is one line with the pip command, said before the work that needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from merge_assets.errors import NotInstalledError
from merge_assets.extras import not_installed, require
from tests.commands import Done, command_environment
from tests.synthetic import write_llama

EXTRAS = ("engine", "analysis", "evaluation", "leaderboards", "search", "s3", "ui", "deploy")
"""In the order in which they are declared."""

WITHOUT = """
import contextlib, io, json, os, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Without())
from merge_assets.cli import main

done = []
for arguments, environment in json.loads(sys.argv[2]):
    os.environ.update(environment)
    sys.argv = ["merge-assets", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    done.append([code, out.getvalue(), err.getvalue()])
    for name in environment:
        del os.environ[name]
print(json.dumps(done))
"""


_installed = cache(packages_distributions)


def modules(extra: str) -> dict[str, set[str]]:
    """The packages that an extra lists, and what they are imported as."""
    wanted = [Requirement(text) for text in requires("merge-assets") or ()]
    names = {
        canonicalize_name(one.name)
        for one in wanted
        if one.marker is not None and one.marker.evaluate({"extra": extra})
    }
    found: dict[str, set[str]] = {name: set() for name in names}
    for module, owners in _installed().items():
        for owner in map(canonicalize_name, owners):
            if owner in found and module.isidentifier() and module[0] != "_":
                found[owner].add(module)
    return found


def without(extras: Sequence[str], commands: Sequence[tuple[Sequence[str], dict[str, str]]], root: Path) -> list[Done]:
    """What commands do in a process in which the packages of extras cannot be imported."""
    blocked = {module for extra in extras for found in modules(extra).values() for module in found}
    if "evaluation" in extras:
        blocked.add("datasets")  # comes with lm_eval
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(sorted(blocked)), json.dumps(commands)],
        cwd=root,
        env=command_environment(root) | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [Done(*each) for each in json.loads(process.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for name in ("recipes", "suites"):
        (root / name).mkdir()
    (root / "merge-assets.toml").write_text("")
    write_llama(root / "a", 2)
    write_llama(root / "b", 2, seed=1)
    entries = "models:\n  - {model: ./a, parameters: {weight: 1}}\n  - {model: ./b, parameters: {weight: 1}}\n"
    (root / "recipes" / "mean.yaml").write_text(f"merge_method: linear\n{entries}")
    (root / "recipes" / "stock.yaml").write_text(
        "merge_method: nearswap\nbase_model: ./a\nmodels: [{model: ./b}]\nparameters: {t: 0.001}\n"
    )
    (root / "suites" / "demo.yaml").write_text(
        "description: one task\ntasks:\n  - {task: arc_easy, metric: acc, shots: 0}\n"
    )
    return root


def missing(package: str, extra: str) -> str:
    return f"error: this needs {package}, which is not installed: pip install 'merge-assets[{extra}]'\n"


@pytest.mark.slow
def test_without_the_engine(project: Path) -> None:
    plan, merge, snr, on_gpu = without(
        ["engine"],
        [
            (["plan", "mean"], {}),
            (["merge", "stock", "out"], {}),
            (["snr", "./a", "--out", "out"], {}),
            (["merge", "mean", "out", "--device", "cuda"], {}),
        ],
        project,
    )
    assert plan.code == 0, "a plan needs headers alone"
    assert (merge.code, merge.stderr) == (2, missing("torch", "engine"))
    assert (snr.code, snr.stderr) == (2, missing("safetensors", "engine"))
    assert (on_gpu.code, on_gpu.stderr) == (2, missing("torch", "engine"))
    assert not (project / "out").exists()


@pytest.mark.slow
def test_without_the_analysis(project: Path) -> None:
    to_folder, to_store = without(["analysis"], [(["snr", "./a", "--out", "out"], {}), (["snr", "./a"], {})], project)
    for done in (to_folder, to_store):
        assert (done.code, done.stdout, done.stderr) == (2, "", missing("threadpoolctl", "analysis"))
    assert not (project / "out").exists()


@pytest.mark.slow
def test_without_evaluation_a_bucket_and_the_ui(project: Path) -> None:
    bucket = {"MERGE_ASSETS_STORE": "s3://bucket/merges"}
    scored, stored, listed, planned, served = without(
        ["evaluation", "s3", "ui"],
        [
            (["evaluate", "./a", "--suite", "demo", "--out", "out"], {}),
            (["evaluate", "./a", "--suite", "demo"], {}),
            (["store", "ls", "--json"], bucket),
            (["plan", "mean"], bucket),
            (["ui"], {}),
        ],
        project,
    )
    for done in (scored, stored):
        assert (done.code, done.stderr) == (2, missing("lm_eval", "evaluation"))
    assert (listed.code, listed.stderr) == (2, missing("s3fs", "s3"))
    assert json.loads(listed.stdout)["error"]["kind"] == "not-installed"
    assert (planned.code, planned.stderr) == (2, missing("s3fs", "s3"))
    assert (served.code, served.stderr) == (2, missing("dagster_webserver", "ui"))
    assert not (project / "out").exists()


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_of_an_extra_leads_to_it_or_to_one_before_that_has_it_too(extra: str) -> None:
    before = {package for other in EXTRAS[: EXTRAS.index(extra)] for package in modules(other)}
    found = {package: names for package, names in modules(extra).items() if package not in before}
    assert found
    for package, names in found.items():
        errors = [not_installed(ModuleNotFoundError(name=f"{name}.inner")) for name in names]
        assert f"pip install 'merge-assets[{extra}]'" in " ".join(map(str, errors)), package


def test_the_reason_of_an_error_is_looked_at_too() -> None:
    wrapped = ImportError("Install s3fs to access S3")
    wrapped.__cause__ = ModuleNotFoundError("No module named 's3fs'", name="s3fs")
    assert "merge-assets[s3]" in str(not_installed(wrapped))


def test_a_module_of_nobody_is_a_defect_and_keeps_its_traceback() -> None:
    assert not_installed(ModuleNotFoundError(name="merge_assets.nowhere")) is None
    assert not_installed(ImportError("cannot import name 'x'")) is None


def test_what_is_installed_is_there() -> None:
    require("torch", "lm_eval")
    with pytest.raises(NotInstalledError, match="nowhere_at_all is not installed"):
        require("torch", "nowhere_at_all")
