"""Contract of mirroring: a commit of the Hub as a version in a bucket, of which only what is new is downloaded and sent."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.errors import HubError
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact
from merge_assets.workspace import Models
from tests.hub_server import HubServer
from tests.s3.builds import LAYERS, build, model_files, project, workspace
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

ONE = "merge_method: passthrough\nmodels: [{model: acme/base}]\n"
DEEP = "merge_method: passthrough\ndepth_upscale: {model: acme/base, overlap: 2}\n"
REFERENCE = ModelReference("acme/base")


@pytest.fixture
def space(tmp_path: Path, rgw: Rgw, bucket: str, hub_of_base: HubServer) -> api.Workspace:
    root = project(tmp_path / "p", one=ONE, deep=DEEP)
    return opened(root, rgw, bucket, hub_of_base)


@pytest.fixture
def hub_of_base() -> HubServer:  # type: ignore[misc]
    with HubServer() as server:
        server.commit("acme/base", {**model_files(1), "README.md": b"# base"})
        yield server


def opened(
    root: Path, rgw: Rgw, bucket: str, server: HubServer, url: str | None = None, **settings: Any
) -> api.Workspace:
    hub = {"hub_endpoint": server.url, "hub_cache": root / "hub-cache"}
    return workspace(root, f"s3://{bucket}", rgw.options(url), **hub, **settings)


def mirrored(space: api.Workspace) -> Artifact:
    artifact = space.store.current("checkpoints/acme/base")
    assert artifact is not None
    return artifact


def downloaded(server: HubServer) -> int:
    """Bytes of weights that the Hub sent, but for headers."""
    return sum(one.sent for one in server.served if one.path.endswith(".safetensors") and one.sent > 100_000)


def test_a_mirror_has_the_bytes_and_the_fingerprint_of_the_commit(
    space: api.Workspace, hub_of_base: HubServer, tmp_path: Path
) -> None:
    item = Models(space).fetch(REFERENCE, local=False)
    artifact = mirrored(space)
    assert item.fingerprint == artifact.version == api.observe(space, REFERENCE).fingerprint
    folder = artifact.directory(tmp_path / "cache")
    wanted = model_files(1)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"} == wanted
    assert space.store.verify(artifact) == []
    assert artifact.manifest.details["commit"] == space.hub.resolve(REFERENCE).commit
    weights = sum(len(data) for name, data in wanted.items() if name.endswith(".safetensors"))
    assert downloaded(hub_of_base) == weights
    Models(space).fetch(REFERENCE, local=False)
    assert downloaded(hub_of_base) == weights
    assert list((space.cache / "mirror").glob("*/*")) == []


def test_builds_that_mirror_one_commit_at_once_download_it_once(
    space: api.Workspace, hub_of_base: HubServer, rgw: Rgw, bucket: str
) -> None:
    others = [opened(space.settings.root, rgw, bucket, hub_of_base) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda one: Models(one).fetch(REFERENCE, local=False).fingerprint, [space, *others]))
    assert set(found) == {mirrored(space).version}
    weights = sum(len(data) for name, data in model_files(1).items() if name.endswith(".safetensors"))
    assert downloaded(hub_of_base) == weights


def test_of_a_commit_only_the_changed_shard_is_downloaded_and_only_its_changed_tensors_are_sent(
    space: api.Workspace, hub_of_base: HubServer, rgw: Rgw, bucket: str
) -> None:
    Models(space).fetch(REFERENCE, local=False)
    first = mirrored(space)
    files = model_files(1)
    name = "model-00003-of-00005.safetensors"
    data = bytearray(files[name])
    data[-1000:] = model_files(9)[name][-1000:]
    hub_of_base.commit("acme/base", {**files, name: bytes(data)})
    before = downloaded(hub_of_base)
    with FaultProxy(rgw.url) as proxy:
        again = opened(space.settings.root, rgw, bucket, hub_of_base, proxy.url)
        Models(again).fetch(REFERENCE, local=False)
        counted = proxy.counts()
        second = mirrored(again)
        assert again.store.verify(second) == []
    assert downloaded(hub_of_base) - before == len(data)
    assert second.version != first.version
    assert counted.received < len(data) / 2 + 6_000_000
    assert second.manifest.files[name].sha256 == hashlib.sha256(data).hexdigest()


def test_a_mirrored_commit_is_built_from_without_the_hub(
    space: api.Workspace, hub_of_base: HubServer, rgw: Rgw, bucket: str
) -> None:
    Models(space).fetch(REFERENCE, local=False)
    root, commit = space.settings.root, mirrored(space).manifest.details["commit"]
    (root / "recipes" / "pinned.yaml").write_text(ONE.replace("acme/base", f"acme/base@{commit}"))
    asked = len(hub_of_base.served)
    again = opened(root, rgw, bucket, hub_of_base)
    assert api.plan(again, again.recipe("pinned")).bytes_to_write > 0
    built = build(again, "pinned")
    assert built.artifact.manifest.fingerprints == {f"acme/base@{commit}": mirrored(space).version}
    assert len(hub_of_base.served) == asked


def test_another_model_card_is_no_other_version(space: api.Workspace, hub_of_base: HubServer) -> None:
    Models(space).fetch(REFERENCE, local=False)
    version, before = mirrored(space).version, downloaded(hub_of_base)
    hub_of_base.commit("acme/base", {**model_files(1), "README.md": b"# other words"})
    Models(space).fetch(REFERENCE, local=False)
    assert mirrored(space).version == version
    assert downloaded(hub_of_base) == before


def test_a_passthrough_of_a_mirror_moves_no_weights_through_here(
    space: api.Workspace, rgw: Rgw, bucket: str, hub_of_base: HubServer
) -> None:
    Models(space).fetch(REFERENCE, local=False)
    with FaultProxy(rgw.url) as proxy:
        again = opened(space.settings.root, rgw, bucket, hub_of_base, proxy.url, shard_size=1_000_000_000)
        built = build(again, "deep")
        counted = proxy.counts()
        assert again.store.verify(built.artifact) == []
    # What fills up the first part of the only shard comes here, twice because no digest tells of it, and goes back; so
    # does a run of layers that is cut short by the end of a file.
    assert counted.sent + counted.received < 5 * (5 << 20) < built.plan.bytes_to_write / 2
    assert built.plan.layer_count == 2 * (LAYERS - 2)
    assert all(check.passed for check in built.checks)


def test_bytes_that_are_not_what_the_hub_says_are_not_kept(space: api.Workspace, hub_of_base: HubServer) -> None:
    commit = space.hub.resolve(REFERENCE).commit
    repository = hub_of_base.repositories["acme/base"]
    name = "model-00002-of-00005.safetensors"
    right = repository.commits[commit][name]
    revision = space.hub.resolve(REFERENCE)
    garbled = bytearray(right)
    garbled[-1] ^= 1
    space.hub.open(revision)
    repository.commits[commit][name] = bytes(garbled)
    from merge_assets.hub.mirror import mirror

    with pytest.raises(HubError, match=r"model-00002-of-00005\.safetensors"):
        mirror(space.hub, revision, space.store, "checkpoints/acme/base", space.cache)
    assert space.store.versions("checkpoints/acme/base") == []
    repository.commits[commit][name] = right
    Models(space).fetch(REFERENCE, local=False)
    assert space.store.verify(mirrored(space)) == []
