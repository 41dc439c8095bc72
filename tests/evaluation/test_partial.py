"""Contract: a task that fails is a cell with its reason; the others count, and the next evaluation tries it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from merge_assets.errors import EvaluationError, SuiteError
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.scores import Scores
from merge_assets.evaluation.suite import load_suite
from merge_assets.model_worker import Limits
from tests.evaluation_support import write_checkpoint, write_suite

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


def failing_suite(folder: Path) -> Path:
    """Its second task cannot be made into prompts, its third asks for more than the context holds."""
    path = write_suite(folder)
    choice, generate = folder / "tasks" / "choice.yaml", folder / "tasks" / "generate.yaml"
    (folder / "tasks" / "group.yaml").unlink()
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "group" not in line))
    choice.write_text(choice.read_text().replace('doc_to_choice: "{{choices}}"', "doc_to_choice: nothing"))
    generate.write_text(generate.read_text().replace("max_gen_toks: 12", "max_gen_toks: 64"))
    return path


def test_tasks_that_fail_say_why_and_the_others_count(model: Path, tmp_path: Path) -> None:
    results = TaskResults(tmp_path / "results")
    done = evaluate_suite(model, load_suite(failing_suite(tmp_path)), results=results)
    assert [row.task for row in done.scores.tasks] == list(done.evaluated) == ["tiny_perplexity"]
    choice, generate = done.scores.failures
    assert (choice.task, choice.metric, choice.headline, choice.may_pass) == ("tiny_choice", "acc_norm", True, False)
    assert choice.reason == "ValueError: malformed node or string on line 1: <ast.Name object>"
    assert (
        "requested max tokens to generate (64) must be less than model's maximum sequence length (64)"
        in generate.reason
    )
    for failure in done.scores.failures:
        assert str(tmp_path) not in failure.reason
        assert "\n" not in failure.reason
    assert done.scores.headline is None  # no task of it has a value
    assert done.scores.failed.startswith("2 of 3 tasks failed: tiny_choice: ")
    assert [stored.result.key.task for stored in results] == ["tiny_perplexity"]


def test_a_headline_of_a_part_says_so(model: Path, tmp_path: Path) -> None:
    path = failing_suite(tmp_path)
    shutil.copy(write_suite(tmp_path / "whole").parent / "tasks" / "choice.yaml", tmp_path / "tasks")
    done = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    assert done.scores.part == "1 of 2"
    assert done.scores.headline == done.scores.tasks[1].value
    done.write(tmp_path / "out")
    assert Scores.from_json((tmp_path / "out" / "scores.json").read_bytes()) == done.scores
    text = (tmp_path / "out" / "scores.md").read_text()
    assert "(1 of 2)" in text
    assert "- tiny_generate failed: " in text


def test_the_next_evaluation_tries_what_failed_and_nothing_else(model: Path, tmp_path: Path) -> None:
    path, results = failing_suite(tmp_path), TaskResults(tmp_path / "results")
    first = evaluate_suite(model, load_suite(path), results=results)
    again = evaluate_suite(model, load_suite(path), results=results)
    assert again.evaluated == ()
    assert again.scores.digest == first.scores.digest
    patient = shutil.copytree(model, tmp_path / "model")
    config = json.loads((patient / "config.json").read_text())
    (patient / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    mended = evaluate_suite(patient, load_suite(path), results=results, fingerprint=first.scores.fingerprint)
    assert mended.evaluated == ("tiny_generate",)
    assert [failure.task for failure in mended.scores.failures] == ["tiny_choice"]


def test_where_every_task_fails_it_is_an_error_and_the_reasons_are_told(model: Path, tmp_path: Path) -> None:
    path = failing_suite(tmp_path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "perplexity" not in line))
    told: list[Scores] = []
    with pytest.raises(EvaluationError, match=r"tiny\.yaml: tasks\[0\]: tiny_choice on .*malformed"):
        evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"), failed=told.append)
    (scores,) = told
    assert [failure.task for failure in scores.failures] == ["tiny_choice", "tiny_generate"]
    assert scores.tasks == ()


def test_a_checkpoint_that_does_not_load_fails_once_for_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told: list[Scores] = []
    suite = load_suite(write_suite(tmp_path))
    with pytest.raises(EvaluationError, match="does not load"):
        evaluate_suite(
            tmp_path / "empty", suite, results=TaskResults(tmp_path / "r"), fingerprint="f", failed=told.append
        )
    assert len({failure.reason for failure in told[0].failures}) == 1
    assert len(told[0].failures) == 4


def test_a_misspelt_second_task_is_found_before_the_first_is_evaluated(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    # Of tasks that lie in the suite's folder; lm-eval's own would be indexed, which takes half a minute.
    (tmp_path / "tasks" / "gone.yaml").write_text((tmp_path / "tasks" / "choice.yaml").read_text())
    path.write_text(path.read_text().replace("tiny_choice,", "tiny_chioce,"))
    with pytest.raises(SuiteError, match=r"tasks\[1\]\.task: no task 'tiny_chioce'"):
        evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    assert not list(TaskResults(tmp_path / "results"))
    assert not list((tmp_path / "results").glob("answers/*/*"))


def test_a_worker_that_is_ended_costs_its_task(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    choice = tmp_path / "tasks" / "choice.yaml"
    (tmp_path / "tasks" / "bad.py").write_text("import os\n\n\ndef text(doc):\n    os._exit(3)\n")
    choice.write_text(choice.read_text().replace('doc_to_text: "{{question}}"', "doc_to_text: !function bad.text"))
    done = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    assert [row.task for row in done.scores.tasks] == ["tiny_perplexity", "tiny_generate"]
    assert {failure.reason for failure in done.scores.failures} == {"ended without an answer"}


def test_memory_that_runs_out_in_a_task_may_pass(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    (tmp_path / "tasks" / "bad.py").write_text(
        "import time\n\n\ndef text(doc):\n    held = bytearray(b'x') * (3 << 30)\n    time.sleep(60)\n    return held\n"
    )
    generate = tmp_path / "tasks" / "generate.yaml"
    generate.write_text(generate.read_text().replace('doc_to_text: "{{question}}"', "doc_to_text: !function bad.text"))
    done = evaluate_suite(
        model, load_suite(path), results=TaskResults(tmp_path / "results"), limits=Limits(memory=2_000_000_000)
    )
    (failure,) = done.scores.failures
    assert failure.task == "tiny_generate"
    assert failure.may_pass
    assert "took more than 2 GB of memory" in failure.reason


def test_a_failure_while_measuring_again_leaves_what_is_there(model: Path, tmp_path: Path) -> None:
    path, results = write_suite(tmp_path), TaskResults(tmp_path / "results")
    before = evaluate_suite(model, load_suite(path), results=results)
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(EvaluationError, match="does not load"):
        evaluate_suite(broken, load_suite(path), results=results, fingerprint=before.scores.fingerprint, refresh=True)
    assert len(list(results)) == 4


# -- documents ---------------------------------------------------------------------------------------------------------


def with_nan(model: Path, folder: Path, word: str) -> Path:
    """A model that gives NaN wherever a prompt has the word."""
    import torch
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(model, folder)
    vocabulary = json.loads((broken / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][vocabulary[word]] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    return broken


def test_nan_is_a_document_that_is_counted_and_left_out(model: Path, tmp_path: Path) -> None:
    path = write_suite(tmp_path, documents=24)
    data = tmp_path / "tasks" / "data.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    having = [
        number for number, row in enumerate(rows) if any("bread" in text for text in (row["question"], *row["choices"]))
    ]
    for number, row in enumerate(rows):
        if number != 5:
            row["text"] = row["text"].replace("bread", "king")
    assert "bread" in rows[5]["text"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(path.read_text().replace("acc_norm, shots: 2", "acc, shots: 0"))
    clean = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "clean"))
    broken = with_nan(model, tmp_path / "broken", "bread")
    done = evaluate_suite(broken, load_suite(path), results=TaskResults(tmp_path / "results"))
    rows_of = {row.task: row for row in done.scores.tasks}
    assert rows_of["tiny_perplexity"].flaws.failed == 1
    # The value is that of the other documents, of which each has its own answers; the last word of an answer is never read.
    (file,) = (f for s in clean.results for t, f in s.sample_files().items() if s.result.key.task == "tiny_perplexity")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    pairs = [sample["byte_perplexity"] for sample in samples if sample["doc_id"] != 5]
    expected = 2.718281828459045 ** (-sum(p[0] for p in pairs) / sum(p[1] for p in pairs))
    assert rows_of["tiny_perplexity"].value == pytest.approx(expected, rel=1e-6)
    assert 0 < rows_of["tiny_choice"].flaws.failed <= len(having)
    assert "tiny_perplexity: the answers to 1 of 24 documents are no numbers, and left out" in done.scores.notes


def test_outputs_that_are_not_finite_are_no_score(model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    done = evaluate_suite(broken, load_suite(write_suite(tmp_path)), results=TaskResults(tmp_path / "r"), limit=2)
    assert [failure.task for failure in done.scores.failures] == ["tiny_perplexity", "tiny_choice", "tiny_group"]
    assert all("not finite" in failure.reason for failure in done.scores.failures)


def test_cut_prompts_empty_and_endless_answers_are_counted(model: Path, tmp_path: Path) -> None:
    """Against the tokens and texts themselves."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_suite(tmp_path, documents=10)
    data = tmp_path / "tasks" / "data.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = row["text"][: 60 * number + 10]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = path.read_text().replace("shots: 2", "shots: 0").replace(", limit: 3", "")
    path.write_text(text.replace("batch_size: 4", "batch_size: 1"))
    results = TaskResults(tmp_path / "results")
    done = evaluate_suite(model, load_suite(path), results=results)
    flaws = {row.task: row.flaws for row in done.scores.tasks}

    tokenizer = AutoTokenizer.from_pretrained(model)
    lengths = [len(tokenizer(row["question"]).input_ids) for row in rows]
    longest = [
        max(len(tokenizer(f"{row['question']} {choice}").input_ids) for choice in row["choices"]) for row in rows
    ]
    assert flaws["tiny_choice"].truncated == flaws["tiny_group"].truncated == sum(n > 64 + 1 for n in longest) > 0
    assert flaws["tiny_generate"].truncated == sum(n > 64 - 12 for n in lengths) > 0
    (file,) = (f for s in done.results for t, f in s.sample_files().items() if t == "tiny_generate")
    texts = [json.loads(line)["resps"][0][0] for line in file.read_text().splitlines()]
    assert flaws["tiny_generate"].empty == sum(not text.strip() for text in texts)
    endless = 0
    for row in rows:
        prompt = tokenizer(row["question"], return_tensors="pt").input_ids[:, -(64 - 12) :]
        said = AutoModelForCausalLM.from_pretrained(model).generate(prompt, max_new_tokens=12, do_sample=False)
        said = said[0, prompt.shape[1] :]
        endless += 2 not in said.tolist() and "." not in tokenizer.decode(said)
    assert 0 < flaws["tiny_generate"].endless == endless <= len(rows)
    assert flaws["tiny_perplexity"].truncated == 0  # it goes on in another window

    # Those that are found in the file of answers are counted, too.
    for stored in list(results):
        shutil.rmtree(stored.directory)
    again = evaluate_suite(model, load_suite(path), results=results)
    assert {row.task: row.flaws for row in again.scores.tasks} == flaws
