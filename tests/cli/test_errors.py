"""Wrong input ends with exit code 2 and one message that names the file and the key path: no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run_command
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

PASS = "merge_method: passthrough\n"

MALFORMED: dict[str, tuple[str, str]] = {
    "typo in a key": (PASS + "modles: [{model: ./a}]\n", "modles"),
    "typo in a nested key": (PASS + "slices: [{sources: [{model: ./a, layer_rang: [0, 1]}]}]\n", "layer_rang"),
    "wrong type of models": (PASS + "models: ./a\n", "models"),
    "wrong type of a layer range": (PASS + "slices: [{sources: [{model: ./a, layer_range: 3}]}]\n", "layer_range"),
    "reversed layer range": (PASS + "slices: [{sources: [{model: ./a, layer_range: [3, 1]}]}]\n", "layer_range"),
    "layer out of range": (PASS + "slices: [{sources: [{model: ./a, layer_range: [2, 9]}]}]\n", "layer_range"),
    "unknown method": ("merge_method: slrp\nmodels: [{model: ./a}]\n", "merge_method"),
    "no method": ("models: [{model: ./a}]\n", "merge_method"),
    "missing parameter": ("merge_method: linear\nmodels: [{model: ./a}]\n", "parameters.weight"),
    "unknown parameter": ("merge_method: linear\nmodels: [{model: ./a}]\nparameters: {wight: 1}\n", "parameters.wight"),
    "parameter that is text": ("merge_method: linear\nmodels: [{model: ./a}]\nparameters: {weight: much}\n", "weight"),
    "infinite parameter": ("merge_method: linear\nmodels: [{model: ./a}]\nparameters: {weight: .inf}\n", "weight"),
    "empty gradient": ("merge_method: linear\nmodels: [{model: ./a}]\nparameters: {weight: []}\n", "weight"),
    "shapes that differ": (
        "merge_method: linear\nmodels: [{model: ./a}, {model: ./wordy}]\nparameters: {weight: 1}\n",
        "embed_tokens",
    ),
    "depths that differ": (
        "merge_method: linear\nmodels: [{model: ./a}, {model: ./deep}]\nparameters: {weight: 1}\n",
        "models",
    ),
    "missing folder": (PASS + "models: [{model: ./nowhere}]\n", "./nowhere"),
    "models and slices": (
        PASS + "models: [{model: ./a}]\nslices: [{sources: [{model: ./a, layer_range: [0, 1]}]}]\n",
        "slices",
    ),
    "nothing to merge": (PASS, "models"),
    "unknown dtype": (PASS + "models: [{model: ./a}]\ndtype: bfloat15\n", "dtype"),
    "no base": ("merge_method: ties\nmodels: [{model: ./a}]\nparameters: {weight: 1}\n", "base_model"),
    "duplicate key": (PASS + "merge_method: linear\nmodels: [{model: ./a}]\n", "merge_method"),
    "broken YAML": (PASS + "models: [{model: ./a\n", "recipe.yaml"),
    "YAML bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "recipe.yaml",
    ),
    "code in YAML": (PASS + "models: !!python/object/apply:os.system ['touch /tmp/owned']\n", "recipe.yaml"),
    "not a mapping": ("- 1\n- 2\n", "recipe.yaml"),
    "bad reference": (PASS + "models: [{model: 'a b@@'}]\n", "model"),
    "overlap that leaves nothing": (PASS + "depth_upscale: {model: ./a, overlap: 4}\n", "depth_upscale.overlap"),
    "pruning without its analysis": (
        PASS + "prune_layers: {model: ./a, by: snr, tensor: v_proj, remove: infinite}\n",
        "prune_layers",
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write_llama(root / "a", 4)
    write_llama(root / "deep", 6)
    write_llama(root / "wordy", 4, vocabulary=48)
    (root / "recipes").mkdir()
    (root / "merge-assets.toml").write_text("")
    return root


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_recipe_is_one_clear_message(case: str, project: Path, tmp_path: Path) -> None:
    text, place = MALFORMED[case]
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    before = sorted(project.rglob("*"))
    done = run_command("merge", str(file), str(tmp_path / "out"), root=project)
    assert done.code == 2
    assert done.stderr.count("error: ") == 1
    assert "recipe.yaml" in done.stderr
    assert place in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()
    assert sorted(tmp_path.iterdir()) == [file]
    assert sorted(project.rglob("*")) == before


def test_a_cycle_names_its_recipes(project: Path, tmp_path: Path) -> None:
    for name, other in (("chicken", "egg"), ("egg", "chicken")):
        (project / "recipes" / f"{name}.yaml").write_text(f"{PASS}models: [{{model: {other}}}]\n")
    (project / "recipes" / "sound.yaml").write_text(f"{PASS}models: [{{model: ./a}}]\n")
    done = run_command("plan", "chicken", root=project)
    assert done.code == 2
    assert "made from itself (chicken <- egg <- chicken)" in done.stderr
    assert "chicken.yaml" in done.stderr
    assert "egg" in done.stderr
    assert run_command("plan", "sound", root=project).code == 0
    listed = run_command("recipes", root=project)
    assert listed.code == 1
    assert "sound" in listed.stdout
    for name in ("chicken", "egg"):
        (project / "recipes" / f"{name}.yaml").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "no-such-recipe"], "there is no recipe 'no-such-recipe'"),
        (["plan", "gone.yaml"], "gone.yaml"),
        (["snr", "./nowhere"], "neither a recipe, nor a local directory"),
        (["importance", "./nowhere", "--text", "t"], "neither a recipe, nor a local directory"),
        (["importance", "./a", "--text", "t", "--kind", "odd"], "--kind odd is not one of activations, perplexity"),
        (["importance", "./a", "--text", "t", "--dtype", "int8"], "--dtype int8: Input should be 'float32', 'float64'"),
        (["importance", "./a", "--text", "t", "--out", "x"], "t: the text cannot be read: No such file or directory"),
        (["evaluate", "./a", "--suite", "nope", "--out", "x"], "nope"),
        (["merge", "./a", "out"], "./a"),
        (["build", "no-such-recipe"], "no-such-recipe"),
        (["frobnicate"], "No such command"),
        (["plan"], "Missing argument"),
        (["merge", "x.yaml", "out", "--device", "tpu"], "tpu"),
        (["merge", "sound", "out", "--shard-size", "big"], "--shard-size"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments: list[str], message: str, project: Path) -> None:
    (project / "recipes" / "sound.yaml").write_text(f"{PASS}models: [{{model: ./a}}]\n")
    done = run_command(*arguments, root=project)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_folder_that_holds_files_is_left_alone(project: Path, tmp_path: Path) -> None:
    (project / "recipes" / "sound.yaml").write_text(f"{PASS}models: [{{model: ./a}}]\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    done = run_command("merge", "sound", str(out), root=project)
    assert done.code == 2
    assert "--overwrite" in done.stderr
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_a_wrong_setting_names_its_variable(project: Path) -> None:
    done = run_command("settings", root=project, environment={"MERGE_ASSETS_THREADS": "many"})
    assert done.code == 2
    assert "MERGE_ASSETS_THREADS" in done.stderr
