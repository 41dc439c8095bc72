"""Contract of builds over a bad line: they succeed with the right bytes, and wrong bytes are never published.

Every kind of fault is injected by a proxy before a real S3 server; see tests/s3/faults.py for what each kind does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.errors import MergeAssetsError, StoreError
from tests.s3.builds import MEAN, build, project, workspace
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

CHAIN = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: mean}, {model: a}]\n"
DEEP = "merge_method: passthrough\ndepth_upscale: {model: mean, overlap: 4}\n"
KINDS = (
    "error500",
    "error503",
    "slowdown",
    "reset_before",
    "reset_after",
    "reset_body",
    "truncate",
    "flip",
    "flip_upload",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("project"), mean=MEAN, chain=CHAIN, deep=DEEP)


@pytest.fixture(scope="module")
def right(root: Path) -> dict[str, str]:
    """The versions of local builds."""
    space = workspace(root)
    return {name: build(space, name).artifact.version for name in ("mean", "chain", "deep")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("mean", "chain"), pytest.param(("mean", "chain", "deep"), marks=pytest.mark.thorough)], ids=len
)
@pytest.mark.parametrize("seed", range(int(os.environ.get("MERGE_ASSETS_FAULT_ROUNDS", "1"))))
def test_builds_over_a_line_with_all_faults_succeed(
    seed: int, names: tuple[str, ...], root: Path, right: dict[str, str], rgw: Rgw, bucket: str, tmp_path: Path
) -> None:
    """A variant of local models, one that reads it back tensor by tensor, and one that the server copies out of it."""
    with FaultProxy(rgw.url) as proxy:
        for number, kind in enumerate(KINDS):
            proxy.inject(kind, 0.05, seed=100 * seed + number)
        proxy.inject("latency", 0.05, seed=seed, milliseconds=300)
        space = workspace(root, f"s3://{bucket}", rgw.options(proxy.url), cache_dir=tmp_path / "cache")
        built = {name: build(space, name) for name in names}
        injected = proxy.injected()
    assert {name: one.artifact.version for name, one in built.items()} == {name: right[name] for name in names}
    assert sum(injected.get(kind, 0) for kind in KINDS) > len(KINDS)
    clean = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "clean")
    for name in names:
        current = clean.store.current(f"variants/{name}")
        assert current is not None and clean.store.verify(current) == []


@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_a_server_that_always_gives_wrong_bytes_publishes_nothing(
    kind: str, root: Path, rgw: Rgw, bucket: str, tmp_path: Path
) -> None:
    build(workspace(root, f"s3://{bucket}", rgw.options()), "mean")
    with FaultProxy(rgw.url) as proxy:
        proxy.inject(kind, 1.0, method="GET", path="safetensors")
        space = workspace(root, f"s3://{bucket}", rgw.options(proxy.url), cache_dir=tmp_path / "cache")
        with pytest.raises(MergeAssetsError) as caught:
            build(space, "chain")
        assert "mean/builds/" in str(caught.value) and "Traceback" not in str(caught.value)
        assert proxy.injected()[kind] > 0
    clean = workspace(root, f"s3://{bucket}", rgw.options())
    assert clean.store.lines("variants") == ["variants/mean"]


def test_bytes_that_go_bad_where_they_lie_are_never_merged(root: Path, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    built = build(workspace(root, f"s3://{bucket}", rgw.options()), "mean")
    key = f"{built.artifact.url.removeprefix(f's3://{bucket}/')}/{built.plan.shards[0].file}"
    client = rgw.client()
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[-1] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    space = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "cache")
    with pytest.raises(StoreError, match=r"not those that the manifest records; run `merge-assets store verify`"):
        build(space, "chain")
    assert space.store.lines("variants") == ["variants/mean"]


def test_a_scratch_disk_that_is_full_is_one_line(root: Path, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        space = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=small)
        with pytest.raises(MergeAssetsError, match=r"No space left|cannot"):
            api.build(space, space.recipe("mean"))
        assert space.store.lines("variants") == []
        shutil.rmtree(small / ".drafts", ignore_errors=True)
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    again = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "cache")
    assert again.store.verify(build(again, "mean").artifact) == []
