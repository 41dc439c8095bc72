"""Every key of a suite, and every word that a key may take, does something: lm-eval is asked differently, or scores differ.

The walk takes all keys and words from the schema and fails where one has no example. lm-eval's own evaluation is left out here:
what it is asked is recorded, and it answers with fixed numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from pydantic import BaseModel
from transformers import GenerationConfig

from merge_assets.errors import EvaluationError
from merge_assets.evaluation import runner
from merge_assets.evaluation import suite as schema
from merge_assets.evaluation.endpoint import Server
from merge_assets.evaluation.model_settings import ModelSettings
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import Other, evaluate_suite
from merge_assets.evaluation.suite import load_suite
from merge_assets.evaluation.suite_task import SuiteTask
from merge_assets.pipeline.nodes import ModelNode, ScoresNode
from merge_assets.pipeline.scores import scores_spec
from merge_assets.reference import ModelReference
from tests.evaluation_support import HereWorker, write_suite
from tests.recipe.test_schema_keys import words
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

TASK = "{task: tiny_choice, metric: acc, shots: 0}"


def suite(task: str = TASK, top: str = "", include: str = "tasks") -> str:
    return f"include_path: {include}\ntasks: [{task}]\n{top}\n"


def task(more: str) -> str:
    """The suite with another key of its task, or another value of one."""
    key = more.partition(":")[0]
    keys = dict(pair.split(": ") for pair in TASK.strip("{}").split(", "))
    return suite("{" + ", ".join([*(f"{k}: {v}" for k, v in keys.items() if k != key), more]) + "}")


def formula(part: str = "task: tiny_choice") -> str:
    """The suite with another metric and another task, and a headline of two parts."""
    tasks = f"{TASK}, {TASK.replace('acc', 'acc_norm')}, {TASK.replace('tiny_choice', 'tiny_second')}"
    other = "tiny_choice" if "tiny_second" in part else "tiny_second"
    return suite(tasks, top=f"headline: [{{{part}}}, {{task: {other}, weight: 5, metrics: [acc]}}]")


EXAMPLES: dict[str, tuple[str, str]] = {
    "SuiteTask.task": (suite(), task("task: tiny_second")),
    "SuiteTask.metric": (suite(), task("metric: acc_norm")),
    "SuiteTask.shots": (suite(), task("shots: 2")),
    "SuiteTask.limit": (suite(), task("limit: 3")),
    "SuiteTask.revision": (suite(), task(f"revision: {'a' * 40}")),  # which tasks of local files refuse
    "SuiteTask.higher_is_better": (
        task("higher_is_better: true, headline: false"),
        task("higher_is_better: false, headline: false"),
    ),
    "SuiteTask.headline": (suite(), task("headline: false")),
    "SuiteTask.text": (suite(), suite("{text: words.txt, metric: perplexity}")),
    "SuiteTask.piece": (
        suite("{text: words.txt, metric: perplexity}"),
        suite("{text: words.txt, metric: perplexity, piece: 64}"),
    ),
    "SuiteTask.to": (suite(), suite("{text: words.txt, metric: kl, to: m}")),
    "Suite.confirm": (suite(), suite(top="confirm: 2")),
    "Suite.name": (suite(), suite(top="name: other")),
    "Suite.description": (suite(), suite(top="description: Words")),
    "DeclaredPart.task": (formula(), formula("task: tiny_second")),
    "DeclaredPart.metrics": (formula(), formula("task: tiny_choice, metrics: [acc]")),
    "DeclaredPart.subtasks": (formula(), formula("task: tiny_choice, subtasks: true")),  # which is for groups
    "DeclaredPart.choices": (formula(), formula("task: tiny_choice, choices: 3")),
    "DeclaredPart.weight": (formula(), formula("task: tiny_choice, weight: 2")),
    "Suite.headline": (suite(), suite(top="headline: median")),
    "Suite.headline: average": (suite(top="headline: average"), suite(top="headline: median")),
    "Suite.tasks": (suite(), suite(f"{TASK}, {TASK.replace('acc', 'acc_norm')}")),
    "Suite.include_path": (suite(), suite(include="other")),
    "Suite.seed": (suite(), suite(top="seed: 7")),
    "Suite.batch_size": (suite(), suite(top="batch_size: 4")),
    "Suite.chat_template": (suite(), suite(top="chat_template: '{{ messages[0].content }}'")),
    "Suite.chat_template: auto": (suite(top="chat_template: auto"), suite(top="chat_template: on")),
    "Suite.chat_template: on": (suite(top="chat_template: on"), suite(top="chat_template: off")),
    "Suite.chat_template: off": (suite(top="chat_template: off"), suite(top="chat_template: on")),
    "Suite.fewshot_as_multiturn": (
        suite(top="chat_template: on"),
        suite(top="chat_template: on\nfewshot_as_multiturn: false"),
    ),
    "Suite.system_prompt": (suite(), suite(top="system_prompt: Be brief.")),
    "Suite.generation": (suite(), suite(top="generation: {max_gen_toks: 5}")),
    "Suite.max_length": (suite(), suite(top="max_length: 32")),
    "Suite.model_args": (suite(), suite(top="model_args: {add_bos_token: true}")),
    "Suite.parallelize": (suite(), suite(top="parallelize: true")),
    "Suite.unsafe_code": (suite(), suite(top="unsafe_code: true")),
    "Generation.max_gen_toks": (suite(), suite(top="generation: {max_gen_toks: 5}")),
    "Generation.until": (suite(), suite(top="generation: {until: ['!']}")),
    "Generation.do_sample": (suite(), suite(top="generation: {do_sample: true}")),
    "Generation.temperature": (
        suite(top="generation: {do_sample: true}"),
        suite(top="generation: {do_sample: true, temperature: 0.5}"),
    ),
    "Generation.top_p": (
        suite(top="generation: {do_sample: true}"),
        suite(top="generation: {do_sample: true, top_p: 0.5}"),
    ),
    "Generation.top_k": (
        suite(top="generation: {do_sample: true}"),
        suite(top="generation: {do_sample: true, top_k: 5}"),
    ),
    "Generation.num_beams": (suite(), suite(top="generation: {num_beams: 2}")),
    "Generation.repetition_penalty": (suite(), suite(top="generation: {repetition_penalty: 1.5}")),
    "ModelArguments.add_bos_token": (suite(), suite(top="model_args: {add_bos_token: true}")),
    "ModelArguments.prefix_token_id": (suite(), suite(top="model_args: {prefix_token_id: 1}")),
    "ModelArguments.logits_cache": (suite(), suite(top="model_args: {logits_cache: false}")),
    "ModelArguments.softmax_dtype": (suite(), suite(top="model_args: {softmax_dtype: float32}")),
    "ModelArguments.softmax_dtype: float32": (
        suite(top="model_args: {softmax_dtype: float32}"),
        suite(top="model_args: {softmax_dtype: float64}"),
    ),
    "ModelArguments.softmax_dtype: float64": (
        suite(top="model_args: {softmax_dtype: float64}"),
        suite(top="model_args: {softmax_dtype: float32}"),
    ),
    "ModelArguments.enable_thinking": (suite(), suite(top="model_args: {enable_thinking: true}")),
    "ModelArguments.think_end_token": (suite(), suite(top="model_args: {think_end_token: '</think>'}")),
    "Suite.batch_size: auto": (suite(top="batch_size: auto"), suite(top="batch_size: 4")),
    "Suite.trust_remote_code": (suite(), suite(top="trust_remote_code: [m]")),
    "Suite.backend": (suite(), suite(top="backend: endpoint")),
    "Suite.backend: hf": (suite(top="backend: hf"), suite(top="backend: endpoint")),
    "Suite.backend: endpoint": (suite(top="backend: endpoint"), suite(top="backend: vllm")),
    "Suite.backend: vllm": (suite(top="backend: vllm"), suite(top="backend: hf")),
    "Suite.vllm": (suite(top="backend: vllm"), suite(top="backend: vllm\nvllm: {tensor_parallel_size: 2}")),
    "VllmArguments.tensor_parallel_size": (
        suite(top="backend: vllm"),
        suite(top="backend: vllm\nvllm: {tensor_parallel_size: 2}"),
    ),
    "VllmArguments.data_parallel_size": (
        suite(top="backend: vllm"),
        suite(top="backend: vllm\nvllm: {data_parallel_size: 2}"),
    ),
    "VllmArguments.gpu_memory_utilization": (
        suite(top="backend: vllm"),
        suite(top="backend: vllm\nvllm: {gpu_memory_utilization: 0.5}"),
    ),
    "Suite.dtype": (suite(), suite(top="dtype: float32")),
    "Suite.dtype: auto": (suite(top="dtype: auto"), suite(top="dtype: float32")),
    "Suite.dtype: float32": (suite(top="dtype: float32"), suite(top="dtype: bfloat16")),
    "Suite.dtype: bfloat16": (suite(top="dtype: bfloat16"), suite(top="dtype: float16")),
    "Suite.dtype: float16": (suite(top="dtype: float16"), suite(top="dtype: auto")),
}


def walk() -> Iterator[str]:
    for model in (
        schema.DeclaredPart,
        SuiteTask,
        schema.Suite,
        schema.Generation,
        schema.ModelArguments,
        schema.VllmArguments,
    ):
        assert issubclass(model, BaseModel)
        described = model.model_json_schema()["properties"]
        for key in model.model_fields:
            if (model, key) != (schema.Suite, "file"):  # where it was read, no key
                yield f"{model.__name__}.{key}"
                yield from (f"{model.__name__}.{key}: {word}" for word in words(described[key]))


def test_every_key_and_every_word_of_the_schema_has_an_example() -> None:
    assert sorted(walk()) == sorted(EXAMPLES)


class LmEval:
    """Stands in for the model and the evaluation; keeps what both were asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def model(self, **options: Any) -> object:
        self.asked.append({name: value for name, value in options.items() if name != "config"})
        loaded = SimpleNamespace(generation_config=GenerationConfig(), dtype="float32")
        return SimpleNamespace(
            attach=lambda meter: None,
            watch_layers=lambda: None,
            model=loaded,
            is_asked_in_turns=lambda chat_template: chat_template not in ("off", "auto"),
            begin=lambda known, keep: None,
            choose_batch_size=lambda memory: self.asked.append("room for how many"),
            flaws=dict,
            device="cpu",
            batch_size=options["batch_size"],
            circumstances=lambda: {"device": "cpu", "versions": {}},
        )

    def asking(self, directory: Path, settings: ModelSettings, **options: Any) -> object:
        """The model of a server."""
        return self._other("endpoint", directory, settings)

    def loaded_by_vllm(self, directory: Path, settings: ModelSettings, **options: Any) -> object:
        """The model of vLLM."""
        return self._other("vllm", directory, settings)

    def _other(self, kind: str, directory: Path, settings: ModelSettings) -> object:
        self.asked.append(kind)
        found: Any = self.model(**settings.arguments(), batch_size=1)
        found.arguments = {"pretrained": str(directory)}
        return found

    def simple_evaluate(
        self, *, tasks: list[Any], task_manager: object, model: object, **options: Any
    ) -> dict[str, Any]:
        self.asked.append([options, [(one.config.task, one.config.doc_to_text, one.config.metadata) for one in tasks]])
        name = tasks[0].config.task
        return {
            "samples": {},
            "results": {name: {"acc,none": 0.5, "acc_norm,none": 0.25, "perplexity,none": 2.0}},
            "higher_is_better": {name: {"acc": True, "acc_norm": True}},
            "n-shot": {name: options["num_fewshot"]},
            "n-samples": {name: {"original": 6, "effective": 6}},
            "versions": {},
            "config": {},
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suites")
    write_suite(root).unlink()
    choice = (root / "tasks" / "choice.yaml").read_text()
    (root / "tasks" / "second.yaml").write_text(choice.replace("tiny_choice", "tiny_second"))
    shutil.copytree(root / "tasks", root / "other")
    file = root / "other" / "choice.yaml"
    file.write_text(file.read_text().replace('doc_to_text: "{{question}}"', 'doc_to_text: "Q: {{question}}"'))
    write_llama(root / "model", 2)
    (root / "words.txt").write_text("words and more words\n" * 9)
    return root


def evaluated(text: str, folder: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """What lm-eval was asked, the scores, and what Dagster shows of the suite; digests and times left out."""
    from merge_assets.evaluation import backends, harness

    lm_eval = LmEval()
    monkeypatch.setattr(runner, "ModelWorker", HereWorker)
    monkeypatch.setattr(backends, "WatchedLM", lm_eval.model)
    monkeypatch.setattr(backends, "asking", lm_eval.asking)
    monkeypatch.setattr(backends, "loaded_by_vllm", lm_eval.loaded_by_vllm)
    monkeypatch.setattr(Server, "open", lambda self, work: {"url": "", "model": "", "told": ""})
    monkeypatch.setattr(transformers, "AutoConfig", SimpleNamespace(from_pretrained=lambda *_, **__: SimpleNamespace()))
    monkeypatch.setattr(harness.lm_eval.evaluator, "simple_evaluate", lm_eval.simple_evaluate)
    file = folder / "mine.yaml"
    file.write_text(text)
    try:
        read = load_suite(file)
    except EvaluationError as error:
        return str(error)
    try:
        done = evaluate_suite(
            folder / "model",
            read,
            results=TaskResults(results),
            fingerprint="0" * 64,
            device="cpu",
            trust_remote_code=ModelReference("m") in read.trust_remote_code,
            documents="search" if read.confirm else "all",
            others={name: Other("1" * 64, folder / "model", lambda: lambda: None) for name in read.others},
        )
    except EvaluationError as error:
        return str(error)
    rows = [row.model_dump(exclude={"task_digest", "result", "seconds"}) for row in done.scores.tasks]
    model = ModelNode(ModelReference("m"), "local", ("m",), "m", automated=False)
    spec = scores_spec(ScoresNode(model, read.name, (), automated=False), read)
    page = [done.scores.suite, done.scores.headline, done.scores.seed, spec.description, spec.group_name]
    return [lm_eval.asked, rows, page]


@pytest.mark.parametrize("place", EXAMPLES)
def test_it_does_something(place: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = EXAMPLES[place]
    assert evaluated(one, folder, tmp_path / "one", monkeypatch) != evaluated(
        other, folder, tmp_path / "other", monkeypatch
    )
