"""The page of methods is current, and its example of a plugin is a package that works when it is installed as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from merge_assets.methods import methods
from tests.commands import run_command
from tests.methods.page import PAGE, render
from tests.synthetic import read_tensors, write_llama

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / PAGE).read_text("utf-8")


def test_the_page_of_methods_is_current(page: str) -> None:
    assert render(page) == page, "run python -m tests.methods.page"


def test_the_page_of_methods_has_every_method_with_every_parameter(page: str) -> None:
    table = page.partition("<!-- methods -->")[2].partition("<!-- end of methods -->")[0]
    rows = {row[1]: row[0] for row in re.findall(r"^(\| `(\w+)` \| .*)$", table, re.MULTILINE)}
    assert set(rows) == set(methods())
    for name, method in methods().items():
        for parameter in method.parameters:
            assert f"`{parameter.name}`" in rows[name].split(" | ")[3], (name, parameter.name)


def test_the_page_says_what_every_parameter_of_every_method_means(page: str) -> None:
    table = page.partition("<!-- parameters -->")[2].partition("<!-- end of parameters -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*) \|$", table, re.MULTILINE)
    for name, method in methods().items():
        for parameter in method.parameters:
            meanings = [meaning for key, meaning, of in rows if key == parameter.name and f"`{name}`" in of]
            assert len(meanings) == 1 and meanings[0], (name, parameter.name)


@pytest.fixture(scope="module")
def installed(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the package of the page."""
    source, target = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("site")
    files = re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in files} == {"pyproject.toml", "soft_clip.py"}
    for name, text in files:
        (source / name).write_text(text)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "a", "b")):
        write_llama(tmp_path / name, layers=1, seed=number)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "soft.yaml").write_text(
        f"merge_method: soft_clip\nbase_model: {tmp_path}/base\ndtype: float32\n"
        f"models:\n  - {{model: {tmp_path}/a, parameters: {{weight: 0.5}}}}\n  - model: {tmp_path}/b\n"
        "parameters: {size: [{filter: mlp, value: 0.25}, {value: 1.5}]}\n"
    )
    return tmp_path


def test_a_recipe_can_use_an_installed_method(installed: Path, project: Path) -> None:
    done = run_command("merge", "soft", "out", root=project, environment={"PYTHONPATH": str(installed)})
    assert done.code == 0, done.stderr
    inputs = {
        name: {key: tensor.double().numpy() for key, tensor in read_tensors(project / name).items()}
        for name in ("base", "a", "b")
    }
    for name, tensor in read_tensors(project / "out").items():
        b, size = inputs["base"][name], 0.25 if "mlp" in name else 1.5
        bent = {model: size * np.tanh((inputs[model][name] - b) / size) for model in "ab"}
        np.testing.assert_allclose(tensor.double().numpy(), b + 0.5 * bent["a"] + bent["b"], rtol=1e-6, atol=1e-7)


def test_its_parameters_are_checked_from_headers(installed: Path, project: Path) -> None:
    recipe = project / "recipes" / "soft.yaml"
    recipe.write_text(recipe.read_text().replace("size:", "sise:"))
    done = run_command("plan", "soft", root=project, environment={"PYTHONPATH": str(installed)})
    assert done.code != 0
    assert "sise" in done.stderr and "did you mean 'size'" in done.stderr


def test_without_the_package_the_method_is_unknown(project: Path) -> None:
    done = run_command("plan", "soft", root=project)
    assert done.code != 0
    assert "unknown method 'soft_clip'" in done.stderr
