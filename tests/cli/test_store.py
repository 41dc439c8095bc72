"""``merge-assets store``: what it prints, that nothing goes without --yes, and errors of one line.

Exit codes: 0 done, 1 something in the store is wrong, 2 wrong input or a store that cannot be reached.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.records import Details
from merge_assets.settings import Settings
from tests.commands import Done, run_command
from tests.s3.rgw import Rgw, bucket, rgw
from tests.store_support import made_from
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

__all__ = ["bucket", "rgw"]

MEAN = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: %d}}]\n"
DEEP = "merge_method: passthrough\ndepth_upscale: {model: mean, overlap: 1}\n"
WEIGHTS = "model.safetensors"


def build(root: Path, name: str, **settings: Any) -> str:
    space = api.Workspace.open(Settings(root=root, **settings))
    return api.build(space, space.recipe(name)).artifact.version


def populate(root: Path, **settings: Any) -> list[str]:
    """Four versions of ``mean``, the first of which ``deep`` was made from; returns those of ``mean``."""
    write_llama(root / "a", seed=1)
    write_llama(root / "b", seed=2)
    (root / "recipes").mkdir()
    (root / "merge-assets.toml").write_text("")
    versions = []
    for weight in (2, 3, 4, 5):
        (root / "recipes/mean.yaml").write_text(MEAN % weight)
        versions.append(build(root, "mean", **settings))
        if weight == 2:
            (root / "recipes/deep.yaml").write_text(DEEP)
            build(root, "deep", **settings)
    return versions


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("project")
    versions = populate(root)
    for path in (root / "var/store").rglob("manifest.json"):
        then = time.time() - 86_400
        os.utime(path, (then, then))
    return root, versions


@pytest.fixture
def project(made: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, list[str]]:
    """A project of which a test may break the store."""
    shutil.copytree(made[0], tmp_path / "project")
    return tmp_path / "project", made[1]


def store(*arguments: str, root: Path, **environment: str) -> Done:
    done = run_command("store", *arguments, root=root, environment=environment)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_ls_shows_versions_by_line_with_what_they_are_made_from(made: tuple[Path, list[str]]) -> None:
    root, versions = made
    done = store("ls", root=root)
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "4 versions" in rows["variants/mean"]
    assert "current" in rows[versions[-1][:12]]
    assert "a, b" in rows[versions[-1][:12]]
    assert "current" not in rows[versions[0][:12]]
    assert "5 versions of 2 lines" in done.stdout
    listed = json.loads(store("ls", "variants/mean", "--json", root=root).stdout)
    assert [entry["version"] for entry in listed["lines"]["variants/mean"]] == versions
    assert listed["lines"].keys() == {"variants/mean"}
    assert listed["versions"] == 4


def test_show_prints_the_manifest_and_who_uses_it(made: tuple[Path, list[str]]) -> None:
    root, versions = made
    done = store("show", f"variants/mean@{versions[0][:8]}", root=root)
    assert done.code == 0
    for text in (
        versions[0],
        WEIGHTS,
        "39 computed",
        "used by  variants/deep@",
        "(current)",
        "recipes  deep",
        "passed",
    ):
        assert text in done.stdout
    fields = json.loads(store("show", "variants/mean", "--json", root=root).stdout)
    assert (fields["version"], fields["current"]) == (versions[-1], True)
    assert fields["used_by"] == {"current": [], "others": [], "recipes": ["deep"], "pinned": ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "variants/maen"], "did you mean 'variants/mean'"),
        (["show", "mean"], "did you mean 'variants/mean'"),
        (["show", "variants/mean@zzzz"], "this version is not there; variants/mean has"),
        (["rm", "variants/maen"], "did you mean 'variants/mean'"),
        (["gc", "--older-than", "soon"], "--older-than: 'soon' is not an age"),
        (["gc", "--keep", "0"], "--keep"),
    ],
)
def test_what_is_not_there_is_one_clear_message(
    made: tuple[Path, list[str]], arguments: list[str], message: str
) -> None:
    done = store(*arguments, root=made[0])
    assert done.code == 2
    assert message in done.stderr


def test_verify_names_the_tensor_the_file_and_what_to_do(project: tuple[Path, list[str]]) -> None:
    root, versions = project
    folder = root / "var/store/variants/mean"
    assert store("verify", root=root).code == 0
    assert store("verify", "--sampled", root=root).code == 0
    raw = bytearray((folder / versions[0] / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / versions[0] / WEIGHTS).write_bytes(raw)
    (folder / versions[1] / WEIGHTS).write_bytes(raw[:-10])
    (folder / versions[2] / "config.json").unlink()
    (folder / versions[3] / "extra").write_text("x")
    done = store("verify", root=root)
    assert done.code == 1
    wrong = {
        line.split("variants/mean/")[1].split("/")[0]: line for line in done.stdout.splitlines() if "wrong" in line
    }
    assert "lm_head.weight (bytes" in wrong[versions[0]] or "model.norm.weight (bytes" in wrong[versions[0]]
    assert "model.safetensors: " in wrong[versions[1]]
    assert f"{len(raw) - 10} bytes, {len(raw)} in the manifest" in wrong[versions[1]]
    assert "config.json: missing" in wrong[versions[2]]
    assert "extra: not in the manifest" in wrong[versions[3]]
    damaged = [f"'variants/mean@{version[:12]}'" for version in versions[:3]]
    assert f"merge-assets store repair {' '.join(damaged)} --yes: " in done.stdout
    assert f"what to do  remove {folder / versions[3] / 'extra'}" in done.stdout
    (doubt,) = [line for line in done.stdout.splitlines() if "in doubt  " in line]
    assert doubt.split()[2].startswith("variants/deep@")
    assert doubt.endswith(f"made from variants/mean@{versions[0][:12]}")
    assert "4 problems, 1 version in doubt" in done.stdout
    assert store("verify", "variants/deep", root=root).code == 0
    listed = json.loads(store("verify", f"variants/mean@{versions[1]}", "--json", root=root).stdout)
    assert [problem["what"] for problem in listed["problems"]] == [f"{len(raw) - 10} bytes, {len(raw)} in the manifest"]


def test_gc_says_what_would_go_and_why_the_rest_stays_and_removes_with_yes(project: tuple[Path, list[str]]) -> None:
    root, versions = project
    before = sorted((root / "var/store").rglob("*"))
    done = store("gc", "--keep", "1", root=root)
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "remove" in rows[versions[1][:12]]
    assert "remove" in rows[versions[2][:12]]
    assert "variants/deep was made from it" in rows[versions[0][:12]]
    assert "current" in rows[versions[3][:12]]
    assert "Would remove 2 versions" in done.stdout
    assert sorted((root / "var/store").rglob("*")) == before
    planned = json.loads(store("gc", "--keep", "1", "--json", root=root).stdout)
    assert planned["dry_run"]
    assert [entry["version"] for entry in planned["removed"]] == versions[1:3]
    done = store("gc", "--keep", "1", "--yes", root=root)
    assert "Removed 2 versions" in done.stdout
    listed = json.loads(store("ls", "--json", root=root).stdout)
    assert [entry["version"] for entry in listed["lines"]["variants/mean"]] == [versions[0], versions[3]]
    assert "Nothing to remove" in store("gc", "--keep", "1", "--yes", root=root).stdout
    assert store("verify", root=root).code == 0


def test_rm_refuses_what_others_need_and_says_who(project: tuple[Path, list[str]]) -> None:
    root, versions = project
    needed = f"variants/mean@{versions[0][:12]}"
    done = store("rm", needed, "--yes", root=root)
    assert done.code == 2
    assert "is needed: variants/deep was made from it" in done.stderr
    done = store("rm", f"variants/mean@{versions[3]}", root=root)
    assert done.code == 0
    assert f"becomes {versions[2][:12]}" in done.stdout
    assert "Nothing was removed yet" in done.stdout
    assert store("rm", f"variants/mean@{versions[3]}", "--yes", root=root).code == 0
    assert json.loads(store("show", "variants/mean", "--json", root=root).stdout)["version"] == versions[2]
    assert store("rm", needed, "variants/deep", "--yes", root=root).code == 0
    assert store("rm", "variants/mean", "--yes", "--force", root=root).code == 0
    assert "nothing is stored here yet" in store("ls", root=root).stdout
    assert build(root, "mean") == versions[3]


def test_following_the_advice_of_verify_ends_with_right_bytes(project: tuple[Path, list[str]]) -> None:
    root, versions = project
    (root / "recipes/mean.yaml").write_text(MEAN % 2)
    build(root, "mean")  # from which deep was made
    file = root / "var/store/variants/mean" / versions[0] / WEIGHTS
    raw = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(raw[:-20_000] + bytes(byte ^ 0x80 if at % 2 else byte for at, byte in enumerate(raw[-20_000:])))
    before = json.loads(store("verify", "--json", root=root).stdout)
    assert [one["line"] for one in before["in_doubt"]] == ["variants/deep"]
    (remedy,) = before["remedies"]
    command = shlex.split(remedy.partition(":")[0])
    assert command[:3] == ["merge-assets", "store", "repair"]
    dry = store(*command[2:-1], root=root)
    assert dry.code == 0
    assert "Nothing was done yet; --yes does it" in dry.stdout
    assert store("verify", root=root).code == 1
    done = store(*command[2:], root=root)
    assert done.code == 0, done.stderr
    assert f"made  variants/mean@{versions[0][:12]}: as it was" in done.stdout
    assert "Removed 2 versions, made 2 again" in done.stdout
    assert "all is well" in store("verify", root=root).stdout
    assert file.read_bytes() == raw
    audited = json.loads(store("audit", "--json", root=root).stdout)
    assert {one["state"] for one in audited["inputs"]} == {"same"}


def test_what_cannot_be_made_again_stays_without_consent(project: tuple[Path, list[str]]) -> None:
    root, versions = project
    file = root / "var/store/variants/mean" / versions[1] / "config.json"
    file.unlink()
    done = store("repair", "--yes", root=root)
    assert done.code == 2
    assert (
        "cannot be made again as it was: it is an older version of its line. Nothing was removed; add --lost"
        in done.stderr
    )
    assert file.parent.is_dir()
    done = store("repair", "--yes", "--lost", "--json", root=root)
    assert done.code == 0
    assert [(one["version"], one["made_again"]) for one in json.loads(done.stdout)["steps"]] == [(versions[1], False)]
    assert not file.parent.exists()
    assert "nothing is damaged" in store("repair", root=root).stdout


def test_a_damaged_manifest_is_named_and_removed_by_name(project: tuple[Path, list[str]]) -> None:
    root, versions = project
    (root / "var/store/variants/mean" / versions[1] / "manifest.json").write_text("{")
    done = store("verify", root=root)
    assert done.code == 1
    assert f"rm 'variants/mean@{versions[1]}' --yes" in done.stdout
    done = store("gc", root=root)
    assert done.code == 2
    assert "nothing is removed" in done.stderr
    assert store("rm", f"variants/mean@{versions[1]}", "--yes", root=root).code == 0
    assert store("gc", root=root).code == 0


def test_a_mirrored_checkpoint_that_a_recipe_names_by_revision_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "merge-assets.toml").write_text("")
    space = api.Workspace.open(Settings(root=tmp_path))
    for number in range(5):
        commit, line = f"{number}" * 40, "checkpoints/org/base"
        with space.store.draft(line) as draft:
            (draft.directory / "config.json").write_text(str(number))
            draft.commit(
                f"{number}f", key=f"{number}f", inputs=made_from({"org/base": commit}), details=Details(commit=commit)
            )
    recipe = "merge_method: passthrough\nmodels: [{model: org/base@%s}]\n"
    (tmp_path / "recipes/pinned.yaml").write_text(recipe % "1111111")
    planned = json.loads(store("gc", "--keep", "1", "--older-than", "0", "--json", root=tmp_path).stdout)
    assert {entry["version"] for entry in planned["removed"]} == {"0f", "2f", "3f"}
    assert {entry["version"]: entry["why"] for entry in planned["kept"]}["1f"] == [
        "pinned by recipe pinned (org/base@1111111)"
    ]
    (tmp_path / "recipes/pinned.yaml").write_text(recipe % "v1.0")  # which of them that is, the store cannot tell
    planned = json.loads(store("gc", "--keep", "1", "--older-than", "0", "--json", root=tmp_path).stdout)
    assert planned["removed"] == []


def test_a_store_on_s3_is_looked_at_cleared_up_and_its_rule_printed(rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    place = {"store": f"s3://{bucket}/merges", "store_options": rgw.options()}
    versions = populate(tmp_path, **place)
    environment = rgw.environment() | {"MERGE_ASSETS_STORE": place["store"]}
    where = f"merges/variants/mean/{versions[3]}/manifest.json"
    assert rgw.client().head_object(Bucket=bucket, Key=where)
    done = store("gc", "--keep", "1", "--older-than", "0", "--yes", root=tmp_path, **environment)
    assert done.code == 0
    assert "Removed 2 versions" in done.stdout
    assert f"aws s3api put-bucket-lifecycle-configuration --bucket {bucket}" in done.stdout
    assert '"Prefix": "merges/"' in done.stdout
    listed = json.loads(store("ls", "--json", root=tmp_path, **environment).stdout)
    assert [entry["version"] for entry in listed["lines"]["variants/mean"]] == [versions[0], versions[3]]
    assert store("verify", root=tmp_path, **environment).code == 0
    fields = json.loads(store("show", "variants/mean", "--json", root=tmp_path, **environment).stdout)
    key = f"merges/variants/mean/builds/{fields['build']}/{WEIGHTS}"
    raw = bytearray(rgw.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    raw[-1] ^= 1
    rgw.client().put_object(Bucket=bucket, Key=key, Body=bytes(raw))
    done = store("verify", root=tmp_path, **environment)
    assert done.code == 1
    assert ".weight (bytes" in done.stdout
    assert f"merge-assets store repair 'variants/mean@{versions[3][:12]}' --yes" in done.stdout
    done = store("repair", "variants/mean", "--yes", root=tmp_path, **environment)
    assert done.code == 0, done.stderr
    assert f"variants/mean@{versions[3][:12]}: as it was" in done.stdout
    assert store("verify", root=tmp_path, **environment).code == 0
    done = store("ls", root=tmp_path, **environment | {"MERGE_ASSETS_STORE": "s3://nowhere/merges"})
    assert done.code == 2
    assert "there is no bucket 'nowhere'" in done.stderr
    done = store("ls", root=tmp_path, **environment | {"AWS_SECRET_ACCESS_KEY": "another-secret"})
    assert done.code == 2
    assert done.stderr.count("error: ") == 1
