"""A merge method is one file: put beside the others it is found, declared and computed, and planning it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from merge_assets.methods import built_in, methods
from merge_assets.methods.registry import built_in_methods
from tests.method_support import Case, merge_arrays
from tests.methods.page import method_table
from tests.synthetic import write_llama

ROOT = Path(__file__).parents[2]

BETWEEN = '''
"""between: a point on the way from the base to the other input."""

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.formula import Combination


def between(expression):
    share = expression.parameters["share"]
    return Combination([1 - share, share])


METHOD = Method(
    name="between",
    summary="A point on the way.",
    parameters=(Parameter("share", default=0.25, at_most=1.0),),
    kernel=between,
    needs_base=True,
    most=1,
)
'''


@pytest.fixture
def one_more_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file among those of the methods."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "between.py").write_text(BETWEEN)
    monkeypatch.setattr(built_in, "__path__", [*built_in.__path__, str(folder)])
    built_in_methods.cache_clear()
    methods.cache_clear()
    yield
    built_in_methods.cache_clear()
    methods.cache_clear()
    sys.modules.pop(f"{built_in.__name__}.between")


def test_a_file_is_called_as_its_method_is() -> None:
    folder = Path(str(built_in.__file__)).parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    assert {method.kernel.__module__.rpartition(".")[2] for method in built_in_methods().values()} == files
    assert set(built_in_methods()) == files


def test_a_file_put_beside_the_others_is_a_method(one_more_file: None, tmp_path: Path) -> None:
    models = {"a": {"x": np.zeros(3)}, "b": {"x": np.ones(3)}}
    result = merge_arrays(Case("between", "b", base="a"), models, tmp_path)
    assert result["x"].tolist() == [0.25, 0.25, 0.25]
    assert "| `between` | A point on the way. | 1 and a base | `share`: `0.25` |" in method_table()


PROGRAM = """
import sys
from pathlib import Path
from merge_assets import api
from merge_assets.plan.describe import peak_memory_estimate
from merge_assets.plan.layer_map import layer_map
from merge_assets.plan.parameter_table import parameter_table
from merge_assets.settings import Settings

workspace = api.Workspace.open(Settings(root=Path.cwd()))
for name in workspace.book.recipes:
    plan = api.plan(workspace, workspace.recipe(name))
    print(plan.method, bool(layer_map(plan)), len(parameter_table(plan)), peak_memory_estimate(plan, 0) > 0)
    assert not {"torch", "transformers"} & set(sys.modules), name
"""


def test_no_plan_needs_torch(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "a", "b")):
        write_llama(tmp_path / name, 1, seed=number)
    (tmp_path / "recipes").mkdir()
    for name, method in methods().items():
        models = [f"{{model: {tmp_path}/{model}}}" for model in "ab"[: min(method.most or 2, 2)]]
        base = f"base_model: {tmp_path}/base\n" if method.has_base else ""
        given = ", ".join(f"{p.name}: 0.5" for p in method.parameters if p.required)
        (tmp_path / "recipes" / f"{name}.yaml").write_text(
            f"merge_method: {name}\n{base}models: [{', '.join(models)}]\nparameters: {{{given}}}\n"
        )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(methods())
