"""Contract: prompts are lm-eval's own, and no template is compiled for each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval.utils
import pytest
from lm_eval.tasks import TaskManager

from merge_assets.evaluation.quiet import be_quiet

pytestmark = pytest.mark.slow

TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{a}}}} and {{{{b}}}}{{% if a == b %}}, twice the same,{{% endif %}} are"
doc_to_choice: "{{{{[c, d]}}}}"
doc_to_target: 0
num_fewshot: 3
fewshot_config: {{sampler: first_n, split: test}}
"""


def prompts(folder: Path) -> list[Any]:
    """What lm-eval asks of 30 documents with three examples each."""
    task = TaskManager(include_path=str(folder), include_defaults=False).load(["sums"])["tasks"]["sums"]
    task.set_fewshot_seed(seed=7)
    task.build_all_requests()
    return [request.args for request in task.instances]


def test_prompts_are_the_same_and_each_template_is_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"a": n % 5, "b": n % 3, "c": f"{n}", "d": f"{n} {{{{a}}}}"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sums.yaml").write_text(TASK.format(file=tmp_path / "rows.jsonl"))
    environment = lm_eval.utils.env
    compiled: list[Any] = []
    compiles = environment.compile
    monkeypatch.setattr(
        environment, "compile", lambda source, *rest: compiled.append(source) or compiles(source, *rest)
    )
    monkeypatch.setattr(environment, "from_string", type(environment).from_string.__get__(environment))
    expected, before = prompts(tmp_path), len(compiled)
    compiled.clear()
    be_quiet()
    assert prompts(tmp_path) == expected
    assert before > 30 and len(compiled) == len(set(map(str, compiled))) < 10
