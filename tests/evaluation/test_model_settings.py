"""Contract: how models are loaded and asked is in the suite, in the key of every result and in lm-eval's command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.batching import batch_size, bytes_per_token
from merge_assets.evaluation.model_settings import ModelSettings, ends_turns_as_texts
from merge_assets.evaluation.result_keys import result_keys
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import evaluate_suite
from merge_assets.evaluation.suite import load_suite
from tests.evaluation_support import of_lm_eval, write_checkpoint, write_suite

TEMPLATE = "{% for m in messages %}{{ m.role }} . {{ m.content }} {{ '</s>' if m.role == 'assistant' }} {% endfor %}"


def suite(folder: Path, *lines: str) -> Path:
    path = write_suite(folder)
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("chat_template: 7", r"chat_template: .*found 7"),
        ("generation: {max_tokens: 5}", r"generation\.max_tokens: unknown key, did you mean 'max_gen_toks'\?"),
        ("generation: {temperature: 0.5}", r"generation: temperature is of drawing.*do_sample: true"),
        ("model_args: {peft: ./adapter}", r"model_args\.peft: unknown key; known: add_bos_token"),
        ("model_args: {add_bos_token: yes please}", r"model_args\.add_bos_token: .*found 'yes please'"),
        ("max_length: 0", r"max_length: .*greater than or equal to 2, found 0"),
        ("parallelise: true", r"parallelise: unknown key, did you mean 'parallelize'\?"),
        ("unsafe_code: 1", r"unsafe_code: .*found 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(tmp_path: Path, line: str, says: str) -> None:
    path = suite(tmp_path, line)
    with pytest.raises(EvaluationError, match=says) as caught:
        load_suite(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_on_and_off_of_yaml_are_words(tmp_path: Path) -> None:
    for text, word in (("on", "on"), ("off", "off"), ("auto", "auto"), ("'{{ x }}'", "{{ x }}")):
        assert load_suite(suite(tmp_path, f"chat_template: {text}")).settings.chat_template == word


def test_every_setting_changes_every_key(tmp_path: Path) -> None:
    plain = result_keys(load_suite(suite(tmp_path)), "f", lm_eval="1")
    other = result_keys(load_suite(suite(tmp_path, "system_prompt: Be brief.")), "f", lm_eval="1")
    assert {key.digest for key in plain}.isdisjoint(key.digest for key in other)


class Tokenizer:
    """A tokenizer with a template, whose token 2 is this."""

    def __init__(self, template: str | None, end: str) -> None:
        self.chat_template, self._end = template, end

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        import jinja2

        assert not tokenize
        assert self.chat_template is not None
        return jinja2.Template(self.chat_template).render(messages=messages, eos_token=self._end)

    def decode(self, tokens: list[int]) -> str:
        return {2: self._end, 7: "<eot>"}[tokens[0]]


TURNS = "{% for m in messages %}<start>{{ m.role }} {{ m.content }}<eot>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "end", "ends", "is_chat"),
    [
        (None, "</s>", {2}, False),
        (TURNS, "<endoftext>", {2}, False),  # a base model with the template of its family
        (TURNS, "<endoftext>", {2, 7}, True),  # whose generation config ends turns
        (TURNS, "<eot>", {2}, True),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "</s>", {2}, True),
        ("{{ '<eot>' }}{% for m in messages %}{{ m.content }};{% endfor %}", "<eot>", {2}, False),
    ],
)
def test_auto_is_for_models_that_end_a_turn_as_they_end_a_text(
    template: str | None, end: str, ends: set[int], is_chat: bool
) -> None:
    assert ends_turns_as_texts(Tokenizer(template, end), ends) == is_chat


@pytest.mark.parametrize(
    ("free", "tokens", "device", "size"),
    [
        (None, 1, "cpu", 1),  # not known
        (10**12, 1000, "cuda", 64),
        (16 * 1000 * 10 * 2, 1000, "cpu", 16),
        (16 * 1000 * 10 * 2 - 1, 1000, "cpu", 8),
        (1, 1000, "cpu", 1),
        (-5, 1000, "cuda", 1),
        (10**12, 1000, "mps", 1),
    ],
)
def test_as_many_sequences_as_half_of_the_free_memory_holds(
    free: int | None, tokens: int, device: str, size: int
) -> None:
    assert batch_size(free, tokens, 10, device) == size


def test_a_token_takes_its_logits_and_what_layers_keep() -> None:
    text = SimpleNamespace(vocab_size=100, hidden_size=8, num_hidden_layers=3, intermediate_size=16)
    config = SimpleNamespace(get_text_config=lambda: text)
    assert bytes_per_token(config, 2) == 100 * (2 + 8) + 2 * (2 * 3 * 8 + 8 * 8 + 3 * 16)


def test_a_plain_command_has_no_json() -> None:
    assert ModelSettings().command({"pretrained": "m", "dtype": "auto"}, chat=False) == [
        "--model_args",
        "pretrained=m,dtype=auto",
    ]


# -- against lm-eval ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has a chat template, which ends turns as texts end."""
    folder = write_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return folder


def by_hand(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, dict[str, float | None]], dict[int, str]]:
    """The metrics, and the hash of the first prompt of each document, as lm-eval's own command reads its arguments.

    Its index of the tasks that ship with it, which takes half a minute, is left out.
    """
    import lm_eval
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(sys, "argv", command)
    said = EvaluatorConfig.from_cli(HarnessCLI().parse_args())
    python, numpy, torch, fewshot = said.seed
    found = lm_eval.simple_evaluate(
        model=said.model,
        model_args=said.model_args,
        tasks=[command[command.index("--tasks") + 1]],
        num_fewshot=said.num_fewshot,
        batch_size=said.batch_size,
        device=said.device,
        limit=said.limit,
        gen_kwargs=said.gen_kwargs,
        apply_chat_template=said.apply_chat_template,
        fewshot_as_multiturn=said.fewshot_as_multiturn,
        system_instruction=said.system_instruction,
        confirm_run_unsafe_code=said.confirm_run_unsafe_code,
        task_manager=TaskManager(include_path=said.include_path, include_defaults=False),
        random_seed=python,
        numpy_random_seed=numpy,
        torch_random_seed=torch,
        fewshot_random_seed=fewshot,
    )
    metrics = {
        task: {name: None if value == "N/A" else value for name, value in values.items() if "," in name}
        for task, values in found["results"].items()
    }
    (samples,) = found["samples"].values()
    return metrics, {one["doc_id"]: one["prompt_hash"] for one in samples}


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        ("chat_template: auto", "system_prompt: the king", "batch_size: auto"),
        ("chat_template: on", "fewshot_as_multiturn: false", "generation: {max_gen_toks: 5, until: [river]}"),
        (
            "chat_template: '{% for m in messages %}{{ m.content }} tree {% endfor %}'",
            "model_args: {add_bos_token: true}",
        ),
        ("max_length: 24", "model_args: {logits_cache: false}"),
    ],
    ids=["auto", "one turn", "own template", "short"],
)
def test_the_recorded_command_gives_the_same_numbers_for_each_setting(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...]
) -> None:
    path = suite(tmp_path)
    text = path.read_text().replace("batch_size: 4\n", "" if "batch_size: auto" in lines else "batch_size: 4\n")
    task = "generate" if "generation" in lines[-1] else "choice"
    kept = [line for line in text.splitlines() if "task:" not in line or task in line]
    path.write_text("\n".join(kept).replace("shots: 0", "shots: 1") + "\n" + "\n".join(lines) + "\n")
    done = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    (stored,) = done.results
    result = stored.result
    assert result.chat == ("chat_template" in lines[0])
    assert result.batch_size == (16 if "batch_size: auto" in lines else 4)
    (file,) = stored.sample_files().values()
    ours = [json.loads(line) for line in file.read_text().splitlines()]
    metrics, prompts = by_hand(result.command, monkeypatch)
    assert metrics == of_lm_eval(result.metrics)
    assert {one["doc_id"]: one["prompt_hash"] for one in ours} == prompts


@pytest.mark.slow
def test_auto_is_off_without_a_template_and_on_is_an_error(model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    config = json.loads((bare / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    results = TaskResults(tmp_path / "results")
    done = evaluate_suite(bare, load_suite(suite(tmp_path, "chat_template: auto")), results=results, limit=1)
    assert {stored.result.chat for stored in done.results} == {False}
    with pytest.raises(
        EvaluationError, match="its tokenizer has no chat template; set off or auto, or give a template"
    ):
        evaluate_suite(bare, load_suite(suite(tmp_path, "chat_template: on")), results=results, limit=1)


@pytest.mark.slow
def test_programs_that_models_write_are_run_where_the_suite_says_so_and_in_the_worker_alone(
    model: Path, tmp_path: Path
) -> None:
    path = write_suite(tmp_path)
    kept = [line for line in path.read_text().splitlines() if "task:" not in line or "generate" in line]
    path.write_text("\n".join(kept) + "\n")
    tasks = tmp_path / "tasks"
    (tasks / "run.py").write_text(
        "import os\n\n\ndef allowed(predictions, references, **_):\n"
        "    return float(os.environ.get('HF_ALLOW_CODE_EVAL') == '1')\n"
    )
    generate = (
        (tasks / "generate.yaml")
        .read_text()
        .replace(
            "[{metric: exact_match}]", "[{metric: !function run.allowed, aggregation: mean, higher_is_better: true}]"
        )
    )
    (tasks / "generate.yaml").write_text(generate + "unsafe_code: true\n")
    path.write_text(path.read_text().replace("exact_match", "allowed"))
    with pytest.raises(EvaluationError, match="marked as unsafe"):
        evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    path.write_text(path.read_text() + "unsafe_code: true\n")
    done = evaluate_suite(model, load_suite(path), results=TaskResults(tmp_path / "results"))
    assert done.scores.tasks[0].value == 1.0
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    command = done.results[0].result.command
    assert command[:2] == ["env", "HF_ALLOW_CODE_EVAL=1"]
    assert "--confirm_run_unsafe_code" in command
