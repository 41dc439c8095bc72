"""Contract of `materialise`, the function behind `merge-assets build`: it builds what is out of date, and nothing twice.

The project is real: the shipped demo checkpoints, the real engine, a Dagster instance on disk, steps in processes of
their own. But for one test evaluation is left out, because it takes minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from merge_assets.errors import RecipeError
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.selection import select
from tests.evaluation_support import write_checkpoint, write_suite
from tests.pipeline_support import HUB, MEAN, PRUNED, SECOND, Project, project

__all__ = ["project"]  # fixture

REPOSITORY = Path(__file__).parents[2]

BUILD = """
import json, sys
from merge_assets.pipeline import location, run

def build(*names, **options):
    location.forget()
    made = run.materialise(list(names), **options)
    return {"run": made.run_id, "failed": made.failed, "states": {o.key: [o.state, o.message] for o in made.outcomes}}

if __name__ == "__main__":
    exec(sys.stdin.read())
"""

LINEAR = """\
merge_method: linear
models:
  - {model: checkpoints/manual, parameters: {weight: 1}}
  - {model: checkpoints/scripture, parameters: {weight: 1}}
dtype: bfloat16
"""
NESTED = """\
merge_method: slerp
base_model: mean
models: [{model: mean}, {model: checkpoints/base}]
parameters: {t: 0.3}
dtype: bfloat16
"""
SHORT = """\
merge_method: passthrough
prune_layers: {model: checkpoints/base, by: snr, tensor: self_attn.v_proj, remove: {lowest: 2}}
dtype: bfloat16
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "recipes").mkdir()
    (folder / "merge-assets.toml").write_text("default_suites = []\n")
    (folder / "build.py").write_text(BUILD)
    for name in ("base", "manual", "scripture"):
        shutil.copytree(REPOSITORY / "examples" / "checkpoints" / name, folder / "checkpoints" / name)
    for name, text in (("mean", LINEAR), ("nested", NESTED), ("short", SHORT)):
        (folder / "recipes" / f"{name}.yaml").write_text(text)
    return folder


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGE_ASSETS_", "DAGSTER_"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}


def script(root: Path, text: str) -> list[dict[str, Any]]:
    """Run lines of Python that call ``build``; what each printed."""
    done = subprocess.run(
        [sys.executable, "build.py"],
        input=text,
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def states(made: dict[str, Any]) -> dict[str, str]:
    return {key: state for key, (state, _) in made["states"].items()}


@pytest.mark.slow
def test_builds_once_then_only_what_changed(root: Path) -> None:
    """One process, so that Dagster and torch are imported once; each line is one `merge-assets build`."""
    first, second, edited, lost, named, again = script(
        root,
        """
from pathlib import Path
import shutil
print(json.dumps(build()))
print(json.dumps(build()))
recipe = Path("recipes/mean.yaml")
recipe.write_text(recipe.read_text().replace("scripture, parameters: {weight: 1}", "scripture, parameters: {weight: 3}"))
print(json.dumps(build()))
shutil.rmtree("var/store/variants/short")
print(json.dumps(build()))
print(json.dumps(build("mean", "short", force=True)))
print(json.dumps(build("short", refresh=True)))
""",
    )
    bases = {f"base/checkpoints/{name}" for name in ("base", "manual", "scripture")}
    built = {"variants/mean", "variants/nested", "variants/short", "snr/checkpoints/base"}
    assert states(first) == {**dict.fromkeys(bases, "observed"), **dict.fromkeys(built, "built")}
    assert not first["failed"]

    assert states(second) == dict.fromkeys(bases | built, "up to date")
    assert second["run"] is None

    changed = {key for key, state in states(edited).items() if state != "up to date"}
    assert changed == {"variants/mean", "variants/nested"}
    reason = edited["states"]["variants/mean"][1]
    assert re.fullmatch(
        r"the recipe, its method or the numerics version changed: [0-9a-f]{12} then, [0-9a-f]{12} now", reason
    )

    assert {key for key, state in states(lost).items() if state != "up to date"} == {"variants/short"}
    assert lost["states"]["variants/short"] == ["built", "its artifact is no longer in the store"]

    assert states(named) == {
        **dict.fromkeys(bases, "up to date"),
        **dict.fromkeys(("variants/mean", "variants/short"), "computed again, equal"),
        "snr/checkpoints/base": "measured again",
    }
    assert states(again) == {
        "base/checkpoints/base": "up to date",
        "snr/checkpoints/base": "measured again",
        "variants/short": "reused from the store",
    }
    assert again["states"]["snr/checkpoints/base"][1] == "nothing changed"
    assert again["states"]["variants/short"][1] == "snr/checkpoints/base is measured again"
    check_records(root, runs=[made["run"] for made in (first, edited, lost, named, again)])
    check_metadata(root)


def check_records(root: Path, runs: list[str]) -> None:
    """The runs are on the project's own instance, where the UI shows them, and the checks passed."""
    with dg.DagsterInstance.from_config(str(root / "var" / "dagster")) as instance:
        recorded = instance.get_runs()
        assert {run.run_id for run in recorded} == set(runs)
        assert {run.status for run in recorded} == {dg.DagsterRunStatus.SUCCESS}
        evaluations = [
            entry.asset_check_evaluation for entry in instance.all_logs(runs[0]) if entry.asset_check_evaluation
        ]
        assert len(evaluations) == 9
        assert all(evaluation.passed for evaluation in evaluations)


def check_metadata(root: Path) -> None:
    """What a person finds on the page of a variant and of an analysis."""
    with dg.DagsterInstance.from_config(str(root / "var" / "dagster")) as instance:
        variant = latest(instance, "variants", "short")
        layers = len(variant["layer_map"].records) and variant["layers"].value
        assert layers == latest(instance, "base", "checkpoints", "base")["layers"].value - 2
        assert len(variant["removed_layers"].records) == 2
        assert variant["written_mib"].value == 0, "it was reused in its last run"
        assert latest(instance, "variants", "mean")["written_mib"].value > 0, "it was computed again"
        assert "prune_layers" in variant["recipe"].md_str
        assert "layer_range" in variant["mergekit_config"].md_str
        assert Path(variant["artifact"].path).is_dir()
        analysis = latest(instance, "snr", "checkpoints", "base")
        assert analysis["heat_map"].md_str.startswith("![")
        assert "data:image/png;base64," in analysis["heat_map"].md_str
        assert len(analysis["snr"].records) == layers + 2


def latest(instance: dg.DagsterInstance, *key: str) -> Any:
    record = instance.get_latest_data_version_record(dg.AssetKey(list(key)))
    assert record is not None
    event = record.event_log_entry.asset_materialization or record.event_log_entry.asset_observation
    assert event is not None
    return event.metadata


@pytest.mark.slow
@pytest.mark.thorough
def test_computing_again_says_equal_or_fails_also_to_programs(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns("var"))
    built, equal, damaged = script(
        folder,
        """
import contextlib, io
from pathlib import Path
from merge_assets.cli.pipeline import run_build

def forced():
    location.forget()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run_build(["mean"], with_scores=False, force=True, as_json=True)
    print(json.dumps({"code": code, **json.loads(out.getvalue())}))

forced()
forced()
file = next(Path("var/store/variants/mean").glob("*/model.safetensors"))
file.chmod(0o644)
raw = bytearray(file.read_bytes())
raw[-1] ^= 1
file.write_bytes(raw)
forced()
""",
    )
    states = [made["outcomes"][-1]["state"] for made in (built, equal, damaged)]
    assert states == ["built", "computed again, equal", "failed"]
    assert [made["code"] for made in (built, equal, damaged)] == [0, 0, 1]
    assert "the stored ones are others by now: " in damaged["outcomes"][-1]["message"]
    assert damaged["failed"] and not equal["failed"]


@pytest.mark.slow
def test_a_stopped_build_leaves_nothing_half_written(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns("var"))
    process = subprocess.Popen(
        [sys.executable, "build.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment(),
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("print(json.dumps(build()))")
    process.stdin.close()
    process.stdin = None
    try:
        deadline = time.monotonic() + 200
        drafts = folder / "var" / "store" / ".drafts"
        while not (drafts.is_dir() and any(drafts.iterdir())):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    made = json.loads(output.splitlines()[-1])
    assert made["failed"]
    # What was finished waits for the next attempt, out of every reader's sight.
    assert all(path.name.startswith("kept-") for path in drafts.iterdir() if path.is_dir())
    committed = {path.parent for path in (folder / "var" / "store").rglob("manifest.json")}
    whole = {path.parent for path in (folder / "var" / "store").rglob("config.json") if drafts not in path.parents}
    assert whole <= committed


@pytest.mark.slow
def test_the_leaderboard_is_made_of_what_is_there_where_an_evaluation_fails(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one")
    file = write_suite(tmp_path / "suites")
    (file.parent / "long.yaml").write_text(
        f"{file.read_text().partition('tasks:')[0].replace('tiny', 'long')}"
        "generation: {max_gen_toks: 100000}\ntasks:\n  - {task: tiny_generate, metric: exact_match}\n"
    )
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "same.yaml").write_text(
        "merge_method: passthrough\nmodels: [{model: one}]\nevaluate: [tiny, long]\n"
    )
    (tmp_path / "merge-assets.toml").write_text("default_suites = []\n")
    (tmp_path / "build.py").write_text(BUILD)
    (made,) = script(tmp_path, "print(json.dumps(build('same')))")
    assert made["failed"] and list(made["states"])[-1] == "leaderboard"
    assert states(made) == {
        "base/one": "observed",
        "variants/same": "built",
        "scores/tiny/one": "built",
        "scores/tiny/same": "built",
        "scores/long/one": "failed",
        "scores/long/same": "failed",
        "leaderboard": "built",
    }


def test_selecting_a_recipe_selects_what_it_needs(project: Project) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    project.recipe("pruned", PRUNED)
    graph = build_graph(project.workspace())
    found = select(graph, ["second"])
    assert keys(found.keys) == {
        "variants/mean",
        "variants/second",
        "scores/quick/mean",
        "scores/quick/second",
        "scores/quick/checkpoints/one",
        "scores/quick/checkpoints/two",
        "scores/quick/checkpoints/three",
        "leaderboard",
    }
    assert [base.parts[-1] for base in found.bases] == ["one", "three", "two"]
    assert keys(select(graph, ["pruned"], with_scores=False).keys) == {"variants/pruned", "snr/checkpoints/three"}


def test_hub_recipes_are_selected_only_by_name(project: Project) -> None:
    project.recipe("mean", MEAN)
    project.recipe("far", HUB)
    graph = build_graph(project.workspace())
    assert "variants/far" not in keys(select(graph, []).keys)
    assert "variants/far" in keys(select(graph, ["far"]).keys)


def test_an_unknown_name_and_a_broken_recipe_are_errors(project: Project) -> None:
    project.recipe("mean", MEAN)
    project.recipe("wrong", "merge_methd: linear\n")
    graph = build_graph(project.workspace())
    with pytest.raises(RecipeError, match="did you mean 'mean'"):
        select(graph, ["maen"])
    with pytest.raises(RecipeError, match="merge_methd"):
        select(graph, ["wrong"])


def keys(found: Any) -> set[str]:
    return {key.to_user_string() for key in found}
