"""Contract of mutation testing: each mutant is one small change, always the same are drawn, and the right tests run."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.mutants import run
from tests.mutants.generate import Mutant, draw, mutants
from tests.mutants.run import EXPLAINED, FILES, ROOT, TESTS, Measured, table

HEAD = "def f(a, b):\n    "


def changes(statement: str) -> set[str]:
    """What the statement of a function is changed to."""
    text = f"{HEAD}{statement}\n"
    return {mutant.apply(text).removeprefix(HEAD).rstrip("\n") for mutant in mutants("m.py", text)}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("a = b < 2", {"a = b <= 2", "a = b >= 2", "a = b < 3"}),
        ("return a", {"return None"}),
        ("return None", set()),
        ("a.b(c)", {"pass"}),
        ("a = a and b", {"a = (a or b)"}),
        ("a = b + c * d", {"a = (b - c * d)", "a = b + (c // d)"}),
        ("a = not b", {"a = (b)"}),
        ("a = min(b, c)", {"a = max(b, c)"}),
        ("a = sorted(b, key=c)", {"a = list(b)", "a = sorted(b)"}),
        ("a = b(c, d=e)", {"a = b(c)"}),
        ("a = [c for c in b if c]", {"a = [c for c in b if True]"}),
        ("a = 'ä', True", {"a = 'äXX', True", "a = 'ä', False"}),
        ("a = b if c else d", {"a = b if not (c) else d"}),
        ("raise ValueError(1 + 2)", {"pass"}),
        ("self.fail(1 + 2)", {"pass"}),
    ],
)
def test_a_statement_has_these_mutants(statement: str, expected: set[str]) -> None:
    assert changes(statement) == expected


@pytest.mark.parametrize(
    "statement",
    ["assert a < b", "a: dict[str, 'int']", "'words'", "from b import c", "a = f'{b + c}'", "import a"],
)
def test_what_says_nothing_about_behaviour_has_none(statement: str) -> None:
    assert changes(statement) == set()


@pytest.mark.slow
def test_every_mutant_of_the_project_is_another_program_with_a_name_of_its_own() -> None:
    for file in FILES:
        text = (ROOT / file).read_text()
        found = mutants(file, text)
        assert len(found) > 50
        assert len({mutant.name for mutant in found}) == len(found)
        original = ast.dump(ast.parse(text))
        assert all(ast.dump(ast.parse(mutant.apply(text))) != original for mutant in found[::7])


def test_the_same_mutants_are_drawn_whatever_else_changes() -> None:
    before = mutants("m.py", "def f(a):\n    return a + 1\n\n\ndef g(a):\n    return a - 1, a * 2, a < 3\n")
    after = mutants("m.py", "def f(a):\n    return [a]\n\n\ndef g(a):\n    return a - 1, a * 2, a < 3\n")
    kept = {mutant.name for mutant in draw(before, 4, "seed") if " g: " in mutant.name}
    assert kept and kept <= {mutant.name for mutant in draw(after, 4, "seed")}
    assert draw(before, 4, "seed") != draw(before, 4, "another")


def answer(**changes: object) -> dict[str, object]:
    lines = {"m.py": {"1": ["tests/a.py"], "2": ["tests/a.py::one", "tests/b.py::two"]}}
    seconds = {"tests/a.py::one": 3.0, "tests/a.py::other": 1.0, "tests/b.py::two": 0.5}
    return {"failed": "", "seconds": seconds, "lines": lines} | changes


def at(first: int, last: int) -> Mutant:
    return Mutant("m.py", "", 0, 0, "", "", 1, (first, last))


def test_a_mutant_is_checked_by_the_tests_that_run_its_lines_the_cheapest_files_first() -> None:
    measured = Measured([answer()])
    assert measured.tests(at(2, 2)) == {"tests/b.py": ["tests/b.py::two"], "tests/a.py": ["tests/a.py::one"]}
    assert list(measured.tests(at(2, 2))) == ["tests/b.py", "tests/a.py"]
    assert measured.tests(at(3, 3)) == {}


def test_what_tests_may_take_is_bound_file_by_file() -> None:
    measured = Measured([answer()])
    assert measured.bounds(measured.tests(at(2, 2))) == {"tests/a.py": 30 + 5 * 3, "tests/b.py": 30 + 2}


def test_lines_that_a_fixture_or_an_import_runs_are_checked_by_the_whole_file() -> None:
    assert Measured([answer()]).tests(at(1, 1)) == {"tests/a.py": ["tests/a.py::one", "tests/a.py::other"]}


@pytest.mark.parametrize("wrong", [{"failed": "tests/a.py::one"}, {"ended": True}])
def test_tests_that_fail_without_a_mutant_say_nothing_about_one(wrong: dict[str, object]) -> None:
    with pytest.raises(SystemExit, match="without any mutant"):
        Measured([answer(**wrong)])


def test_a_worker_that_ends_by_itself_ends_the_run() -> None:
    class Gone(run.Worker):
        def __init__(self) -> None:
            pass

        def ask(self, *request: object) -> dict[str, object]:
            raise EOFError

    with pytest.raises(EOFError):
        run.run([at(1, 1)], [Gone()])


def test_the_table_counts_by_module() -> None:
    one, other = (Mutant(FILES[2], "f", 0, 1, "a", str(number), 1, (1, 1)) for number in range(2))
    lines = table({one: "killed", other: "survived"}).splitlines()
    assert lines[0] == "| module | drawn | killed | ended | explained | survived |"
    assert "| store/cutting | 2 | 1 | 0 | 0 | 1 |" in lines
    assert lines[-1] == "| all | 2 | 1 | 0 | 0 | 1 |"


def test_every_explanation_is_of_a_mutant_that_is_drawn() -> None:
    every = [mutant for file in FILES for mutant in mutants(file, (ROOT / file).read_text())]
    names = {mutant.name for mutant in draw(every, run.COUNT, run.SEED)}
    entries = yaml.safe_load(EXPLAINED.read_text())
    assert [entry["mutant"] for entry in entries if entry["mutant"] not in names] == []
    assert all(len(entry["why"]) > 20 for entry in entries)


def test_the_chosen_files_of_tests_are_there() -> None:
    assert [name for name in TESTS if not (ROOT / name).is_file()] == []


PRODUCT = """\
LIMIT = 1


def down(number):
    while number > 0:
        number -= 1
    return number


def unused():
    return 1
"""
CHECKED = """\
from product import down


def test_down():
    assert down(3) == 0
"""
ALSO_CHECKED = """\
from product import LIMIT


def test_limit():
    assert LIMIT == 1
"""


@pytest.mark.slow
def test_mutants_are_killed_ended_explained_or_said_with_their_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "tests" / "mutants", tmp_path / "tests" / "mutants")
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "product.py").write_text(PRODUCT)
    (tmp_path / "tests" / "test_product.py").write_text(CHECKED)
    (tmp_path / "tests" / "test_limit.py").write_text(ALSO_CHECKED)
    (tmp_path / "explained.yaml").write_text("[{mutant: 'product.py unused: 1 -> 2', why: nobody calls it}]")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "FILES", ("product.py",))
    monkeypatch.setattr(run, "TESTS", ("tests/test_product.py", "tests/test_limit.py"))
    monkeypatch.setattr(run, "REPORT", tmp_path / "var")
    monkeypatch.setattr(run, "EXPLAINED", tmp_path / "explained.yaml")
    monkeypatch.setattr(run, "PATIENCE", 10)
    assert run.main(["--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert "product.py module: 1 -> 2 [tests/test_limit.py::test_limit]" in said
    assert "killed" in said and "product.py down: number > 0 -> number <= 0 [tests/test_product.py::test_down]" in said
    assert (tmp_path / "var" / "table.md").read_text().splitlines()[-1] == "| all | 9 | 6 | 1 | 1 | 1 |"
    survivors = (tmp_path / "var" / "survivors.txt").read_text()
    assert "-    return 1\n+    return None\n" in survivors and "number" not in survivors
