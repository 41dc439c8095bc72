"""Contract: a server of the OpenAI protocol that has log-probabilities gives the numbers that the model itself gives.

The process that knows the server and its key loads no checkpoint, what was answered is not asked again, and whatever is wrong
with a server is one line that says what to do. The server is `tests/completions_server.py`, a real one over HTTP that computes
with transformers; see `benchmarks/endpoints.py` for others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_assets.errors import EvaluationError, SettingsError
from merge_assets.evaluation.endpoint import Endpoint
from merge_assets.evaluation.endpoint_lm import problem_of
from merge_assets.evaluation.results import ResultKey, TaskResults
from merge_assets.evaluation.runner import Evaluation, evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.model_worker import Limits
from merge_assets.settings import load_settings
from tests.completions_server import KEY
from tests.evaluation_support import sentence, write_checkpoint, write_suite

SERVE = f"{sys.executable} -m tests.completions_server {{model}} --port {{port}}"
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def served(model: Path, *options: str) -> Iterator[str]:
    """The base URL of a server."""
    command = [sys.executable, "-m", "tests.completions_server", str(model), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server was asked, a line for each prompt."""
    return tmp_path_factory.mktemp("log") / "asked.jsonl"


@pytest.fixture(scope="module")
def server(model: Path, log: Path) -> Iterator[str]:
    """Where a server of the model is; its faults are below this address."""
    with served(model, "--log", str(log)) as url:
        yield url.removesuffix("/v1")


def asked(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts a token of its own before each text, and that has a template which writes it, too."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = write_checkpoint(tmp_path_factory.mktemp("bos") / "m", seed=3)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }} {{ eos_token }}{% endfor %} king "
    )
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("king").input_ids[0] == 1
    return folder


def suite(folder: Path, top: str = "", *, only: str = "", documents: int = 6) -> Path:
    """The tiny suite with more keys, or with the tasks of one name alone."""
    path = write_suite(folder, documents=documents)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*(one for one in lines if "task:" not in one or only in one), top, ""]))
    return path


def evaluated(model: Path, path: Path, results: Path, endpoint: Endpoint = Endpoint(), **options: Any) -> Evaluation:  # noqa: B008
    return evaluate_suite(model, load_suite(path), results=TaskResults(results), endpoint=endpoint, **options)


def samples_of(evaluation: Evaluation) -> dict[tuple[str, int, str], Any]:
    """What was answered, by task, document and filter."""
    return {
        (f"{stored.result.key.task}/{task}", row["doc_id"], row["filter"]): row["resps"]
        for stored in evaluation.results
        for task, file in stored.sample_files().items()
        for row in map(json.loads, file.read_text().splitlines())
    }


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def test_keys_of_results_that_were_there_before_backends_are_the_same(tmp_path: Path) -> None:
    """Digests that the version before them made."""
    key = ResultKey(
        evaluation="2", model="f", task="t", task_digest="d", shots=None, limit=None, seed=1, dtype="auto", batch_size=1,
        lm_eval="0.4.13", revision=None, trust_remote_code=False,
    )  # fmt: skip
    assert key.digest == "f9482af99c48b6a87cb719cedf3625ffe87d78fea6858efe64c4ccf039950c84"
    (tmp_path / "s.yaml").write_text("name: s\ntasks: [{task: t, metric: acc}]\n")
    assert load_suite(tmp_path / "s.yaml").digest == "7bc2cf096f342cf732b240ddbf081e0e050e5acee4ce93a511480ccd4cff5367"


# -- the numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("which", "top"), [("model", ""), ("with_bos", ""), ("with_bos", "chat_template: on")])
def test_a_server_and_the_model_itself_agree_on_likelihoods_texts_and_generations(
    which: str, top: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """lm-eval asks a server two tokens less at once, so the windows of long texts are alike where ``hf`` has two less."""
    folder: Path = request.getfixturevalue(which)
    here = evaluated(folder, suite(tmp_path, f"{top}\nmax_length: 62"), tmp_path / "here")
    with served(folder) as url:
        path = suite(tmp_path, f"{top}\nbackend: endpoint\nmax_length: 64")
        there = evaluated(folder, path, tmp_path / "there", Endpoint(url))
    ours, theirs = samples_of(here), samples_of(there)
    assert len(ours) > 20
    assert theirs.keys() == ours.keys()
    for place, said in ours.items():
        for one, other in zip(leaves(said), leaves(theirs[place]), strict=True):
            if isinstance(one, str) and re.fullmatch(r"-?[0-9.e-]+", one):  # lm-eval logs numbers as texts
                one, other = float(one), float(other)
            assert one == (pytest.approx(other, abs=1e-4) if isinstance(one, float) else other), place
    for row, their_row in zip(here.scores.tasks, there.scores.tasks, strict=True):
        assert row.value == pytest.approx(their_row.value, rel=1e-5)
        assert row.flaws == their_row.flaws
        assert row.made.chat == their_row.made.chat == bool(top)
    assert there.results[0].result.device == "server"
    assert "bytes were not verified" in there.results[0].result.versions["server"]
    assert url in there.results[0].result.versions["server"]


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_counted(model: Path, server: str, tmp_path: Path) -> None:
    path = suite(tmp_path, "backend: endpoint\nmax_length: 8", only="tiny_choice")
    found = evaluated(model, path, tmp_path / "r", Endpoint(f"{server}/v1"))
    assert found.results[0].result.flaws["tiny_choice"].truncated == 6


@pytest.mark.thorough
@pytest.mark.slow
def test_the_recorded_command_gives_the_same_numbers(model: Path, server: str, tmp_path: Path) -> None:
    path = suite(tmp_path, "backend: endpoint", only="tiny_choice")
    result = evaluated(model, path, tmp_path / "r", Endpoint(f"{server}/keyed/v1", key=KEY)).results[0].result
    assert result.command[:3] == ["lm_eval", "--model", "local-completions"]
    assert KEY not in " ".join(result.command)
    done = subprocess.run(
        [sys.executable, "-m", *result.command, "--output_path", str(tmp_path / "theirs")],
        env={**os.environ, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]["tiny_choice"]
    assert theirs["acc_norm,none"] == result.metrics["tiny_choice"]["acc_norm,none"]


# -- what is asked, and by whom -----------------------------------------------------------------------------------------

KILLED = """
import os, re, signal, sys
from pathlib import Path
from merge_assets.evaluation.endpoint import Endpoint
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.work import Work

def report(done, total, label):
    found = re.search(r"likelihoods (\\d+)/(\\d+)", label)
    if found and int(found[2]) and int(found[1]) >= 0.9 * int(found[2]):
        os.kill(os.getpid(), signal.SIGKILL)

model, suite, results, how, what = sys.argv[1:]
evaluate_suite(Path(model), load_suite(Path(suite)), results=TaskResults(Path(results)), work=Work(report),
               endpoint=Endpoint(**{how: what}))
"""


def write_cloze(folder: Path, documents: int) -> Path:
    """A suite of one task that asks one likelihood of each document."""
    import random

    path = suite(folder, "backend: endpoint", only="tiny_choice")
    task = folder / "tasks" / "choice.yaml"
    task.write_text(
        "include: _common.yaml\ntask: tiny_choice\noutput_type: loglikelihood\ndoc_to_text: '{{question}}'\n"
        "doc_to_target: '{{answer}}'\nmetric_list: [{metric: acc}]\n"
    )
    rng = random.Random(5)
    rows = [{"question": sentence(rng, 8), "answer": sentence(rng, 1)} for _ in range(documents)]
    (folder / "tasks" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = path.read_text().replace("acc_norm, shots: 2", "acc, shots: 0").replace("batch_size: 4", "batch_size: 16")
    path.write_text("\n".join(line for line in text.splitlines() if "group" not in line) + "\n")
    return path


@pytest.mark.slow
def test_killed_at_nine_tenths_of_2000_documents_less_than_a_hundredth_is_asked_again(
    model: Path, server: str, log: Path, tmp_path: Path
) -> None:
    """Counted by the server: what it was asked in both runs together."""
    path, url, before = write_cloze(tmp_path, 2000), f"{server}/v1", asked(log)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(model), str(path), str(tmp_path / "r"), "url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert 1800 <= asked(log) - before < 2000
    assert not list(TaskResults(tmp_path / "r"))
    found = evaluated(model, path, tmp_path / "r", Endpoint(url))
    assert found.results[0].result.samples["tiny_choice"].effective == 2000
    both = asked(log) - before
    assert 0 <= both - 2000 < 0.01 * 2000
    assert evaluated(model, path, tmp_path / "r", Endpoint(url)).evaluated == ()
    assert asked(log) - before == both


@pytest.mark.slow
def test_a_server_that_was_started_ends_with_the_evaluation_and_with_its_death(model: Path, tmp_path: Path) -> None:
    path = write_cloze(tmp_path, 200)
    pids = tmp_path / "pids"
    script = tmp_path / "serve.sh"
    script.write_text(
        f"#!/bin/sh\n(exec sleep 1000) & echo $$ $! >> {pids}\ncd {ROOT}\n{SERVE.format(model='$1', port='$2')}\n"
    )
    serve = f"sh {script} {{model}} {{port}}"
    found = evaluated(model, path, tmp_path / "whole", Endpoint(serve=serve))
    assert found.results[0].result.versions["server"] == f"{serve}, started on these bytes"
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(KILLED),
        str(model),
        str(path),
        str(tmp_path / "r"),
        "serve",
        serve,
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 4
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < until, "a server, or what it started, is left"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_key_is_in_no_file_no_message_and_not_in_the_process_that_reads_the_checkpoint(
    model: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGE_ASSETS_ENDPOINT_KEY", KEY)
    path = suite(tmp_path / "s", "backend: endpoint", only="tiny_choice")
    # A task file is code, and runs where the tokenizer is read.
    seen = tmp_path / "seen"
    data = path.parent / "tasks" / "data.py"
    data.write_text(data.read_text() + f"\nimport os\nPath({str(seen)!r}).write_text(repr(dict(os.environ)))\n")
    url = f"{server}/keyed/v1"
    evaluated(model, path, tmp_path / "r", Endpoint(url, key=KEY))
    with pytest.raises(EvaluationError) as refused:
        evaluated(model, path, tmp_path / "other", Endpoint(url, key=f"{KEY}-wrong"))
    assert "401" in str(refused.value)
    assert "endpoint_key (MERGE_ASSETS_ENDPOINT_KEY)" in str(refused.value)
    assert "******" in str(refused.value)  # the server said it back
    told = [str(refused.value), repr(Endpoint(url, key=KEY)), str(load_settings().describe()), seen.read_text()]
    told += [file.read_text() for file in tmp_path.rglob("*") if file.is_file() and file.suffix in (".json", ".jsonl")]
    assert len(told) > 5
    assert not [text for text in told if KEY in text]


# -- what is wrong -----------------------------------------------------------------------------------------------------

FAULTS = {
    "silent": "gives no log-probabilities of a prompt (echo with logprobs)",
    "begins": "log-probabilities for a prompt of",
    "drops": "answers 1 of 4 prompts of one request; set batch_size: 1",
    "broken": '/completions answers 500: {"error": {"message": "it broke"}}',
    "page": "answers with what is no JSON",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_none_fails_the_task_in_one_line(
    fault: str, model: Path, server: str, tmp_path: Path
) -> None:
    path, url = suite(tmp_path, "backend: endpoint", only="tiny_choice"), f"{server}/{fault}/v1"
    with pytest.raises(EvaluationError) as error:
        evaluated(model, path, tmp_path / "r", Endpoint(url))
    assert FAULTS[fault] in str(error.value)
    assert url in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.may_pass is (fault == "broken")


@pytest.mark.slow
def test_what_generates_has_a_value_where_likelihoods_have_none(model: Path, server: str, tmp_path: Path) -> None:
    found = evaluated(model, suite(tmp_path, "backend: endpoint"), tmp_path / "r", Endpoint(f"{server}/silent/v1"))
    assert [row.task for row in found.scores.tasks] == ["tiny_generate"]
    assert {failure.task for failure in found.scores.failures} == {"tiny_perplexity", "tiny_choice", "tiny_group"}
    assert all("no log-probabilities" in failure.reason for failure in found.scores.failures)


@pytest.mark.slow
def test_a_busy_server_is_asked_again_and_a_prompt_that_is_too_long_is_not(
    model: Path, server: str, log: Path, tmp_path: Path
) -> None:
    path = suite(tmp_path, "backend: endpoint", only="tiny_choice")
    assert evaluated(model, path, tmp_path / "r", Endpoint(f"{server}/busy/v1")).evaluated
    path, before = suite(tmp_path, "backend: endpoint\nmax_length: 500", only="tiny_perplexity"), asked(log)
    with pytest.raises(EvaluationError) as error:
        evaluated(model, path, tmp_path / "r", Endpoint(f"{server}/v1"))
    assert "400" in str(error.value)
    assert "maximum context length is 64 tokens" in str(error.value)
    assert "set max_length to the server's context" in str(error.value)
    assert asked(log) - before == 1


@pytest.mark.slow
def test_a_server_that_ends_in_the_middle_is_named_with_what_it_said_last(model: Path, tmp_path: Path) -> None:
    serve = f"sh -c 'cd {ROOT} && {SERVE} --dies'"
    with pytest.raises(EvaluationError) as error:
        evaluated(model, suite(tmp_path, "backend: endpoint"), tmp_path / "r", Endpoint(serve=serve))
    assert re.search(r"\(the setting endpoint_serve\) ended with exit code 3: .*out of memory$", str(error.value))


NOWHERE = "http://127.0.0.1:9/v1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (Endpoint(), "set endpoint to the base URL of one, as http://127.0.0.1:8000/v1, or endpoint_serve"),
        (Endpoint(NOWHERE), f"endpoint {NOWHERE} does not answer (ConnectError"),
        (Endpoint(serve="no-such-program {model} {port}"), "endpoint_serve: there is no program 'no-such-program'"),
        (Endpoint(serve="sh -c 'echo what a pity; exit 4' {model} {port}"), "ended with exit code 4: what a pity"),
    ],
)
def test_without_a_server_every_task_fails_with_what_to_set(
    endpoint: Endpoint, says: str, model: Path, tmp_path: Path
) -> None:
    kept = []
    path = suite(tmp_path, "backend: endpoint")
    with pytest.raises(EvaluationError) as error:
        evaluated(model, path, tmp_path / "r", endpoint, failed=kept.append)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{path}: backend: ")
    assert [failure.task for failure in kept[0].failures] == [entry.task for entry in load_suite(path).tasks]
    assert all(says in failure.reason for failure in kept[0].failures)


@pytest.mark.slow
def test_a_model_that_is_not_served_is_refused_and_those_that_are_are_named(
    model: Path, server: str, tmp_path: Path
) -> None:
    path, url = suite(tmp_path, "backend: endpoint", only="tiny_choice"), f"{server}/named/v1"
    for named, wanted in ((None, "m"), ("org/{name}", "org/m"), ("other", "other")):
        with pytest.raises(EvaluationError) as error:
            evaluated(model, path, tmp_path / "r", Endpoint(url, model=named))
        assert f"endpoint {url} serves org/m-v2, not '{wanted}'; set endpoint_model" in str(error.value)
    assert evaluated(model, path, tmp_path / "r", Endpoint(url, model="org/{name}-v2")).evaluated


@pytest.mark.slow
def test_a_server_that_never_is_ready_is_given_up(model: Path, tmp_path: Path) -> None:
    path = suite(tmp_path, "backend: endpoint", only="tiny_choice")
    with pytest.raises(EvaluationError, match=r"does not answer after 1 s \(the setting load_seconds\)"):
        evaluated(
            model, path, tmp_path / "r", Endpoint(serve="sh -c 'sleep 100' {model} {port}"), limits=Limits(load=1)
        )


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([], "without choices"),
        ({"choices": "x"}, "without choices"),
        ({"choices": [{"index": 1}]}, "answers 1 of 1 prompts"),
        (
            {"choices": [{"index": 0, "logprobs": {"token_logprobs": [None, -1.0], "top_logprobs": [None, {}]}}]},
            "2 log-prob",
        ),
        (
            {"choices": [{"index": 0, "logprobs": {"token_logprobs": [None, None, -1.0], "top_logprobs": [{}] * 3}}]},
            "that are no numbers",
        ),
        (
            {
                "choices": [
                    {"index": 0, "logprobs": {"token_logprobs": [None, -math.inf, -1.0], "top_logprobs": [{}] * 3}}
                ]
            },
            None,
        ),
    ],
)
def test_an_answer_is_looked_at_before_lm_eval_reads_numbers_out_of_it(answer: Any, says: str | None) -> None:
    found = problem_of(answer, [2], 1)
    assert found is None if says is None else says in (found or "")


# -- what can be set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "says"),
    [
        ("backend: gpt", "backend: Input should be 'hf', 'endpoint' or 'vllm'"),
        ("backend: endpoint\ndtype: float16", "dtype: float16 is the server's to choose with backend: endpoint"),
        ("backend: endpoint\nparallelize: true", "parallelize: is for backend: hf; that is the server's"),
        ("backend: vllm\nparallelize: true", "parallelize: is for backend: hf; set vllm.tensor_parallel_size"),
        ("backend: endpoint\nmodel_args: {softmax_dtype: float32}", "model_args.softmax_dtype: is for backend: hf"),
        ("backend: endpoint\nmodel_args: {enable_thinking: true}", "model_args.enable_thinking: is for backend: hf"),
        ("backend: vllm\nmodel_args: {logits_cache: false}", "model_args.logits_cache: is for backend: hf"),
        ("backend: endpoint\nchat_template: '{{ x }}'", "chat_template: the text of a template is for backend: hf"),
        ("backend: endpoint\ngeneration: {num_beams: 2}", "generation.num_beams: is for backend: hf"),
        ("vllm: {tensor_parallel_size: 2}", "vllm: is for backend: vllm, and this is backend: hf; remove this key"),
        (
            "backend: vllm\nvllm: {tensor_parallel: 2}",
            "vllm.tensor_parallel: unknown key, did you mean 'tensor_parallel_size'?",
        ),
    ],
)
def test_what_a_backend_cannot_do_is_refused(top: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as error:
        load_suite(suite(tmp_path, top))
    assert says in str(error.value)


@pytest.mark.parametrize("backend", ["endpoint", "vllm"])
def test_a_divergence_is_of_the_models_themselves(backend: str, tmp_path: Path) -> None:
    path = suite(tmp_path, f"backend: {backend}")
    (tmp_path / "words.txt").write_text("words " * 99)
    path.write_text(path.read_text().replace("tasks:\n", "tasks:\n  - {text: words.txt, metric: kl, to: m}\n"))
    with pytest.raises(EvaluationError, match=r"tasks\[0\].to: a divergence is of whole distributions"):
        load_suite(path)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("endpoint", "localhost:8000", "is no address; write it as http://127.0.0.1:8000/v1"),
        ("endpoint", "http://me:word@host/v1", "write that alone, and a key into endpoint_key"),
        ("endpoint", "http://host/v1/completions", "is not the base URL; leave out what follows /v1"),
        ("endpoint_serve", "vllm serve {model}", "has no {port}"),
        ("endpoint_serve", "vllm 'serve {model} {port}", "is no command"),
    ],
)
def test_settings_of_servers_are_checked(name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MERGE_ASSETS_{name.upper()}", value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert says in str(error.value)
    assert "word" not in str(error.value)


def test_a_server_runs_or_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGE_ASSETS_ENDPOINT", "http://host/v1/")
    assert load_settings().endpoint == "http://host/v1"
    monkeypatch.setenv("MERGE_ASSETS_ENDPOINT_SERVE", "vllm serve {model} --port {port}")
    with pytest.raises(SettingsError, match="a server is running or is started, so remove one of the two"):
        load_settings()
    monkeypatch.delenv("MERGE_ASSETS_ENDPOINT")
    monkeypatch.setenv("MERGE_ASSETS_ENDPOINT_KEY", KEY)
    shown = {name: value for name, value, _ in load_settings().describe()}
    assert shown["endpoint_key"] == "******"
    assert shown["endpoint_serve"] == "vllm serve {model} --port {port}"
