"""Contract: a recipe sets how its own variant is asked on a suite, and nothing of what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_assets.errors import EvaluationError, RecipeError
from merge_assets.evaluation.asked import as_asked
from merge_assets.evaluation.model_settings import Generation, ModelArguments, ModelSettings
from merge_assets.evaluation.result_keys import result_keys
from merge_assets.evaluation.suite import Suite, load_suite
from merge_assets.evaluation.suite_task import SuiteTask
from merge_assets.recipe import EvaluateEntry, GenerationEntry, ModelArgumentsEntry, Recipe, load_recipe
from merge_assets.workspace.results import scores_key
from tests.evaluation_support import write_suite

OF_MACHINES = {"parallelize", "unsafe_code", "backend", "vllm"}
"""What a suite alone says: what this machine has, and what may be run on it."""
VALUES: dict[str, tuple[list[Any], list[Any]]] = {  # those that are taken, and those that are refused
    "chat_template": (["on", "off", "auto", "{{ messages }}", True, False], [5, "", [1]]),
    "fewshot_as_multiturn": ([True, False], ["yes please", 1]),
    "system_prompt": (["Be brief."], ["", 5]),
    "max_length": ([2, 4096], [1, 1.5, True, "long"]),
    "dtype": (["auto", "float32", "bfloat16", "float16"], ["float8", 16]),
    "batch_size": ([1, 16, "auto"], [0, True, 1.5, "many"]),
    "generation": ([{}, {"max_gen_toks": 1}], [5, "greedy"]),
    "model_args": ([{}, {"add_bos_token": True}], [5]),
    "generation.max_gen_toks": ([1, 99], [0, 1.5, True]),
    "generation.until": ([["a", "b"], []], ["a", [1]]),
    "generation.do_sample": ([True, False], [1, "yes please"]),
    "generation.temperature": ([0, 0.5, 1], [-1, float("inf"), float("nan"), "hot"]),
    "generation.top_p": ([0.5, 1], [0, 1.5, "half"]),
    "generation.top_k": ([0, 5], [-1, 0.5]),
    "generation.num_beams": ([1, 4], [0, 1.5]),
    "generation.repetition_penalty": ([1, 1.5], [0, float("inf")]),
    "model_args.add_bos_token": ([True, False], [1]),
    "model_args.prefix_token_id": ([0, 5], [-1, "a"]),
    "model_args.logits_cache": ([True, False], ["a"]),
    "model_args.softmax_dtype": (["float32", "float64"], ["float16"]),
    "model_args.enable_thinking": ([True, False], [0]),
    "model_args.think_end_token": (["</think>", 5], [[5], 1.5]),
}


def suite(folder: Path, **more: Any) -> Suite:
    path = write_suite(folder)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **more}))
    return load_suite(path)


def recipe(folder: Path, *entries: Any) -> Recipe:
    file = folder / "mine.yaml"
    content = {"merge_method": "passthrough", "models": [{"model": "a"}], "evaluate": list(entries)}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_recipe(file)


def asked(folder: Path, given: dict[str, Any], **more: Any) -> tuple[Suite, Suite]:
    """A suite, and the same as a recipe has it asked."""
    plain = suite(folder, **more)
    return plain, as_asked(plain, recipe(folder, {"suite": "tiny", **given}))


def nested(key: str, value: Any) -> dict[str, Any]:
    outer, _, inner = key.partition(".")
    more = {"do_sample": True} if inner in ("temperature", "top_p", "top_k") else {}
    return {outer: {inner: value, **more} if inner else value}


def test_a_recipe_has_every_setting_of_a_suite_but_those_of_machines_and_no_other() -> None:
    settings = set(ModelSettings.model_fields) - OF_MACHINES | {"dtype", "batch_size"}
    assert set(EvaluateEntry.model_fields) == settings | {"suite"}
    assert set(GenerationEntry.model_fields) == set(Generation.model_fields)
    assert set(ModelArgumentsEntry.model_fields) == set(ModelArguments.model_fields)
    of_tasks = set(SuiteTask.model_fields) | {"tasks", "seed", "confirm", "include_path", "headline"}
    assert not of_tasks & set(EvaluateEntry.model_fields)
    inner = {f"generation.{key}" for key in Generation.model_fields}
    assert set(VALUES) == settings | inner | {f"model_args.{key}" for key in ModelArguments.model_fields}


@pytest.mark.parametrize("key", VALUES)
def test_a_recipe_takes_what_a_suite_takes_and_refuses_what_a_suite_refuses(key: str, tmp_path: Path) -> None:
    fits, misfits = VALUES[key]
    for value in fits:
        assert as_asked(suite(tmp_path), recipe(tmp_path, {"suite": "tiny", **nested(key, value)})).settings == (
            suite(tmp_path, **nested(key, value)).settings
        )
    for value in misfits:
        with pytest.raises(EvaluationError):
            suite(tmp_path, **nested(key, value))
        with pytest.raises(RecipeError, match=rf"mine\.yaml:\d+: evaluate\[0\]\.{key}"):
            recipe(tmp_path, {"suite": "tiny", **nested(key, value)})


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"suite": "tiny", "system_promt": "a"},
            r"evaluate\[1\]\.system_promt: unknown key, did you mean 'system_prompt'",
        ),
        ({"suite": "tiny", "shots": 5}, r"evaluate\[1\]\.shots: unknown key; known keys: suite, chat_template"),
        (
            {"suite": "tiny", "generation": {"max_tokens": 5}},
            r"evaluate\[1\]\.generation\.max_tokens: .*'max_gen_toks'",
        ),
        ({"chat_template": "on"}, r"evaluate\[1\]\.suite: is missing"),
        (5, r"evaluate\[1\]: 5 is neither the name of a suite nor a mapping with the key suite"),
        ({"suite": "first", "max_length": 9}, r"evaluate\[1\]: first is listed twice and asked otherwise each time"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_key(tmp_path: Path, entry: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        recipe(tmp_path, "first", entry)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}:")


def test_what_goes_not_together_with_the_suite_is_said_of_the_recipe(tmp_path: Path) -> None:
    mine = recipe(tmp_path, {"suite": "tiny", "generation": {"temperature": 0.5}})
    assert as_asked(suite(tmp_path, generation={"do_sample": True}), mine).settings.generation.temperature == 0.5
    with pytest.raises(
        RecipeError, match=r"mine\.yaml:\d+: evaluate\[0\]\.generation: with what .*tiny\.yaml says, temp"
    ):
        as_asked(suite(tmp_path), mine)


def test_other_settings_give_other_results_and_leave_those_of_the_suite_alone(tmp_path: Path) -> None:
    plain, otherwise = asked(tmp_path, {"system_prompt": "Be brief.", "dtype": "float32", "batch_size": 2})
    keys = [result_keys(one, "f", lm_eval="1") for one in (plain, otherwise)]
    assert {key.digest for key in keys[0]}.isdisjoint(key.digest for key in keys[1])
    assert {(key.settings.system_prompt, key.dtype, key.batch_size) for key in keys[1]} == {("Be brief.", "float32", 2)}
    assert [(key.task, key.shots, key.limit, key.seed) for key in keys[0]] == [
        (key.task, key.shots, key.limit, key.seed) for key in keys[1]
    ]
    assert scores_key(otherwise, "f") != scores_key(plain, "f")
    assert otherwise.otherwise == {"system_prompt": "Be brief.", "dtype": "float32", "batch_size": 2}
    assert plain.otherwise == {}


def test_a_mapping_that_says_what_the_suite_says_is_the_suite(tmp_path: Path) -> None:
    said = {"system_prompt": "Be brief.", "generation": {"max_gen_toks": 5}, "dtype": "float32"}
    plain, same = asked(tmp_path, said, **said)
    assert same is plain
    assert asked(tmp_path, {"batch_size": 1}, batch_size=None)[1].otherwise == {}


def test_mappings_are_set_key_by_key_and_null_takes_away_what_the_suite_has(tmp_path: Path) -> None:
    has = {"system_prompt": "Be brief.", "generation": {"max_gen_toks": 5, "num_beams": 2}}
    _, otherwise = asked(tmp_path, {"system_prompt": None, "generation": {"num_beams": None, "until": ["a"]}}, **has)
    assert otherwise.settings.system_prompt is None
    assert otherwise.settings.generation.given() == {"max_gen_toks": 5, "until": ["a"]}
    assert otherwise.otherwise == {
        "system_prompt": None,
        "generation.num_beams": None,
        "generation.until": ["a"],
    }


def test_a_suite_that_the_recipe_does_not_list_is_taken_as_it_is(tmp_path: Path) -> None:
    plain = suite(tmp_path)
    assert as_asked(plain, recipe(tmp_path, {"suite": "other", "dtype": "float32"})) is plain
