"""What differs between two versions, against the files themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.errors import StoreError
from merge_assets.evaluation.scores import Scores
from merge_assets.identity import scores_line
from merge_assets.records import Details, Input
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace.results import SCORES_FILE
from tests.commands import run_command
from tests.leaderboard_support import row
from tests.synthetic import read_tensors, write_llama

RECIPE = """\
merge_method: slerp
base_model: ./a
models: [{model: ./a}, {model: ./b}]
parameters:
  t:
    - filter: self_attn
      value: %s
    - value: 0.25
dtype: float32
"""


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], api.Built]:
    """Builds ``mix`` with a value of t for attention."""
    for name, seed in (("a", 1), ("b", 2)):
        write_llama(tmp_path / name, layers=2, seed=seed)
    (tmp_path / "recipes").mkdir()

    def run(t: str) -> api.Built:
        (tmp_path / "recipes/mix.yaml").write_text(RECIPE % t)
        space = api.Workspace.open(Settings(root=tmp_path))
        return api.build(space, space.recipe("mix"))

    return run


def open_at(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root))


def keep_scores(root: Path, version: str, value: float) -> None:
    """Scores of a version as an evaluation leaves them."""
    space = open_at(root)
    scores = Scores(
        model="mix", fingerprint=version, suite="demo", suite_digest="0" * 64,
        tasks=(row("arc_easy", "acc", value),), headline=value, headline_stderr=0.01, seed=0, versions={},
    )  # fmt: skip
    line = scores_line(space.names.identify(ModelReference("mix")), "demo")
    with space.store.draft(line) as draft:
        (draft.directory / SCORES_FILE).write_text(scores.to_json())
        made_from = [Input(kind="recipe", name="mix", fingerprint=version)]
        draft.commit(scores.digest, key=scores.digest, inputs=made_from, details=Details())


def test_two_builds_of_a_recipe_that_was_edited(build: Callable[[str], api.Built], tmp_path: Path) -> None:
    first, second = build("0.5"), build("0.75")
    keep_scores(tmp_path, first.artifact.version, 0.25)
    keep_scores(tmp_path, second.artifact.version, 0.5)

    found = api.compare(open_at(tmp_path), "mix")

    assert (found.a.artifact.version, found.b.artifact.version) == (first.artifact.version, second.artifact.version)
    was, now = (read_tensors(Path(one.artifact.url)) for one in (first, second))
    other = {name for name in was if not was[name].equal(now[name])}
    assert other == {name for name in was if "self_attn" in name}
    assert set(found.tensors.changed) == other
    assert found.tensors.same == len(was) - len(other)
    assert found.tensors.only_a == found.tensors.only_b == ()
    assert [line for line in found.recipe["recipe.yaml"] if line[0] in "+-"] == [
        "-      value: 0.5",
        "+      value: 0.75",
    ]
    assert "mergekit_config.yml" in found.recipe and found.inputs == {}
    assert found.facts["input key"] == (first.artifact.manifest.key, second.artifact.manifest.key)
    assert {"layers", "parameters", "method"}.isdisjoint(found.facts)
    assert [(s.task, s.a, s.b, s.verdict) for s in found.scores] == [
        ("", 0.25, 0.5, "cannot tell"),
        ("arc_easy", 0.25, 0.5, "cannot tell"),
    ]
    assert not found.alike


def test_a_base_with_other_bytes_is_an_input_that_differs(build: Callable[[str], api.Built], tmp_path: Path) -> None:
    build("0.5")
    shutil.rmtree(tmp_path / "b")
    write_llama(tmp_path / "b", layers=2, seed=3)
    build("0.5")

    found = api.compare(open_at(tmp_path), "mix")

    (name,) = found.inputs
    was, now = found.inputs[name]
    assert name == "./b" and was and now and was.kind == now.kind == "local" and was.fingerprint != now.fingerprint
    assert found.recipe == {} and len(found.tensors.changed) > 0


def test_versions_are_named_as_in_the_store_or_by_recipe(build: Callable[[str], api.Built], tmp_path: Path) -> None:
    first, second = (build(t).artifact.version for t in ("0.5", "0.75"))
    space = open_at(tmp_path)

    for a, b in (
        ("mix@" + first[:8], "mix"),
        ("variants/mix@" + first, "variants/mix@" + second[:10]),
        ("mix@" + first[:8], "variants/mix"),
    ):
        found = api.compare(space, a, b)
        assert (found.a.artifact.version, found.b.artifact.version) == (first, second)
    assert api.compare(space, "mix", "mix").alike
    with pytest.raises(StoreError, match="no such line"):
        api.compare(space, "mixx", "mix")
    with pytest.raises(StoreError, match="this version is not there"):
        api.compare(space, "mix@0000", "mix")
    with pytest.raises(StoreError, match="has no version before"):
        api.compare(space, f"mix@{first}")


def test_the_command_shows_it_to_people_and_programs(build: Callable[[str], api.Built], tmp_path: Path) -> None:
    first, second = build("0.5"), build("0.75")

    shown = run_command("diff", "mix", root=tmp_path)
    told = json.loads(run_command("diff", "mix", "--json", root=tmp_path).stdout)

    assert shown.code == 0 and "-      value: 0.5" in shown.stdout and "with other bytes" in shown.stdout
    assert first.artifact.version[:12] in shown.stdout and second.artifact.version[:12] in shown.stdout
    assert told["a"]["version"] == first.artifact.version and told["same_bytes"] is False
    assert all("self_attn" in name for name in told["tensors"]["changed"]) and told["tensors"]["changed"]
    wrong = run_command("diff", "nothing", root=tmp_path)
    assert wrong.code != 0 and "no such line" in wrong.stderr and "Traceback" not in wrong.stderr
