"""What `plan` says of the last build is what is known: digests where there are any, and else that there are none."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_assets import api
from merge_assets.plan import Plan, PlanInput, build_plan
from merge_assets.plan.describe import difference_summary
from merge_assets.plan.difference import Difference, difference
from merge_assets.settings import Settings
from merge_assets.workspace import Models
from tests.commands import run_command
from tests.synthetic import write_llama
from tests.vocabulary_support import numbered, word_document

SLERP = "merge_method: slerp\nbase_model: ./a\nmodels: [{model: ./b}]\nparameters: {t: 0.5}\n"
INNER = f"{SLERP}materialize: false\n"
OUTER = "merge_method: linear\nmodels: [{model: inner}, {model: ./c}]\nparameters: {weight: 1}\n"
TENSORS = 2 + 2 * 9 + 1
"""Of the checkpoints here."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        write_llama(tmp_path / name, 2, seed=seed)
    write(tmp_path, "mix", SLERP)
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / f"{name}.yaml").write_text(text)


def workspace(project: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=project, device="cpu", threads=1))


def build(project: Path, name: str = "mix") -> str:
    """The stored plan of a build."""
    space = workspace(project)
    return api.build(space, space.recipe(name)).artifact.read_bytes("plan.json").decode()


def now(project: Path, name: str = "mix") -> Plan:
    space = workspace(project)
    return api.plan(space, space.recipe(name))


def forget(project: Path) -> None:
    """As on another machine that shares the store: no digest is known."""
    for entry in (project / "var" / "cache" / "digests").iterdir():
        entry.unlink()


def test_an_untouched_recipe_does_not_differ_once_its_inputs_are_digested(project: Path) -> None:
    old = build(project)
    made = difference(now(project), old)
    assert made.is_empty and made.unchanged == TENSORS
    assert now(project).key == json.loads(old)["key"]


def test_of_inputs_that_are_not_digested_nothing_is_claimed(project: Path) -> None:
    old = build(project)
    forget(project)
    made = difference(now(project), old)
    assert (made.changed, made.unchanged, made.open) == ((), 0, TENSORS)
    assert made.undigested == ("./a", "./b") and not made.is_other and not made.is_empty
    assert difference_summary(made) == (
        f"nothing differs in the recipe; tensors: {TENSORS} unchanged if the inputs' bytes are "
        "(inputs not digested yet: ./a, ./b)"
    )


def test_an_edit_is_told_from_what_is_not_known(project: Path) -> None:
    old = build(project)
    forget(project)
    write(project, "mix", SLERP.replace("t: 0.5", "t: [{filter: mlp, value: 0.2}, {value: 0.5}]"))
    made = difference(now(project), old)
    assert len(made.changed) == 6 and made.reasons == {"parameters": 6}
    assert (made.open, made.unchanged) == (TENSORS - 6, 0)


def test_a_file_that_was_touched_is_not_digested(project: Path) -> None:
    old = build(project)
    os.utime(project / "b" / "model.safetensors", (1, 1))
    made = difference(now(project), old)
    assert (made.undigested, made.open) == (("./b",), TENSORS)


def test_changed_bytes_that_are_digested_change_their_tensors(project: Path) -> None:
    old = build(project)
    other = write_llama(project / "other", 2, seed=1, edit={"model.norm.weight": torch.ones(16, dtype=torch.bfloat16)})
    os.replace(other / "model.safetensors", project / "b" / "model.safetensors")  # noqa: PTH105
    space = workspace(project)
    Models(space).fetch(api.load_recipe(project / "recipes" / "mix.yaml").models[0].model)  # digests it
    made = difference(now(project), old)
    assert made.changed == ("model.norm.weight",) and made.reasons == {"bytes of an input": 1}


def test_what_is_folded_in_is_known_as_well(project: Path) -> None:
    write(project, "inner", INNER)
    write(project, "outer", OUTER)
    old = build(project, "outer")
    assert difference(now(project, "outer"), old).is_empty
    forget(project)
    made = difference(now(project, "outer"), old)
    assert (made.changed, made.open, set(made.undigested)) == ((), TENSORS, {"./a", "./b", "./c"})
    write(project, "inner", INNER.replace("0.5", "0.6"))
    assert difference(now(project, "outer"), old).reasons == {"parameters": TENSORS}


def of_fingerprints(project: Path, fingerprint: str | None) -> Difference:
    """A build from digested inputs, beside a plan that knows fingerprints alone, as of models on the Hub."""
    space = workspace(project)
    recipe = space.recipe("mix")
    digested = [Models(space).fetch(reference) for reference in recipe.references()]
    old = build_plan(recipe, digested).to_json()
    known = [PlanInput(i.reference, i.checkpoint, fingerprint or i.fingerprint) for i in digested]
    return difference(build_plan(recipe, known), old)


def test_the_fingerprint_of_a_model_vouches_for_all_its_tensors(project: Path) -> None:
    assert of_fingerprints(project, None).is_empty
    assert of_fingerprints(project, "another").undigested == ("./a", "./b")


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "shard size": ({"shard_size": 4_000}, "other shards"),
    "config": ({"recipe": f"{SLERP}dtype: float32\n"}, "config: "),
    "tokenizer": ({"recipe": f"{SLERP}chat_template: chatml\n"}, "files: "),
}


@pytest.mark.parametrize("case", EDITS)
def test_nothing_differs_only_where_the_same_version_would_be_built(case: str, project: Path) -> None:
    edit, shown = EDITS[case]
    for name in "ab":
        (project / name / "tokenizer.json").write_text(json.dumps(word_document(numbered("<unk>", "the", "cat"))))
    old = build(project)
    if "recipe" in edit:
        write(project, "mix", edit["recipe"])
    space = workspace(project)
    plan = api.plan(space, space.recipe("mix"), shard_size=edit.get("shard_size"))
    made = difference(plan, old)
    assert plan.key != json.loads(old)["key"]
    assert made.is_other and not made.is_empty
    assert shown in difference_summary(made)


def test_a_tokenizer_file_of_another_size_differs_without_a_digest(project: Path) -> None:
    old = build(project)
    (project / "a" / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    assert difference(now(project), old).files == ("tokenizer.json",)


def test_other_numerics_of_the_engine_are_told(project: Path) -> None:
    old = json.loads(build(project))
    plan = now(project)
    for tensor in old["tensors"]:
        tensor["key"] = "0" * 64
    assert difference(plan, json.dumps(old)).reasons == {"engine numerics": TENSORS}
    assert difference(replace(plan, tensors=plan.tensors[:-1]), json.dumps(old)).removed == (plan.tensors[-1].name,)


@pytest.mark.slow
def test_the_command_says_what_is_known(project: Path) -> None:
    build(project)
    assert ": nothing differs\n" in run_command("plan", "mix", root=project).stdout
    forget(project)
    done = run_command("plan", "mix", root=project)
    assert "0 unchanged" not in done.stdout and "inputs not digested yet: ./a, ./b" in done.stdout
    done = run_command("plan", "mix", "--json", root=project)
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["last_build"]["difference"]["undigested"] == ["./a", "./b"]
    assert found["models"][0]["fingerprint"] is None and len(found["tensors"]) == TENSORS
