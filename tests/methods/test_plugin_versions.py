"""A method of another package is the code that it is: another version or source of it makes everything anew, another place does
not. Each build is that of a process of its own, forked from one that has not seen the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import command_environment
from tests.plugin_support import RECIPE, install
from tests.synthetic import read_tensors, write_llama

ROOT = Path(__file__).parents[2]

BUILD = """
import json, os, shutil, sys
from pathlib import Path
import torch, transformers
from merge_assets import api
from merge_assets.errors import MergeAssetsError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.variants import variant_spec
from merge_assets.plan.difference import difference
from merge_assets.records import VariantDetails
from tests.plugin_support import SHIFTED, install

def build(site, **options):
    sys.path.insert(0, str(site))
    space = api.Workspace.open()
    recipe = space.recipe("soft")
    earlier = space.store.current("variants/soft")
    plan = api.plan(space, recipe)
    (node,) = build_graph(space).variants
    said = {"code": variant_spec(node).code_version}
    if earlier:
        said["why"] = dict(difference(plan, earlier.read_bytes("plan.json").decode()).reasons)
    try:
        built = api.build(space, recipe, **options)
    except MergeAssetsError as error:
        return said | {"error": str(error), "kind": error.kind, "versions": len(space.store.versions("variants/soft"))}
    return said | {
        "reused": built.reused,
        "confirmed": built.confirmed,
        "plan": built.plan.key,
        "tensors": sorted({tensor.key for tensor in built.plan.tensors}),
        "version": built.artifact.version,
        "methods": dict(built.artifact.manifest.described(VariantDetails).methods),
        "path": str(built.artifact.path),
    }

def built(site, **options):
    child = os.fork()
    if child == 0:
        try:
            print(json.dumps(build(site, **options)), flush=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0

site = Path("site")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        write_llama(tmp_path / name, layers=1, seed=number)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "soft.yaml").write_text(RECIPE)
    return tmp_path


def script(project: Path, steps: str) -> list[dict[str, Any]]:
    """What the builds of a script say, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD + steps],
        cwd=project,
        env=command_environment(project) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_its_version_is_told_without_torch(tmp_path: Path) -> None:
    install(tmp_path / "site")
    code = (
        "import sys; from merge_assets.methods import find_method; print(find_method('shifted').version);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=command_environment(tmp_path) | {"PYTHONPATH": f"{ROOT}:{tmp_path / 'site'}"},
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    assert done.stdout.startswith("1, shifted-method 1.0, source ")


@pytest.mark.slow
def test_a_changed_kernel_is_another_key_and_is_built_anew(project: Path) -> None:
    first, again, elsewhere, changed = script(
        project,
        """
built(install(site))
built(site)
shutil.copytree(site, "elsewhere", ignore=shutil.ignore_patterns("__pycache__"))
built("elsewhere")
built(install(site, share="0.75", version="1.1"))
""",
    )
    assert not first["reused"]
    assert again["reused"]
    assert elsewhere["reused"] and elsewhere["code"] == first["code"]
    assert not changed["reused"]
    assert changed["version"] != first["version"]
    assert set(changed["tensors"]).isdisjoint(first["tensors"])
    assert changed["plan"] != first["plan"] and changed["code"] != first["code"]
    assert list(changed["why"]) == ["version of the method"]
    assert changed["methods"]["shifted"].startswith("1, shifted-method 1.1, source ")
    a, b, merged = (read_tensors(folder) for folder in (project / "a", project / "b", Path(changed["path"])))
    for name, tensor in merged.items():
        assert tensor.equal((0.25 * a[name].double() + 0.75 * b[name].double()).to(tensor.dtype)), name


@pytest.mark.slow
def test_a_version_that_only_the_distribution_or_only_the_declaration_changes_counts(project: Path) -> None:
    said = script(
        project,
        """
built(install(site))
built(install(site, version="1.1"))
built(install(site, version="1.1", method=SHIFTED.replace("kernel=", 'version="2", kernel=')))
""",
    )
    assert len({one["plan"] for one in said}) == 3
    assert len({one["version"] for one in said}) == 1


@pytest.mark.thorough
@pytest.mark.slow
def test_source_of_the_same_size_and_second_is_not_run_as_the_earlier_bytecode(project: Path) -> None:
    """As Python itself would: it compares the size and the second of a file with those that its bytecode names."""
    first, second = script(
        project,
        """
built(install(site))
then = (site / "shifted" / "share.py").stat()
install(site, share="0.75")
os.utime(site / "shifted" / "share.py", ns=(then.st_atime_ns, then.st_mtime_ns))
built(site)
""",
    )
    assert not second["reused"]
    assert second["version"] != first["version"]


RANDOM = """
import random
from merge_assets.methods import Method
from merge_assets.methods.formula import Combination


def shifted(expression):
    share = random.random()
    return Combination([1 - share, share])


METHOD = Method(name="shifted", summary="Wherever chance leads.", parameters=(), kernel=shifted, needs_base=True, most=1)
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_computing_again_says_that_bytes_are_equal_or_what_is_wrong(project: Path) -> None:
    equal, damaged, by_chance, otherwise = script(
        project,
        f"""
built(install(site))
built(site, force=True)
file = next(Path("var/store/variants/soft").glob("*/model.safetensors"))
file.chmod(0o644)
raw = bytearray(file.read_bytes())
raw[-1] ^= 1
file.write_bytes(raw)
built(site, force=True)
install(site, method={RANDOM!r}, version="2.0")
built(site)
built(site, force=True)
""",
    )[1:]
    assert equal["confirmed"] and not equal["reused"]
    assert damaged["kind"] == "store.damaged"
    assert "the bytes that were written, but the stored ones are others by now" in damaged["error"]
    assert not by_chance["reused"]
    assert otherwise["kind"] == "engine.not-reproduced"
    assert "computing it again gives other bytes: " in otherwise["error"]
    assert "one of the methods shifted (1, shifted-method 2.0, source " in otherwise["error"]
    assert otherwise["versions"] == 2
