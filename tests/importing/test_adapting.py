"""What others wrote for mergekit is written so that it means the same here, and every change is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge_assets.errors import PlanError, RecipeError
from merge_assets.importing.elsewhere import with_models_replaced
from merge_assets.plan import check_alone
from merge_assets.recipe import load_recipe
from tests.importing.test_config import LINEAR, SLERP, imported, meaning, refusal
from tests.recipe_support import write

SHA = "0123456789abcdef0123456789abcdef01234567"
SCE = "models:\n  - model: org/a\n  - model: org/b\nmerge_method: sce\nbase_model: org/base\n"
TIES = (
    "models:\n  - model: org/a\n    parameters: {density: 0.5, weight: 1}\n  - model: org/b\n    parameters:\n      weight: 1\n"
    "merge_method: ties\nbase_model: org/base\ndtype: float16\n"
)
STACK = "slices:\n  - sources:\n      - model: org/a\n        layer_range: [0, 8]\nmerge_method: passthrough\n"
ALONE = "base_model: org/a\nmodels:\n  - model: org/a+org/lora\nmerge_method: task_arithmetic\n"

CASES = {
    "a parameter at the top level": (
        SCE + "select_topk: 0.3\n",
        SCE + "parameters: {select_topk: 0.3}\n",
        "select_topk: 0.3 is a parameter of sce, moved into parameters",
    ),
    "a parameter beside parameters": (
        SCE + "select_topk: 0.3\nparameters:\n  int8_mask: true\n",
        SCE + "parameters: {int8_mask: true, select_topk: 0.3}\n",
        "moved into parameters",
    ),
    "a model's parameter": (
        LINEAR.replace("    parameters:\n      weight: 0.25", "    weight: 0.25"),
        LINEAR,
        "models[0].weight: 0.25 is a parameter of linear, moved into parameters; mergekit reads it only there",
    ),
    "two models' parameters": (
        LINEAR.replace("    parameters:\n      weight", "    weight"),
        LINEAR,
        "models[1].weight: 0.75 is a parameter of linear",
    ),
    "a model's parameter in braces": (
        TIES.replace("parameters: {density: 0.5, weight: 1}", "parameters: {density: 0.5}\n    weight: 1"),
        TIES,
        "models[0].weight: 1",
    ),
    "a model in braces": (
        "models: [{model: org/a, weight: 0.25}, {model: org/b, weight: 0.75}]\nmerge_method: linear\ndtype: float16\n",
        LINEAR,
        "models[0].weight: 0.25",
    ),
    "a parameter of no method": (
        LINEAR + "parameters:\n  embed_slerp: true\n",
        LINEAR,
        "parameters.embed_slerp is a parameter of no method; mergekit ignores it, and it is a comment now",
    ),
    "one of two parameters": (
        LINEAR + "parameters:\n  embed_slerp: true\n  normalize: false\n",
        LINEAR + "parameters: {normalize: false}\n",
        "parameters.embed_slerp",
    ),
    "a key of no model": (
        LINEAR.replace("  - model: org/b\n", "  - model: org/b\n    note: good\n"),
        LINEAR,
        "models[1].note is no key of a model",
    ),
    "a revision": (
        LINEAR.replace("  - model: org/b\n", "  - model: org/b+org/l\n    revision: v2\n"),
        LINEAR.replace("org/b", "org/b@v2+org/l"),
        "models[1].revision: v2 now stands behind the model's name, as @v2",
    ),
    "a revision that looks like a number": (
        STACK.replace("        layer", "        revision: 2024\n        layer"),
        STACK.replace("org/a", "org/a@2024"),
        "slices[0].sources[0].revision: 2024",
    ),
    "an old tokenizer_source": (
        LINEAR + "tokenizer_source: model:org/a\n",
        LINEAR + "tokenizer_source: org/a\n",
        "tokenizer_source: model:org/a is an old way to write org/a",
    ),
    "paths of the Hub's cache": (
        SLERP.replace("org/a", f"/root/.cache/huggingface/hub/models--org--a/snapshots/{SHA}"),
        SLERP.replace("org/a", f"org/a@{SHA}"),
        f"base_model: the path is one of the Hub's cache; written as org/a@{SHA}",
    ),
    "paths of the Hub's cache of Windows": (
        LINEAR.replace("org/a", rf"C:\Users\me\.cache\huggingface\hub\models--org--a\snapshots\{SHA}"),
        LINEAR.replace("org/a", f"org/a@{SHA}"),
        "models[0].model: the path is one of the Hub's cache",
    ),
    "a slice without layers": (
        STACK.replace("slices:\n", "slices:\n  - sources:\n      - model: org/b\n        layer_range: [4, 4]\n"),
        STACK,
        "slices[0] takes no layers ([4, 4]), and is a comment now",
    ),
    "an adapter on its own model": (ALONE, ALONE.replace("task_arithmetic", "passthrough"), "written as passthrough"),
    "an adapter on itself": (
        ALONE.replace("base_model: org/a", "base_model: org/a+org/lora") + "parameters:\n  weight: 1.0\n",
        ALONE.replace("base_model: org/a", "base_model: org/a+org/lora").replace("task_arithmetic", "passthrough"),
        "task_arithmetic of org/a+org/lora with itself is that model with its adapter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_written_as_it_is_meant_here(case: str, tmp_path: Path) -> None:
    text, plain, says = CASES[case]
    found = imported(text)
    expected = load_recipe(write(tmp_path, plain))
    assert meaning(found.recipes[0]) == meaning(expected)
    assert any(says in notice for notice in found.notices), found.notices
    check_alone(found.recipes[0])
    assert imported(found.text).notices == (), "once is enough"


@pytest.mark.parametrize("case", CASES)
def test_the_other_lines_stay_as_they_are(case: str) -> None:
    text, _, _ = CASES[case]
    kept = set(imported(text).text.splitlines())
    changed = [line for line in text.splitlines() if line not in kept]
    assert len(changed) <= 4, changed


def test_what_is_sound_is_not_touched() -> None:
    for text in (LINEAR, SLERP, SCE, TIES, STACK):
        assert (imported(text).text, imported(text).notices) == (text, ())


def test_a_slip_of_the_pen_is_no_key_of_others() -> None:
    assert "did you mean 'layer_range'" in refusal(STACK.replace("layer_range", "layer_rang"))
    with pytest.raises(PlanError, match="did you mean 'weight'"):
        check_alone(imported(LINEAR.replace("weight", "wieght")).recipes[0])


def test_weights_other_than_one_are_no_copy() -> None:
    found = imported(ALONE.replace("org/lora\n", "org/lora\n    parameters: {weight: 0.5}\n"))
    assert (found.recipes[0].merge_method, found.notices) == ("task_arithmetic", ())


def test_models_of_the_authors_machine_are_replaced(tmp_path: Path) -> None:
    text = LINEAR.replace("org/a", "/home/me/models/a").replace("org/b", r"D:\models\b+./c")
    found = with_models_replaced(
        imported(text), Path("x.md"), "x", {"/home/me/models": "mine", "D:\\models\\": "org", "./c": "org/c@v1"}
    )
    expected = LINEAR.replace("org/a", "mine/a").replace("org/b", "org/b+org/c@v1")
    assert meaning(found.recipes[0]) == meaning(load_recipe(write(tmp_path, expected)))
    assert [line for line in found.text.splitlines() if "model:" not in line] == [
        line for line in text.splitlines() if "model:" not in line
    ]
    with pytest.raises(RecipeError, match=r"--replace /home/you=…: the config names no such model"):
        with_models_replaced(imported(text), Path("x.md"), "x", {"/home/you": "org"})
    with pytest.raises(RecipeError, match=r"--replace: '@' is not a model reference"):
        with_models_replaced(imported(text), Path("x.md"), "x", {"./c": "@"})


# -- other places ------------------------------------------------------------------------------------------------------


def test_here_documents_and_texts_in_code(tmp_path: Path) -> None:
    expected = meaning(load_recipe(write(tmp_path, LINEAR)))
    shell = f"# Run\n```bash\ncat > one.yml << 'EOF'\n{LINEAR}EOF\nmergekit-yaml one.yml ./out --cuda\n```\n"
    python = (
        f'# Run\n```python\nimport yaml\nconfig = """\n{LINEAR}"""\nwith open("x") as f:\n    f.write(config)\n```\n'
    )
    for card in (shell, python):
        found = imported(card)
        assert meaning(found.recipes[0]) == expected
        assert found.repairs == ()
    assert imported(shell).place == "code block at line 4"


def test_a_notebook(tmp_path: Path) -> None:
    sources = [
        ("markdown", "# Merge\n"),
        ("code", "!pip install mergekit\n"),
        ("code", f'one = """\n{LINEAR}"""\n'),
        ("code", f"%%writefile two.yaml\n{SLERP.replace('org/b', './one')}"),
        ("code", "!mergekit-yaml two.yaml out"),
    ]
    cells = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in sources]
    found = imported(json.dumps({"cells": cells, "nbformat": 4}), "merge.ipynb")
    assert [recipe.merge_method for recipe in found.recipes] == ["linear", "slerp"]
    assert meaning(found.recipes[0]) == meaning(load_recipe(write(tmp_path, LINEAR)))


def test_comments_of_lines_that_were_joined(tmp_path: Path) -> None:
    lines = LINEAR.replace("merge_method: linear", "# how\nmerge_method: linear  # plain").splitlines()
    found = imported(" ".join(lines))
    assert meaning(found.recipes[0]) == meaning(load_recipe(write(tmp_path, LINEAR)))


@pytest.mark.parametrize("text", [LINEAR, SLERP, STACK])
def test_lost_dashes(text: str, tmp_path: Path) -> None:
    found = imported("\n".join(line.replace("- ", "") for line in text.splitlines()))
    assert meaning(found.recipes[0]) == meaning(load_recipe(write(tmp_path, text)))
    assert found.repairs[0] == "lost dashes"
