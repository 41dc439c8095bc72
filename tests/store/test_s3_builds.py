"""Contract of builds into a bucket: the bytes of a local build, what is finished is never computed or moved again."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.errors import EngineError, Stopped, StoreError
from merge_assets.store.names import STORE
from merge_assets.store.reuse import Verify
from merge_assets.work import Work
from tests.s3 import builds
from tests.s3.builds import build, contents, project, workspace, write_model
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

PART = 5 << 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def local(root: Path) -> dict[str, dict[str, str]]:
    """What local builds give: contents by recipe."""
    space = workspace(root)
    return {name: contents(build(space, name), root) for name in ("mean", "deep")}


@pytest.fixture
def remote(root: Path, rgw: Rgw, bucket: str) -> api.Workspace:
    return workspace(root, f"s3://{bucket}/store", rgw.options())


def test_a_bucket_holds_the_bytes_of_a_local_build(
    root: Path, local: dict[str, dict[str, str]], remote: api.Workspace, tmp_path: Path
) -> None:
    built = build(remote, "mean")
    assert built.artifact.version == workspace(root).store.current("variants/mean").version  # type: ignore[union-attr]
    assert contents(built, tmp_path) == local["mean"]
    assert remote.store.verify(built.artifact) == []
    assert all(check.passed for check in built.checks)
    assert build(remote, "mean").reused


def test_a_variant_in_the_bucket_is_read_tensor_by_tensor(
    root: Path, local: dict[str, dict[str, str]], rgw: Rgw, bucket: str, tmp_path: Path
) -> None:
    build(workspace(root, f"s3://{bucket}", rgw.options()), "mean")
    (root / "recipes" / "first.yaml").write_text(
        "merge_method: linear\nparameters: {weight: 1}\n"
        "slices: [{sources: [{model: mean, layer_range: [0, 1]}, {model: a, layer_range: [0, 1]}]}]\n"
    )
    with FaultProxy(rgw.url) as proxy:
        space = workspace(root, f"s3://{bucket}", rgw.options(proxy.url), cache_dir=tmp_path / "cache")
        built = build(space, "first")
        read = proxy.counts(method="GET", path="safetensors").sent
    layer = sum(tensor.nbytes for tensor in built.plan.tensors)
    assert layer <= read < 1.1 * layer
    again = workspace(root, f"s3://{bucket}/other", rgw.options(), cache_dir=tmp_path / "cache")
    assert again.store.lines("variants") == []


def test_what_is_read_again_stays_on_the_local_disk(root: Path, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    build(workspace(root, f"s3://{bucket}", rgw.options()), "mean")
    cache = tmp_path / "cache"

    def read(weight: int, limit: int = 1_000_000_000) -> tuple[int, int]:
        """Bytes that came for one more recipe, and bytes of the cache after it."""
        text = f"merge_method: linear\nparameters: {{normalize: false, weight: {weight}}}\nmodels: [{{model: mean}}]\n"
        (root / "recipes" / f"times{weight}.yaml").write_text(text)
        with FaultProxy(rgw.url) as proxy:
            space = workspace(root, f"s3://{bucket}", rgw.options(proxy.url), cache_dir=cache, cache_size=limit)
            build(space, f"times{weight}")
            came = proxy.counts(method="GET", path="safetensors").sent
        return came, sum(path.stat().st_size for path in (cache / "tensors").rglob("*") if path.is_file())

    first, kept_first = read(2)
    assert kept_first == 0  # most inputs are read by one build only
    second, kept = read(3)
    assert second == pytest.approx(first, rel=0.01) == pytest.approx(kept, rel=0.01)
    third, _ = read(4)
    assert third < 0.01 * first
    for path in (cache / "tensors").glob("??/*"):
        path.write_bytes(b"")
    assert read(5, kept // 2)[1] <= kept // 2


def test_layers_of_a_bucket_are_copied_by_the_server(
    local: dict[str, dict[str, str]], root: Path, rgw: Rgw, bucket: str, tmp_path: Path
) -> None:
    build(workspace(root, f"s3://{bucket}", rgw.options()), "mean")
    with FaultProxy(rgw.url) as proxy:
        space = workspace(root, f"s3://{bucket}", rgw.options(proxy.url), cache_dir=tmp_path / "cache")
        built = build(space, "deep")
        counted = proxy.counts()
        assert contents(built, tmp_path) == local["deep"]
        assert space.store.verify(built.artifact) == []
    shards = len(built.plan.shards)
    # To fill up the first part of each shard up to 5 MiB come here, twice because no digest tells of them, and go back.
    assert counted.sent + counted.received < 3 * PART * shards + 2_000_000 < built.plan.bytes_to_write
    assert built.report.tensors_reused == len(built.plan.tensors)
    assert built.report.tensors_computed == 0


def test_only_what_changed_is_computed_and_the_bytes_are_those_of_a_clean_build(
    tmp_path: Path, rgw: Rgw, bucket: str
) -> None:
    root = project(tmp_path / "p", mean=builds.MEAN)
    for store, options in ((f"s3://{bucket}/store", rgw.options()), ("", None)):
        write_model(root / "a", 1)
        space = workspace(root, store, options)
        first = build(space, "mean")
        write_model(root / "a", 1, change=2)
        second = build(space, "mean")
        changed = sum(t.key not in {u.key for u in first.plan.tensors} for t in second.plan.tensors)
        assert 0 < changed < len(second.plan.tensors) / 2
        assert second.report.tensors_computed == changed
        assert second.report.tensors_reused == len(second.plan.tensors) - changed
        clean = build(workspace(root, f"{store}clean" if store else str(root / "clean"), options), "mean")
        assert clean.report.tensors_reused == 0
        assert clean.artifact.version == second.artifact.version != first.artifact.version
        assert contents(clean, tmp_path / "x") == contents(second, tmp_path / "y")


def test_tensors_of_another_variant_are_taken_over(root: Path, remote: api.Workspace) -> None:
    build(remote, "mean")
    (root / "recipes" / "twin.yaml").write_text(
        builds.MEAN.replace("parameters: {weight: 3}", "parameters: {weight: [{filter: mlp, value: 2}, {value: 3}]}")
    )
    space = workspace(root, remote.settings.store, remote.settings.store_options)
    twin = build(space, "twin")
    mlp = sum("mlp" in tensor.name for tensor in twin.plan.tensors)
    assert (twin.report.tensors_computed, twin.report.tensors_reused) == (mlp, len(twin.plan.tensors) - mlp)


@pytest.mark.parametrize("verify", ["full", "sampled"])
def test_what_nobody_wrote_over_is_sound(verify: Verify, remote: api.Workspace) -> None:
    first = build(remote, "mean")
    found = remote.store.origins({tensor.key for tensor in first.plan.tensors}, "variants/twin")
    assert len(found) == len(first.plan.tensors) and all(origin.tag for origin in found.values())
    assert remote.store.sound(found, verify) == found


@pytest.mark.parametrize("verify", ["full", "sampled"])
def test_a_damaged_version_is_not_reused(verify: str, root: Path, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    """Whoever writes one bit over gives the file another tag, which costs one request to see."""
    options = {"verify": verify, "cache_dir": tmp_path / "cache"}
    space = workspace(root, f"s3://{bucket}", rgw.options(), **options)
    first = build(space, "mean")
    client = rgw.client()
    prefix = first.artifact.url.removeprefix(f"s3://{bucket}/")
    key = f"{prefix}/{first.plan.shards[1].file}"
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 4
    client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    assert any(first.plan.shards[1].file in problem for problem in space.store.verify(first.artifact))
    other = "weight: [{filter: q_proj, value: 2}, {value: 1}]}"
    (root / "recipes" / "copy.yaml").write_text(builds.MEAN.replace("weight: 1}", other))
    copy = build(workspace(root, f"s3://{bucket}", rgw.options(), **options), "copy")
    assert copy.report.tensors_computed >= sum(t.shard == 1 for t in copy.plan.tensors)
    assert space.store.verify(copy.artifact) == []


def test_what_is_written_over_while_the_server_copies_it_is_not_published(
    root: Path, rgw: Rgw, bucket: str, tmp_path: Path
) -> None:
    space = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "cache")
    first = build(space, "mean")
    prefix = first.artifact.url.removeprefix(f"s3://{bucket}/")
    key = f"{prefix}/{first.plan.shards[1].file}"
    client = rgw.client()
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 4
    other = "weight: [{filter: q_proj, value: 2}, {value: 1}]}"
    (root / "recipes" / "copy.yaml").write_text(builds.MEAN.replace("weight: 1}", other))
    once = iter([lambda: client.put_object(Bucket=bucket, Key=key, Body=bytes(data))])
    work = Work(lambda done, total, label: next(once, lambda: None)())
    space = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "cache")
    with pytest.raises(
        StoreError, match=f"{first.plan.shards[1].file}: was written over while it was copied; build again"
    ):
        build(space, "copy", work=work)
    assert space.store.lines("variants") == ["variants/mean"]
    again = workspace(root, f"s3://{bucket}", rgw.options(), cache_dir=tmp_path / "cache")
    assert again.store.verify(build(again, "copy").artifact) == [], "nothing of what was copied is gone on with"


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_a_stopped_build_goes_on_where_it_was(where: str, root: Path, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    store = f"s3://{bucket}" if where == "bucket" else str(tmp_path / "store")
    space = workspace(root, store, rgw.options(), cache_dir=tmp_path / "one")
    reports: list[int] = []
    with pytest.raises(Stopped):
        build(
            space,
            "mean",
            work=Work(lambda done, total, label: reports.append(done), lambda: len(reports) > 150),
        )
    assert space.store.lines("variants") == []
    built = build(space, "mean")
    resumed = built.report.tensors_resumed
    assert resumed > 0
    assert built.report.tensors_computed + resumed == len(built.plan.tensors)
    assert contents(built, tmp_path / "x") == contents(build(workspace(root), "mean"), tmp_path / "y")
    assert rgw.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_a_build_that_fails_for_good_leaves_nothing_in_the_bucket(root: Path, rgw: Rgw, bucket: str) -> None:
    (root / "recipes" / "wild.yaml").write_text(
        builds.MEAN.replace("weight: 3", "weight: 1.0e+41") + "parameters: {normalize: false}\n"
    )
    space = workspace(root, f"s3://{bucket}", rgw.options())
    with pytest.raises(EngineError, match="NaN or infinite"):
        build(space, "wild")
    client = rgw.client()
    assert rgw.keys(bucket) == {STORE}
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_an_outage_is_an_error_and_the_next_build_goes_on(root: Path, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    with FaultProxy(rgw.url) as proxy:
        options = rgw.options(proxy.url) | {"config_kwargs": {"retries": {"max_attempts": 0}}}
        space = workspace(root, f"s3://{bucket}", options, cache_dir=tmp_path / "cache")
        proxy.inject("error503", 1.0, method="PUT", query="partNumber=2")
        with pytest.raises(StoreError, match=r"cannot be written.*check its URL"):
            build(space, "mean")
        assert space.store.lines("variants") == []
        proxy.clear()
        built = build(space, "mean")
        assert built.report.tensors_resumed > 0
        assert contents(built, tmp_path / "x") == contents(build(workspace(root), "mean"), tmp_path / "y")
