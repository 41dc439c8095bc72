"""The house: no two files import each other in a circle, and nobody but the factory knows what kinds of places there are."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "merge_assets"


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
        "from merge_assets.store import draft, Artifact\n"
        "if TYPE_CHECKING:\n    import merge_assets.identity\nelse:\n    import merge_assets.regular\n"
        "try:\n    import merge_assets.extras\nexcept ImportError:\n    import merge_assets.work\n"
        "class C:\n    def f(self):\n        with x:\n            from merge_assets.reference import y\n"
    )
    at_once = {"errors", "store.draft", "store", "regular", "extras", "work"}
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
    assert asking == {"merge_assets.store.store", "merge_assets.store.foreign"}


def test_places_know_nothing_of_what_is_kept_in_them() -> None:
    inside = {module: file for module, file in FILES.items() if module.startswith(PLACES)}
    above = {
        f"{module} imports {other}"
        for module, file in inside.items()
        for other in imported(file, late=True)
        if other.startswith("merge_assets.store") and not other.startswith(PLACES)
    }
    assert above == set()


LINE = re.compile(r"(?P<indent> *)(?P<name>[\w.]+/?) {2,}\S.*")


def tree_in_the_docs() -> set[str]:
    """Paths of the tree in docs/architecture.md; each has a word on what it is for."""
    _, _, rest = (ROOT / "docs/architecture.md").read_text().partition("## The tree")
    found, above = set(), [""]
    for line in rest.split("```")[1].strip().splitlines():
        match = LINE.fullmatch(f"{line}  -" if line.strip() == "merge_assets/" else line)
        assert match, line
        depth = len(match["indent"]) // 4
        above[depth + 1 :] = [f"{above[depth]}{match['name']}"]
        found.add(above[-1])
    return found


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines() if (ROOT / line).exists()]


def rooms() -> set[str]:
    """Folders of the package with code."""
    of_package = [file for file in tracked() if file.parts[0] == "merge_assets" and len(file.parts) > 2]
    return {file.parts[1] for file in of_package if file.suffix == ".py"}


def test_the_tree_in_the_docs_is_the_real_one() -> None:
    files = tracked()
    folders = {f"{parent.as_posix()}/" for file in files for parent in file.parents if parent != Path()}
    shown = {path for path in folders if path.count("/") == 1 or path.startswith("merge_assets/")} - {".ci/"}
    shown |= {
        f"tests/{name}/"
        for name in {file.parts[1] for file in files if file.parts[0] == "tests" and len(file.parts) > 2}
    }
    shown -= {f"tests/{room}/" for room in (*rooms(), "yamlfile")}
    shown |= {
        f"merge_assets/{file.name}"
        for file in files
        if file.parent == Path("merge_assets") and file.suffix == ".py" and file.name[0] != "_"
    }
    assert tree_in_the_docs() == shown | {"definitions.py"}


def test_tests_lie_in_the_room_that_they_are_of() -> None:
    """A folder of tests is called as a room, or as a module that is one by itself; the rest is of the whole, or support."""
    holding = {
        file.parts[1]
        for file in tracked()
        if file.parts[0] == "tests" and len(file.parts) > 2 and file.name[:5] == "test_"
    }
    modules = {file.stem for file in PACKAGE.glob("*.py")}
    assert holding - rooms() - modules == {"s3"}  # the server's own
    assert rooms() - holding == set()


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_a_file_has_one_idea(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


def test_a_name_means_one_thing() -> None:
    """No two public classes of the package are called alike."""
    named: dict[str, list[str]] = {}
    for module, file in FILES.items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                named.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in named.items() if len(modules) > 1} == {}
