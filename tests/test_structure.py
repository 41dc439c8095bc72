"""The house: no two files import each other in a circle, and nobody but the factory knows what kinds of places there are."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "merge_assets"


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(body: list[ast.stmt], *, late: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run, with the file or, if ``late``, in functions too; not those for types alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(node.orelse, late=late)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ("body", "orelse", "finalbody"):
                yield from imports(getattr(node, inner, []), late=late)
            for handler in getattr(node, "handlers", []):
                yield from imports(handler.body, late=late)


def imported(file: Path, *, late: bool) -> set[str]:
    """The project's files that a file imports."""
    found: set[str] = set()
    for node in imports(ast.parse(file.read_text()).body, late=late):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        else:
            inside = {f"{node.module}.{name.name}" for name in node.names}
            found |= (inside & FILES.keys()) | ({str(node.module)} if inside - FILES.keys() else set())
    return found & FILES.keys()


def circles(graph: Mapping[str, set[str]]) -> set[str]:
    """Everybody who is reached from themselves."""
    found = set()
    for start in graph:
        reached, ahead = set[str](), list(graph[start])
        while ahead:
            one = ahead.pop()
            if one not in reached:
                reached.add(one)
                ahead += graph[one]
        if start in reached:
            found.add(start)
    return found


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, {"b", "c"}),
        ({"a": {"a"}, "b": {"a"}}, {"a"}),
    ],
)
def test_a_circle_is_seen(graph: dict[str, set[str]], expected: set[str]) -> None:
    assert circles(graph) == expected


def test_imports_of_all_kinds_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "import merge_assets.errors\n"
        "from merge_assets.store import sealed, Artifact\n"
        "if TYPE_CHECKING:\n    import merge_assets.identity\nelse:\n    import merge_assets.regular\n"
        "try:\n    import merge_assets.extras\nexcept ImportError:\n    import merge_assets.work\n"
        "class C:\n    def f(self):\n        with x:\n            from merge_assets.reference import y\n"
    )
    at_once = {"errors", "store.sealed", "store", "regular", "extras", "work"}
    assert imported(file, late=False) == {f"merge_assets.{name}" for name in at_once}
    assert imported(file, late=True) == {f"merge_assets.{name}" for name in {*at_once, "reference"}}


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({module: imported(file, late=False) for module, file in FILES.items()}) == set()


@pytest.mark.parametrize("room", ["store", "evaluation"])
def test_nor_do_those_of_some_rooms_within_functions(room: str) -> None:
    found = circles({module: imported(file, late=True) for module, file in FILES.items()})
    assert not {one for one in found if one.startswith(f"merge_assets.{room}")}


PLACES = "merge_assets.store.place"
CONCRETE = {f"{PLACES}.local", f"{PLACES}.fsspec", f"{PLACES}.s3"}


def test_the_factory_alone_names_concrete_places() -> None:
    """A place may be made of another one."""
    knowing = {module for module, file in FILES.items() if imported(file, late=True) & CONCRETE}
    assert knowing - CONCRETE == {f"{PLACES}.factory"}


def test_the_store_alone_asks_the_factory() -> None:
    asking = {module for module, file in FILES.items() if f"{PLACES}.factory" in imported(file, late=True)}
    assert asking == {"merge_assets.store.store"}


def test_places_know_nothing_of_what_is_kept_in_them() -> None:
    inside = {module: file for module, file in FILES.items() if module.startswith(PLACES)}
    above = {
        f"{module} imports {other}"
        for module, file in inside.items()
        for other in imported(file, late=True)
        if other.startswith("merge_assets.store") and not other.startswith(PLACES)
    }
    assert above == set()
