"""Contract: a suite file is read strictly, errors say file and key, and the digest covers all that sets scores."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.suite import load_suite, load_suites
from merge_assets.evaluation.tasks import TaskFolder
from tests.evaluation_support import write_suite


def write(folder: Path, text: str, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_defaults_of_a_minimal_suite(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, "tasks: [{task: hellaswag, metric: acc_norm}]\n", "short.yaml"))
    assert (suite.name, suite.description, suite.seed, suite.batch_size) == ("short", "", 1234, None)
    entry = suite.tasks[0]
    assert (entry.shots, entry.limit, entry.higher_is_better, entry.headline) == (None, None, None, None)
    assert not suite.is_local


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("tasks: [{task: a, metrics: acc}]", "tasks[0].metrics", "did you mean 'metric'?"),
        ("tasks: [{task: a, metric: acc, shots: many}]", "tasks[0].shots", "many"),
        ('tasks: [{task: a, metric: acc, shots: "5"}]', "tasks[0].shots", "'5'"),
        ("tasks: [{task: a, metric: acc, shots: true}]", "tasks[0].shots", "True"),
        ("tasks: [{task: a, metric: acc, shots: -1}]", "tasks[0].shots", "-1"),
        ("tasks: [{task: a, metric: acc, limit: 1.5}]", "tasks[0].limit", "whole number"),
        ("tasks: [{task: a, metric: acc, limit: .nan}]", "tasks[0].limit", "nan"),
        ("tasks: [{task: a, metric: acc, limit: 0}]", "tasks[0].limit", "0"),
        ("tasks: [{task: a}]", "tasks[0].metric", "missing"),
        ("tasks: []", "tasks", "at least 1"),
        ("name: demo", "tasks", "missing"),
        ("name: a/b\ntasks: [{task: a, metric: acc}]", "name", "a/b"),
        ("headlin: average\ntasks: [{task: a, metric: acc}]", "headlin", "did you mean 'headline'?"),
        ("headline: median\ntasks: [{task: a, metric: acc}]", "headline", "average"),
        ("dtype: int8\ntasks: [{task: a, metric: acc}]", "dtype", "float32"),
        ("batch_size: 0\ntasks: [{task: a, metric: acc}]", "batch_size", "0"),
        ("tasks: [{task: a, metric: ppl, higher_is_better: false}]", "tasks[0]", "headline: false"),
        ("tasks: [{task: a, metric: acc}, {task: a, metric: acc}]", "", "twice"),
        ("include_path: nowhere\ntasks: [{task: a, metric: acc}]", "include_path", "nowhere"),
        ("tasks: [{task: a, metric: acc}]\ntasks: []", "", "written twice"),
        ("tasks: [", "", "YAML"),
        ("- tasks", "", "mapping"),
        ("file: x\ntasks: [{task: a, metric: acc}]", "file", "unknown key"),
        ("tasks: !!python/object/apply:os.system [ls]", "tasks", "is not allowed"),
    ],
)
def test_a_malformed_suite_gives_one_line_with_file_key_and_value(
    tmp_path: Path, text: str, key: str, says: str
) -> None:
    path = write(tmp_path, text + "\n")
    with pytest.raises(EvaluationError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and f": {key}" in message
    assert says in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_a_yaml_bomb_is_refused_quickly_with_a_short_message(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    path = write(tmp_path, "\n".join([*lines, "tasks: *a29"]))
    with pytest.raises(EvaluationError) as caught:
        load_suite(path)
    assert len(str(caught.value)) < 2000


def test_one_broken_file_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path, "tasks: [{task: a, metric: acc}]", "good.yaml")
    write(tmp_path, "tasks: 5", "bad.yaml")
    write(tmp_path, "nonsense", "_skipped.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    suites = load_suites([tmp_path, tmp_path / "absent"])
    assert list(suites) == ["good"]
    assert sorted(broken.name for broken in suites.broken) == ["bad", "latin"]
    with pytest.raises(EvaluationError, match=r"bad\.yaml"):
        suites.require("bad")
    with pytest.raises(EvaluationError, match="did you mean 'good'"):
        suites.require("goood")


def test_two_files_with_one_name_are_both_broken(tmp_path: Path) -> None:
    for file in ("a.yaml", "b.yaml"):
        write(tmp_path, "name: same\ntasks: [{task: a, metric: acc}]", file)
    suites = load_suites([tmp_path])
    assert not suites
    assert [broken.file.name for broken in suites.broken] == ["a.yaml", "b.yaml"]


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("metric: acc_norm", "metric: acc", True),
        ("shots: 2", "shots: 3", True),
        ("limit: 3", "limit: 4", True),
        ("batch_size: 4", "batch_size: 8", True),
        ("batch_size: 4", "batch_size: 4\nseed: 7", True),
        ("batch_size: 4", "batch_size: 4\ndtype: float32", True),
        ("description: Tiny local tasks", "description: Other words", False),
        ("name: tiny", "# a comment\nname: renamed", False),
    ],
)
def test_the_digest_follows_what_sets_scores(tmp_path: Path, before: str, after: str, changes: bool) -> None:
    path = write_suite(tmp_path)
    digest = load_suite(path).digest
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    assert (load_suite(path).digest != digest) is changes


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("perplexity.yaml", {"tiny_perplexity"}),
        ("group.yaml", {"tiny_group"}),
        ("choice.yaml", {"tiny_choice", "tiny_group"}),
        ("_common.yaml", {"tiny_perplexity", "tiny_choice", "tiny_generate", "tiny_group"}),
        ("data.jsonl", {"tiny_perplexity", "tiny_choice", "tiny_generate", "tiny_group"}),
        ("data.py", {"tiny_perplexity", "tiny_choice", "tiny_generate", "tiny_group"}),
        ("unused.yaml", set()),
    ],
)
def test_a_task_digest_covers_the_files_that_define_it(tmp_path: Path, file: str, changes: set[str]) -> None:
    path = write_suite(tmp_path)
    names = [entry.task for entry in load_suite(path).tasks]
    before = {name: load_suite(path).task_digest(name) for name in names}
    with (tmp_path / "tasks" / file).open("a") as stream:
        stream.write("\n")
    after = {name: load_suite(path).task_digest(name) for name in names}
    assert {name for name in names if before[name] != after[name]} == changes


def test_digests_do_not_depend_on_where_the_suite_lies(tmp_path: Path) -> None:
    digests = {load_suite(write_suite(tmp_path / folder)).digest for folder in ("here", "there/deeper")}
    assert len(digests) == 1


def test_a_task_with_data_files_depends_on_these_alone(tmp_path: Path) -> None:
    write(tmp_path, "task: plain\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n", "plain.yaml")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "other.jsonl").write_text("{}\n")
    found = TaskFolder(tmp_path).find("plain")
    assert found is not None
    assert found.local
    assert [path.name for path in found.files] == ["plain.yaml", "rows.jsonl"]


@pytest.mark.parametrize("source", ["dataset_path: allenai/ai2_arc", "dataset_path: json"])
def test_a_task_without_local_data_is_not_local(tmp_path: Path, source: str) -> None:
    write(tmp_path, f"task: remote\n{source}\n", "remote.yaml")
    found = TaskFolder(tmp_path).find("remote")
    assert found is not None
    assert not found.local
    assert found.own, "lm-eval's own tasks are not needed for it"


@pytest.mark.parametrize("member", ["arc_easy", "{task: arc_easy, num_fewshot: 3}", "{task: [remote, arc_easy]}"])
def test_a_group_with_a_task_of_lm_eval_is_not_the_folders_own(tmp_path: Path, member: str) -> None:
    write(tmp_path, "task: remote\ndataset_path: allenai/ai2_arc\n", "remote.yaml")
    for name, members in (("mine", "remote"), ("mixed", f"remote, {member}")):
        write(tmp_path, f"group: {name}\ntask: [{members}]\n", f"{name}.yaml")
    mine, mixed = (TaskFolder(tmp_path).find(name) for name in ("mine", "mixed"))
    assert mine is not None
    assert mixed is not None
    assert (mine.own, mixed.own) == (True, False)


def test_unreadable_task_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, "task: [", "broken.yaml")
    write(tmp_path, "include: loop.yaml\ntask: x\n", "loop.yaml")
    folder = TaskFolder(tmp_path)
    assert sorted(path.name for path in folder.broken) == ["broken.yaml", "loop.yaml"]
    assert folder.names() == []


def test_nothing_in_the_task_folder_is_executed(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    (tmp_path / "tasks" / "data.py").write_text("raise SystemExit('executed')\n")
    assert load_suite(path).is_local


def test_suites_scores_and_leaderboard_import_no_heavy_package() -> None:
    modules = ["suite", "scores", "results", "runner", "leaderboard", "page"]
    code = "import sys\n" + "".join(f"import merge_assets.evaluation.{name}\n" for name in modules)
    code += "print(sorted({'torch', 'transformers', 'lm_eval', 'datasets', 'pandas', 'dagster'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shrt", "there is no suite 'shrt', did you mean 'short'?"),
        ("leaderboard", "there is no suite 'leaderboard'; known: long, short"),
    ],
)
def test_a_suite_that_is_not_there_is_said_with_those_that_are(name: str, says: str, tmp_path: Path) -> None:
    for known in ("short", "long"):
        write(tmp_path, "tasks: [{task: hellaswag, metric: acc_norm}]\n", f"{known}.yaml")
    with pytest.raises(EvaluationError) as caught:
        load_suites([tmp_path]).require(name)
    assert str(caught.value) == says
