"""Damage follows lineage: what was made from damaged bytes is found, made again, and comes out right.

Oracles: the versions of a store that was never damaged, and the torch library for what children of wrong parents hold.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from merge_assets import api
from merge_assets.api.audit import audit
from merge_assets.api.descent import descendants
from merge_assets.api.housekeeping import inventory, verify, verify_relatives
from merge_assets.api.repair import MadeAgain, RepairPlan, plan_repair, repair
from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import Stopped, StoreError
from merge_assets.evaluation.results import TaskResult, TaskResults
from merge_assets.records import Details, Input
from merge_assets.settings import Settings
from merge_assets.store import Artifact, PlannedFile, PlannedPiece
from merge_assets.store.names import MANIFEST
from merge_assets.store.needs import Name
from tests.evaluation.test_results import KEY, result
from tests.store_support import made_from, write_files
from tests.synthetic import read_tensors, write_llama

WEIGHTS = "model.safetensors"
PARENT = (
    "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: 3}}]\n"
)
CHILD = (
    "merge_method: linear\nmodels: [{model: parent, parameters: {weight: 1}}, {model: ./a, parameters: {weight: 1}}]\n"
)
FLIPPED = 10_000


def opened(root: Path) -> api.Workspace:
    return api.Workspace.open(Settings(root=root))


def build(root: Path, name: str) -> Artifact:
    space = opened(root)
    return api.build(space, space.recipe(name)).artifact


def write_recipes(root: Path, **recipes: str) -> None:
    (root / "recipes").mkdir(exist_ok=True)
    for name, text in recipes.items():
        (root / "recipes" / f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose child was made from its parent, both right."""
    root = tmp_path_factory.mktemp("pristine")
    write_llama(root / "a", seed=1)
    write_llama(root / "b", seed=2)
    write_recipes(root, parent=PARENT, child=CHILD)
    build(root, "parent")
    build(root, "child")
    return root


@pytest.fixture
def project(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "project")
    return tmp_path / "project"


def folder(artifact: Artifact) -> Path:
    assert artifact.path is not None
    return artifact.path


def current(root: Path, line: str) -> Artifact:
    found = opened(root).store.current(line)
    assert found is not None
    return found


def flip_signs(file: Path, count: int = FLIPPED) -> None:
    """Flip the signs of the last bfloat16 numbers of a file."""
    file.chmod(0o644)
    raw = bytearray(file.read_bytes())
    for at in range(len(raw) - 1, max(len(raw) - 2 * count, 4096), -2):
        raw[at] ^= 0x80
    file.write_bytes(raw)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return read_tensors(folder(artifact))


def replace_by_child_of_wrong_parent(root: Path, wrong_parent: Path) -> Artifact:
    """Let the child of a project be one that was computed from wrong bytes, and that records the right parent.

    Its bytes are those of a merge of the wrong parent in another project; its keys and inputs those of the right child.
    """
    right = current(root, "variants/child")
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(wrong_parent, elsewhere / "parent")
    (elsewhere / "parent" / MANIFEST).unlink()
    shutil.copytree(root / "a", elsewhere / "a")
    write_recipes(elsewhere, child=CHILD.replace("model: parent", "model: ./parent"))
    wrong = build(elsewhere, "child")
    assert wrong.version != right.version
    space = opened(root)
    manifest = right.manifest
    shutil.rmtree(folder(right))
    entry = manifest.files[WEIGHTS]
    data = (folder(wrong) / WEIGHTS).read_bytes()
    head, *rest = entry.pieces
    planned = [PlannedPiece(piece.name, piece.begin, piece.end, piece.key) for piece in rest]
    with space.store.build("variants/child", manifest.key) as draft:
        draft.building.add([PlannedFile(WEIGHTS, data[: head.end], tuple(planned))], {})
        with (draft.directory / WEIGHTS).open("r+b", buffering=0) as file:
            file.seek(head.end)
            file.write(data[head.end :])
        for piece in planned:
            draft.building.landed(piece.name, 0)
        for name in manifest.files:
            if name != WEIGHTS:
                shutil.copyfile(folder(wrong) / name, draft.directory / name)
        shutil.copyfile(root / "recipes/child.yaml", draft.directory / "recipe.yaml")
        details = manifest.common
        return draft.commit(wrong.version, key=manifest.key, inputs=manifest.inputs, details=details)


def run(root: Path, *names: str) -> tuple[RepairPlan, list[MadeAgain]]:
    space = opened(root)
    plan = plan_repair(space, names)
    _, made = repair(space, plan)
    return plan, made


def damaged(root: Path) -> list[str]:
    space = opened(root)
    return [one.where for one in verify(space, inventory(space).everything)]


def test_a_child_of_a_parent_that_was_damaged_later_comes_out_as_it_was(pristine: Path, project: Path) -> None:
    flip_signs(folder(current(project, "variants/parent")) / WEIGHTS)
    plan, made = run(project)
    assert [step.name[0] for step in plan.steps] == ["variants/parent", "variants/child"]
    assert [(one.line, one.now == one.before, one.error) for one in made] == [
        ("variants/parent", True, ""),
        ("variants/child", True, ""),
    ]
    assert damaged(project) == []
    for line in ("variants/parent", "variants/child"):
        right = (folder(current(pristine, line)) / WEIGHTS).read_bytes()
        assert (folder(current(project, line)) / WEIGHTS).read_bytes() == right


def test_a_child_that_was_made_from_wrong_bytes_comes_out_right(pristine: Path, project: Path) -> None:
    parent = current(project, "variants/parent")
    flip_signs(folder(parent) / WEIGHTS)
    wrong = replace_by_child_of_wrong_parent(project, folder(parent))
    assert wrong.manifest.fingerprints["parent"] == parent.version
    # Its own bytes are those of its manifest: nobody who reads it alone can tell.
    space = opened(project)
    assert (
        verify(space, [one for one in inventory(space).everything if one.name == ("variants/child", wrong.version)])
        == []
    )
    expected = weights(current(pristine, "variants/child"))
    assert any(not torch.equal(expected[name], tensor) for name, tensor in weights(wrong).items())
    plan, made = run(project)
    assert [step.name for step in plan.steps] == [
        ("variants/parent", parent.version),
        ("variants/child", wrong.version),
    ]
    assert [one.now for one in made] == [
        parent.version,
        current(pristine, "variants/child").version,
    ]
    found = weights(current(project, "variants/child"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert opened(project).store.get("variants/child", wrong.version) is None
    assert damaged(project) == []


def test_what_was_changed_since_is_removed_only_with_consent_and_made_anew(project: Path) -> None:
    flip_signs(folder(current(project, "variants/parent")) / WEIGHTS)
    before = current(project, "variants/child").version
    write_recipes(project, child=CHILD.replace("weight: 1}}]", "weight: 2}}]"))
    plan = plan_repair(opened(project))
    assert [(step.name[0], step.is_made) for step in plan.lost] == [("variants/child", True)]
    assert plan.lost[0].lost == "its recipe has changed since (child.yaml), and makes another version now"
    _, made = repair(opened(project), plan)
    assert [(one.line, one.now == one.before, one.error) for one in made] == [
        ("variants/parent", True, ""),
        ("variants/child", False, ""),
    ]
    assert made[1].before == before
    assert damaged(project) == []


def test_a_description_is_no_change(project: Path) -> None:
    flip_signs(folder(current(project, "variants/parent")) / WEIGHTS)
    write_recipes(project, child=CHILD + "description: other words\n")
    assert plan_repair(opened(project)).lost == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "recipes/child.yaml").unlink(), "there is no stored recipe child any more"),
        (lambda root: shutil.rmtree(root / "a"), "its input ./a is gone: there is no such folder"),
        (lambda root: flip_signs(root / "a" / WEIGHTS, 3), "its input ./a is changed: "),
    ],
)
def test_why_a_version_cannot_be_made_again(project: Path, spoil: Callable[[Path], None], said: str) -> None:
    flip_signs(folder(current(project, "variants/child")) / WEIGHTS)
    spoil(project)
    (step,) = plan_repair(opened(project)).steps
    assert step.name[0] == "variants/child"
    assert step.lost.startswith(said)
    assert step.is_made == ("recipe" not in said)


def test_nothing_is_removed_while_a_build_runs(project: Path) -> None:
    flip_signs(folder(current(project, "variants/parent")) / WEIGHTS)
    plan = plan_repair(opened(project))
    with opened(project).store.build("variants/other", "k"), pytest.raises(StoreError, match="is being built"):
        repair(opened(project), plan)
    assert len(damaged(project)) == 1


def test_what_a_killed_build_has_finished_from_wrong_bytes_is_not_gone_on_with(project: Path) -> None:
    """Its tensors have the keys that the right ones will have."""
    child, parent = current(project, "variants/child"), current(project, "variants/parent")
    flip_signs(folder(parent) / WEIGHTS)
    space = opened(project)
    manifest = child.manifest
    head, *rest = manifest.files[WEIGHTS].pieces
    planned = [PlannedPiece(piece.name, piece.begin, piece.end, piece.key) for piece in rest]
    data = (folder(child) / WEIGHTS).read_bytes()
    shutil.rmtree(folder(child))
    with pytest.raises(Stopped), space.store.build("variants/child", manifest.key) as draft:
        draft.building.add([PlannedFile(WEIGHTS, data[: head.end], tuple(planned))], {})
        draft.building.landed(planned[0].name, 0)  # all of it zeros
        raise Stopped
    assert [one.resumable for one in inventory(space).unfinished] == [True]
    run(project)
    rebuilt = build(project, "child")
    assert rebuilt.version == child.version
    assert rebuilt.manifest.details["report"]["tensors_resumed"] == 0


def store_of(root: Path) -> api.Workspace:
    (root / "recipes").mkdir()
    return opened(root)


def put(space: api.Workspace, line: str, version: str, inputs: dict[str, str], details: Details | None = None) -> Name:
    with space.store.draft(line) as draft:
        write_files(draft.directory, {"file": b"content"})
        draft.commit(version, key=f"k{version}", inputs=made_from(inputs), details=details or Details())
    return line, version


def test_everything_below_is_in_doubt_in_the_order_of_lineage(tmp_path: Path) -> None:
    space = store_of(tmp_path)
    put(space, "variants/grandchild", "dd", {"child": "cc", "base": "00"})
    put(space, "variants/child", "cc", {"parent": "aa"})
    put(space, "variants/parent", "aa", {"base": "00"})
    put(space, "variants/sibling", "ee", {"base": "00"})
    put(space, "variants/earlier", "ff", {"parent": "a0"})
    put(space, "analyses/parent", "1a", {"parent": "aa"})
    put(space, "scores/child/demo", "1c", {"child": "cc"})
    put(space, "scores/sibling/demo", "1e", {"sibling": "ee"})
    put(space, "leaderboard", "1b", {"child": "cc", "sibling": "ee"})
    put(space, "leaderboard", "1d", {"sibling": "ee"})
    found = descendants(inventory(space), {("variants/parent", "aa")})
    names = [one.stored.name for one in found]
    assert set(names) == {
        ("variants/child", "cc"),
        ("variants/grandchild", "dd"),
        ("analyses/parent", "1a"),
        ("scores/child/demo", "1c"),
        ("leaderboard", "1b"),
    }
    for one in found:
        assert all(source not in names or names.index(source) < names.index(one.stored.name) for source in one.sources)
    assert names.index(("scores/child/demo", "1c")) < names.index(("leaderboard", "1b"))


def test_scores_that_are_damaged_put_their_leaderboards_in_doubt_alone(tmp_path: Path) -> None:
    space = store_of(tmp_path)
    put(space, "variants/child", "cc", {"base": "00"})
    put(space, "scores/child/demo", "1c", {"child": "cc"})
    put(space, "leaderboard", "1b", {"child": "cc"})
    found = descendants(inventory(space), {("scores/child/demo", "1c")})
    assert [one.stored.name for one in found] == [("leaderboard", "1b")]


def test_equal_bytes_in_two_lines_are_no_circle(tmp_path: Path) -> None:
    space = store_of(tmp_path)
    put(space, "variants/x", "aa", {"somewhere": "aa"})
    put(space, "variants/y", "aa", {"x": "aa"})
    put(space, "variants/z", "bb", {"y": "aa"})
    found = [one.stored.name for one in descendants(inventory(space), {("variants/x", "aa")})]
    assert set(found) >= {("variants/y", "aa"), ("variants/z", "bb")}


def test_who_took_tensors_of_a_child_of_wrong_bytes_is_in_doubt_too(project: Path) -> None:
    """A recipe of a parent that has equal tensors takes those of the child, which were computed from wrong ones."""
    write_recipes(
        project,
        twin=PARENT.replace("parameters: {weight: 3}", "parameters: {weight: 3.0}"),
        cousin=CHILD.replace("model: parent", "model: twin"),
        stranger="merge_method: passthrough\nmodels: [{model: ./a}]\n",
    )
    for name in ("twin", "cousin", "stranger"):
        build(project, name)
    space = opened(project)
    found = inventory(space)
    parent, cousin = current(project, "variants/parent"), current(project, "variants/cousin")
    assert cousin.manifest.fingerprints["twin"] == parent.version
    names = {one.stored.artifact.line for one in descendants(found, {("variants/parent", parent.version)})}
    assert names == {"variants/child", "variants/cousin"}


def test_damage_that_versions_share_is_found_by_reading_those_that_have_the_tensors(project: Path) -> None:
    write_recipes(project, twin=PARENT + "description: a twin\n")
    twin = build(project, "twin")
    parent = current(project, "variants/parent")
    assert (folder(twin) / WEIGHTS).samefile(folder(parent) / WEIGHTS)
    flip_signs(folder(parent) / WEIGHTS)
    space = opened(project)
    found = inventory(space)
    problems = verify(space, found.versions["variants/parent"])
    more = verify_relatives(space, found, problems, {("variants/parent", parent.version)})
    assert [one.stored.artifact.line for one in more] == ["variants/twin"]


def test_finished_tasks_of_models_in_doubt_are_forgotten(project: Path) -> None:
    results = TaskResults(project / "var/cache/evaluations")
    parent, child = current(project, "variants/parent"), current(project, "variants/child")
    for model in (parent.version, child.version, "another"):
        results.commit(finished_task(model), {})
    flip_signs(folder(parent) / WEIGHTS)
    run(project)
    assert {stored.result.key.model for stored in results} == {"another"}


def finished_task(model: str) -> TaskResult:
    return result(KEY.model_copy(update={"model": model}))


# -- what versions were made from, looked at again -----------------------------------------------------------------------


def states(root: Path) -> dict[tuple[str, str], str]:
    space = opened(root)
    found = inventory(space)
    return {(one.stored.artifact.line, one.input.name): one.state for one in audit(space, found, found.everything)}


def test_an_audit_reads_inputs_again(project: Path) -> None:
    same = {
        ("variants/parent", "./a"): "same",
        ("variants/parent", "./b"): "same",
        ("variants/child", "parent"): "same",
        ("variants/child", "./a"): "same",
    }
    assert states(project) == same
    file = project / "b" / WEIGHTS
    was = file.stat()
    flip_signs(file, 3)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))  # as if nothing had been written
    shutil.rmtree(project / "a")
    flip_signs(folder(current(project, "variants/parent")) / WEIGHTS, 3)
    assert states(project) == {
        ("variants/parent", "./a"): "gone",
        ("variants/parent", "./b"): "changed",
        ("variants/child", "parent"): "damaged",
        ("variants/child", "./a"): "gone",
    }
    shutil.rmtree(folder(current(project, "variants/parent")))
    assert states(project) == {("variants/child", "parent"): "gone", ("variants/child", "./a"): "gone"}


def test_a_model_of_the_hub_is_read_where_it_was_downloaded_to(tmp_path: Path) -> None:
    write_llama(tmp_path / "hub/models--org--base/snapshots" / ("7" * 40))
    (tmp_path / "recipes").mkdir()
    space = api.Workspace.open(Settings(root=tmp_path, hub_cache=tmp_path / "hub"))
    model = open_checkpoint(tmp_path / "hub/models--org--base/snapshots" / ("7" * 40))
    fingerprint = digest_checkpoint(model).fingerprint
    inputs = [
        Input(kind="hub", name="org/base", revision="7" * 40, fingerprint=fingerprint),
        Input(kind="hub", name="org/other", revision="7" * 40, fingerprint=fingerprint),
    ]
    with space.store.draft("variants/x") as draft:
        write_files(draft.directory, {"file": b"content"})
        draft.commit("aa", key="aa", inputs=inputs, details=Details())
    found = inventory(space)
    assert [one.state for one in audit(space, found, found.everything)] == ["same", "elsewhere"]
