"""Contract: what an evaluation would fail of is told from files, before a model is loaded or merged."""

from __future__ import annotations

import gzip
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from merge_assets.errors import SuiteError
from merge_assets.evaluation import task_index
from merge_assets.evaluation.declared import METRICS_OF_OUTPUT, Declared, missing_modules
from merge_assets.evaluation.preflight import Finding, failing, look_over
from merge_assets.evaluation.suite import load_suite
from merge_assets.evaluation.task_index import index_file, known_names, names_made, packed, plain
from merge_assets.model_worker import Limits
from tests.evaluation_support import write_suite

ARC = Declared("task", "arc/arc.yaml", metrics=("acc", "acc_norm"), data="allenai/ai2_arc")
GSM = Declared("task", "gsm8k/gsm8k.yaml", metrics=("exact_match",), filters=("strict-match", "flexible-extract"))
NAMES = {
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "ai2_arc": Declared("tag", members=("arc_challenge", "arc_easy")),
    "gsm8k": GSM,
    "both": Declared("group", "both.yaml", ("ai2_arc",), metrics=("acc",)),
    "apart": Declared("group", "apart.yaml", ("ai2_arc", "gsm8k"), metrics=()),
    "coded": Declared("task", "coded.yaml", metrics=("strict_acc",), is_open=True),
    "humaneval": Declared("task", "humaneval/humaneval.yaml", unsafe=True, filters=("create_test",)),
    "programs": Declared("group", "programs.yaml", ("humaneval",), metrics=("pass",)),
    "classy": Declared("class", "classy.yaml"),
}


def found(folder: Path, *tasks: str, more: str = "", own: bool = False) -> list[Finding]:
    """What is seen of a suite of tasks, each as ``name metric``."""
    write_suite(folder)
    rows = "".join(
        f"  - {{task: {task}, metric: '{metric}', headline: false}}\n" for task, metric in (t.split() for t in tasks)
    )
    path = folder / "some.yaml"
    path.write_text(f"{'include_path: tasks' if own else ''}\n{more}\ntasks:\n{rows}")
    return look_over(load_suite(path), NAMES)


@pytest.mark.parametrize(
    "task",
    [
        "arc_easy acc_norm",
        "arc_easy acc,none",
        "gsm8k exact_match,strict-match",
        "both acc",
        "classy anything",
        "tiny_perplexity byte_perplexity",
        "tiny_generate exact_match",
        "tiny_group acc",
        "gsm8k tokens_per_answer",
        "tiny_generate tokens_per_answer",
        "tiny_perplexity perplexity",
    ],
)
def test_of_what_is_right_nothing_is_said(tmp_path: Path, task: str) -> None:
    assert found(tmp_path, task, own=True) == []


@pytest.mark.parametrize(
    ("task", "kind", "says"),
    [
        ("arc_eazy acc", "task", "tasks[0].task: no task 'arc_eazy' in lm-eval, did you mean 'arc_easy'?"),
        (
            "arc_easy acc_nrom",
            "metric",
            "has no single metric 'acc_nrom' (it has: acc, acc_norm), did you mean 'acc_norm'?",
        ),
        ("gsm8k exact_match", "metric", "it has: exact_match,flexible-extract, exact_match,strict-match"),
        ("gsm8k exact_match,strict", "metric", "did you mean 'exact_match,strict-match'?"),
        ("arc_easy perplexity", "metric", "has no single metric 'perplexity' (it has: acc, acc_norm)"),
        ("both acc_norm", "metric", "tasks[0].metric: both has no single metric 'acc_norm' (it has: acc)"),
        ("apart acc", "metric", "apart is a group of 3 tasks without a value; list its tasks instead"),
        ("ai2_arc acc", "metric", "ai2_arc is a tag of 2 tasks without a value; list its tasks instead"),
        ("humaneval pass@1", "code", "humaneval runs programs that the model writes; set unsafe_code: true"),
        ("programs pass", "code", "tasks[0].task: humaneval runs programs"),
    ],
)
def test_what_is_wrong_is_named_with_file_key_value_and_what_to_do(
    tmp_path: Path, task: str, kind: str, says: str
) -> None:
    (one,) = found(tmp_path, task)
    assert (one.kind, one.fails) == (kind, True)
    assert one.text.startswith(f"{tmp_path / 'some.yaml'}: tasks[0].")
    assert says in one.text


def test_programs_may_run_where_the_suite_says_so(tmp_path: Path) -> None:
    assert found(tmp_path, "humaneval pass@1", more="unsafe_code: true") == []


def test_metrics_that_code_may_give_are_no_error(tmp_path: Path) -> None:
    (one,) = found(tmp_path, "coded strict_ac")
    assert not one.fails and "did you mean 'strict_acc'?" in one.text and "its code may give others" in one.text


def test_own_files_are_read_as_lm_eval_reads_them(tmp_path: Path) -> None:
    (one,) = found(tmp_path, "tiny_choice accc", own=True)
    assert "tiny_choice has no single metric 'accc' (it has: acc, acc_norm), did you mean 'acc'?" in one.text


def test_tasks_of_lm_eval_that_were_never_listed_are_said_to_be_unseen(tmp_path: Path) -> None:
    write_suite(tmp_path)
    (tmp_path / "some.yaml").write_text("tasks: [{task: arc_eazy, metric: acc}]")
    (one,) = look_over(load_suite(tmp_path / "some.yaml"), None)
    assert not one.fails and "arc_eazy would be of lm-eval itself" in one.text and "plan --check" in one.text


class Hidden:
    """A finder for which modules are not there."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in self._names:
            raise ModuleNotFoundError(name=name)
        return None


def test_packages_that_code_of_tasks_imports_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_suite(tmp_path)
    data = tmp_path / "tasks" / "data.py"
    data.write_text(data.read_text() + "import no_such_one\nfrom langdetect import detect\n")
    monkeypatch.setattr(sys, "meta_path", [Hidden("langdetect"), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "langdetect", raising=False)
    told = [one.text for one in found_in(tmp_path)]
    assert len(told) == 2
    assert (
        "tasks[0].task: tiny_choice: this needs no_such_one, which is not installed: pip install no_such_one" in told[0]
    )
    assert "this needs langdetect, which is not installed: pip install 'merge-assets[leaderboards]'" in told[1]


def found_in(folder: Path) -> list[Finding]:
    (folder / "some.yaml").write_text("include_path: tasks\ntasks: [{task: tiny_choice, metric: acc}]")
    return look_over(load_suite(folder / "some.yaml"), {})


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("import zzz", ["zzz"]),
        ("import zzz.inner as z, json", ["zzz"]),
        ("from zzz.inner import thing", ["zzz"]),
        ("def f():\n    import zzz", []),
        ("try:\n    import zzz\nexcept ImportError:\n    zzz = None", []),
        ("try:\n    import zzz\nexcept ImportError as error:\n    raise ValueError from error", ["zzz"]),
        ("import beside", ["zzz_of_beside"]),
        ("from . import beside", ["zzz_of_beside"]),
        ("from .beside import x", ["zzz_of_beside"]),
        ("def (", []),
    ],
)
def test_imports_that_run_are_told_and_nothing_is_executed(tmp_path: Path, code: str, missing: list[str]) -> None:
    (tmp_path / "beside.py").write_text("import zzz_of_beside\nraise SystemExit\n")
    (tmp_path / "utils.py").write_text(code)
    assert missing_modules([tmp_path / "utils.py"]) == missing


def test_a_suite_is_refused_with_all_reasons_and_says_nothing_of_others(tmp_path: Path) -> None:
    findings = {
        "bad": [Finding("task", "a"), Finding("package", "b"), Finding("data", "c", fails=False)],
        "packages": [Finding("package", "d")],
        "good": [Finding("data", "e", fails=False)],
    }
    refused = failing(findings)
    assert {name: str(error) for name, error in refused.items()} == {"bad": "a; b", "packages": "d"}
    assert all(isinstance(error, SuiteError) for error in refused.values())
    assert {name: str(error) for name, error in failing(findings, of_suite=True).items()} == {"bad": "a"}


@pytest.fixture
def unshipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a version of lm-eval of which the names do not come with this project."""
    monkeypatch.setattr(task_index, "_FORMAT", "of a test")


@pytest.mark.usefixtures("unshipped")
def test_names_are_kept_by_the_version_of_lm_eval_and_damage_is_seen(tmp_path: Path) -> None:
    assert known_names(tmp_path) is None
    file = index_file(tmp_path)
    whole = packed({name: plain(one) for name, one in NAMES.items()})
    file.write_bytes(whole)
    assert known_names(tmp_path) == NAMES
    changed = gzip.decompress(whole).replace(b"arc_easy", b"arc_eazy")
    for damaged in (gzip.compress(changed), whole[:-9], changed, b""):
        file.write_bytes(damaged)
        assert known_names(tmp_path) is None


def test_the_names_of_the_version_that_is_tested_come_with_the_project(tmp_path: Path) -> None:
    assert not index_file(tmp_path).is_relative_to(tmp_path)
    names = known_names(tmp_path)
    assert names is not None and names["humaneval"].unsafe and names["mbpp"].unsafe and not names["gsm8k"].unsafe


def test_looking_imports_neither_torch_nor_lm_eval(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom merge_assets.evaluation.preflight import look_over\n"
        f"from merge_assets.evaluation.suite import load_suite\nassert look_over(load_suite(Path({str(path)!r})), {{}}) == []\n"
        "print([name for name in ('torch', 'lm_eval', 'transformers', 'datasets') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.slow
def test_what_comes_with_the_project_is_what_is_read_anew_and_what_lm_eval_itself_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY
    from lm_eval.tasks import TaskManager

    from merge_assets.evaluation.indexing import manager_of

    shipped = index_file(tmp_path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(task_index, "_FORMAT", "of a test")
        names = names_made(tmp_path, Limits())
        assert index_file(tmp_path).read_bytes() == shipped, "run python -m tests.tables"
    real = TaskManager().task_index
    suite = load_suite(write_suite(tmp_path))
    ours = manager_of(suite, str(index_file(tmp_path)), defaults=True, metadata={}).task_index
    assert {"tiny_choice", "tiny_group"} <= ours.keys()
    assert {name: (e.kind, e.yaml_path) for name, e in ours.items() if name in real} == {
        name: (entry.kind, entry.yaml_path) for name, entry in real.items()
    }
    assert all(ours[name].tags == entry.tags for name, entry in real.items() if entry.kind.name == "TAG")
    assert {kind: tuple(metrics) for kind, metrics in DEFAULT_METRIC_REGISTRY.items()} == METRICS_OF_OUTPUT
    shipped = {path.stem: load_suite(path) for path in (Path(__file__).parents[2] / "suites").glob("*.yaml")}
    assert len(shipped) == 5
    assert all(look_over(suite, names) == [] for suite in shipped.values())
    monkeypatch.setattr(sys, "meta_path", [Hidden("langdetect"), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "langdetect", raising=False)
    (one,) = look_over(shipped["open-llm-leaderboard-v2"], names)
    assert "tasks[0].task: leaderboard_ifeval, tasks[1].task: leaderboard_ifeval: this needs langdetect" in one.text
