"""Contract of pyproject.toml: what is imported is declared, what is declared is used, and every package has a lower bound."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWNERS = packages_distributions()
OURS = {"merge_assets", "definitions", "tests", "benchmarks", "examples", "prepare_texts"}

ROOMS = {
    "engine": ["engine"],
    "variant": ["engine"],
    "methods/expression.py": ["engine"],  # types alone
    "analysis": ["engine", "analysis"],
    "evaluation": ["engine", "evaluation", "leaderboards"],
    "pipeline/executor.py": ["deploy"],
    "pipeline/postgres.py": ["deploy"],
    "pipeline/front": ["ui"],
    "search": ["search"],
    "store": ["s3"],
}
"""Extras that a part of the package may import from, beside what is always installed."""

USED_OTHERWISE = {
    "cmaes": "Optuna's sampler of that name",
    "accelerate": "transformers' device_map, which the check of a merged model uses",
    "s3fs": "fsspec opens s3:// with it",
    "immutabledict": "lm-eval's IFEval imports it",
    "langdetect": "lm-eval's IFEval imports it",
    "math-verify": "lm-eval's MATH imports it",
    "setuptools": "lm-eval's IFEval imports its pkg_resources",
    "check-jsonschema": "a test runs it",
    "import-linter": "make lint",
    "mypy": "make lint",
    "ruff": "make lint",
    "pandas-stubs": "types for mypy",
    "types-pyyaml": "types for mypy",
    "pytest-timeout": "the option `timeout` of pytest",
    "pytest-xdist": "make test runs tests side by side",
    "importlib-resources": "kubernetes-validate imports it and does not declare it",
}
"""Packages that are declared and that nothing of ours imports by name."""


COMES_WITH = {
    "dagster-shared": "dagster",
    "pydantic-core": "pydantic",
    "botocore": "boto3",
    "kubernetes": "dagster-k8s",
    "markdown-it-py": "rich",
    "tqdm": "huggingface-hub",
}
"""Packages that another one pins and stands for."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """Distributions of a list of requirements, those of extras of our own left out."""
    found = {plain(re.match(r"[\w.-]+", text)[0]) for text in requirements}  # type: ignore[index]
    return found - {"merge-assets"}


def imported(*files: Path) -> set[tuple[str, str]]:
    """Distribution and file of every import of something that is neither Python's nor ours."""
    return {(name, str(file.relative_to(ROOT))) for file in files for name in imports(file)}


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Distributions that one file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        for module in {module.partition(".")[0] for module in modules}:
            if module not in sys.stdlib_module_names and module not in OURS:
                name = plain(OWNERS.get(module, [module])[0])
                found.add(COMES_WITH.get(name, name))
    return frozenset(found)


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


PRODUCT = [*sources("merge_assets"), ROOT / "definitions.py"]


def test_a_file_of_the_package_imports_what_its_room_declares() -> None:
    undeclared = set()
    for name, file in imported(*PRODUCT):
        extras = [extra for room, own in ROOMS.items() if file.startswith(f"merge_assets/{room}") for extra in own]
        if name not in names(PROJECT["dependencies"] + [text for extra in extras for text in EXTRAS[extra]]):
            undeclared.add((name, file))
    assert undeclared == set()


def test_what_is_imported_anywhere_is_declared() -> None:
    every = names(PROJECT["dependencies"]) | {name for extra in EXTRAS.values() for name in names(extra)}
    undeclared = {
        (name, file)
        for name, file in imported(*PRODUCT, *sources("tests", "benchmarks", "examples"))
        if name not in every | {"atheris"}  # which `make fuzz` installs
    }
    assert undeclared == set()


def test_what_is_declared_is_used() -> None:
    used = {name for name, _ in imported(*PRODUCT)}
    tried = {name for name, _ in imported(*sources("tests", "benchmarks", "examples"))}
    tried |= {plain(name) for name in re.findall(r'needs\.module\("(\w+)', _texts("tests"))}
    product = names(PROJECT["dependencies"]) | {
        name for extra, requirements in EXTRAS.items() if extra not in ("dev", "all") for name in names(requirements)
    }
    assert product - used - USED_OTHERWISE.keys() == set()
    assert names(EXTRAS["dev"]) - tried - used - USED_OTHERWISE.keys() == set()


def test_what_is_used_otherwise_is_declared_and_not_imported_by_the_package() -> None:
    every = names(PROJECT["dependencies"]) | {name for extra in EXTRAS.values() for name in names(extra)}
    assert USED_OTHERWISE.keys() - every == set()
    assert USED_OTHERWISE.keys() & {name for name, _ in imported(*PRODUCT)} == set()


def test_every_package_that_runs_with_us_has_a_lower_bound() -> None:
    requirements = [*PROJECT["dependencies"]]
    requirements += [text for extra, texts in EXTRAS.items() if extra != "dev" for text in texts]
    without = [text for text in requirements if ">=" not in text and not text.startswith("merge-assets[")]
    assert without == []


def test_the_tested_set_is_within_the_bounds() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pins = {plain(name): version for name, version in pins.items()}
    for text in [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]:
        name = plain(re.match(r"[\w.-]+", text)[0])  # type: ignore[index]
        for lower in re.findall(r">=([\d.]+)", text):
            assert _numbers(pins[name]) >= _numbers(lower), text


def test_types_are_shipped() -> None:
    assert (ROOT / "merge_assets" / "py.typed").is_file()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "py.typed" in tools["setuptools"]["package-data"]["merge_assets"]


def _texts(folder: str) -> str:
    return "\n".join(file.read_text() for file in sources(folder))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
