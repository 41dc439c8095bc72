"""Contract of models at URLs that the store's server reaches: what is copied of them goes from bucket to bucket, never by here,
and comes out as what a local build makes; where the server does not copy, it is read.

A real S3 server behind a proxy that counts. The bytes of the model were read once, when it was observed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_assets import api
from merge_assets.errors import InputError
from merge_assets.records import VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.store.cutting import SMALLEST
from merge_assets.store.names import STORE
from merge_assets.store.place.s3 import S3Place
from tests import needs
from tests.s3 import builds
from tests.s3.daemon import tokenizer
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

ONE_SHARD = 100_000_000

COPY = "merge_method: passthrough\nmodels: [{{model: {0}c}}]\n"
HALF = """\
merge_method: passthrough
slices:
  - sources: [{{model: {0}c, layer_range: [0, 4]}}]
  - sources: [{{model: ./a, layer_range: [4, 6]}}]
"""
BESIDE = {"LICENSE": b"Do as you like.\n", **tokenizer()}
NAN, INFINITE = b"\xc0\x7f", b"\x80\x7f"
"""Of bfloat16."""


class Site:
    """A project whose model ``c`` lies in a folder and in a bucket, in which the store lies, too."""

    def __init__(self, root: Path, rgw: Rgw, bucket: str, proxy: FaultProxy) -> None:
        self.root, self.rgw, self.bucket, self.proxy = root, rgw, bucket, proxy
        self.url = f"s3://{bucket}/models/c"
        recipes = {f"{name}-here": text.format("./") for name, text in (("copy", COPY), ("half", HALF))}
        recipes |= {name.replace("here", "there"): text.replace("./c", self.url) for name, text in recipes.items()}
        builds.project(root, **recipes)
        for name, data in (builds.model_files(3, shards=2) | BESIDE).items():
            self.write(name, data)

    def upload(self, name: str, data: bytes) -> None:
        self.rgw.client().put_object(Bucket=self.bucket, Key=f"models/c/{name}", Body=data)

    def write(self, name: str, data: bytes) -> None:
        """A file of the model, in both places."""
        (self.root / "c").mkdir(exist_ok=True)
        (self.root / "c" / name).write_bytes(data)
        self.upload(name, data)

    def space(self, **settings: Any) -> api.Workspace:
        given = {"cache_dir": self.root / "cache", "shard_size": ONE_SHARD, **settings}
        return builds.workspace(self.root, f"s3://{self.bucket}/store", self.rgw.options(self.proxy.url), **given)

    def observed(self, **settings: Any) -> api.Workspace:
        """The project, of whose model the digests are known; nothing is counted so far."""
        space = self.space(**settings)
        api.observe(space, ModelReference(self.url))
        self.proxy.reset()
        return space

    def here(self, name: str) -> api.Built:
        """What is made of the same files in a folder, into a store in a folder."""
        return builds.build(builds.workspace(self.root, shard_size=ONE_SHARD), f"{name}-here")

    def moved(self) -> int:
        """Bytes of weights that went through the proxy."""
        counted = self.proxy.counts(path="safetensors$")
        return counted.received + counted.sent


def contents(built: api.Built, folder: Path) -> dict[str, str]:
    """Digests of a version's files but those that say where its models lie."""
    return {name: digest for name, digest in builds.contents(built, folder).items() if name != "recipe.yaml"}


@pytest.fixture
def site(tmp_path: Path, rgw: Rgw, bucket: str) -> Iterator[Site]:
    with FaultProxy(rgw.url) as proxy:
        yield Site(tmp_path / "project", rgw, bucket, proxy)


def test_a_copied_model_never_comes_by_here(site: Site, tmp_path: Path) -> None:
    space = site.observed()
    built, here = builds.build(space, "copy-there"), site.here("copy")
    # Heads, and what fills up the first part: it comes twice, because no digest tells of a part of a tensor, and goes back.
    assert site.moved() < 3 * SMALLEST + 1_000_000 < built.plan.bytes_to_write / 2
    for name in BESIDE:
        assert site.proxy.counts(method="PUT", path=f"store/.*/{name}$").received == 0
    assert built.artifact.version == here.artifact.version
    assert contents(built, tmp_path / "there") == contents(here, tmp_path / "here")
    assert BESIDE.keys() <= built.artifact.manifest.files.keys()
    assert space.store.verify(built.artifact) == []
    report = built.report
    assert report is not None
    assert report.tensors_by_server == report.tensors_reused == len(built.plan.tensors)
    assert (report.tensors_copied, report.tensors_computed) == (0, 0)
    assert report.bytes_moved > built.plan.bytes_to_write - 2 * SMALLEST


def test_what_is_of_other_models_is_sent_beside_it(site: Site, tmp_path: Path) -> None:
    space = site.observed()
    built, here = builds.build(space, "half-there"), site.here("half")
    assert built.artifact.version == here.artifact.version
    assert contents(built, tmp_path / "there") == contents(here, tmp_path / "here")
    assert space.store.verify(built.artifact) == []
    there = [one for one in built.plan.tensors if built.plan.models[one.inputs[0].model].location == site.url]
    assert built.report is not None and 0 < len(there) < len(built.plan.tensors)
    assert built.report.tensors_by_server == len(there)
    assert built.report.tensors_copied == len(built.plan.tensors) - len(there)
    assert built.report.bytes_moved > SMALLEST


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
def test_what_the_server_does_not_copy_is_read_and_that_is_said_once(
    code: str, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file_system, botocore = needs.module("s3fs").S3FileSystem, needs.module("botocore.exceptions")
    real = file_system.call_s3

    def call(self: Any, method: str, *arguments: Any, **more: Any) -> Any:
        if method in ("upload_part_copy", "copy_object"):
            error = botocore.ClientError({"Error": {"Code": code, "Message": "not here"}}, method)
            raise needs.module("s3fs.errors").translate_boto_error(error)
        return real(self, method, *arguments, **more)

    monkeypatch.setattr(file_system, "call_s3", call)
    space = site.observed()
    built = builds.build(space, "copy-there")
    assert built.artifact.version == site.here("copy").artifact.version
    assert space.store.verify(built.artifact) == []
    assert built.report is not None and built.report.tensors_by_server == 0
    told = [record.getMessage() for record in caplog.records if "copies nothing from there" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith(f"{site.url}: ") and f"({code}: " in told[0] and "not here)" in told[0]


def test_what_is_opened_otherwise_than_the_store_is_read(site: Site) -> None:
    space = site.observed(model_options={"s3": site.rgw.options()})
    built = builds.build(space, "copy-there")
    assert built.artifact.version == site.here("copy").artifact.version
    assert built.report is not None and built.report.tensors_by_server == 0


@pytest.mark.parametrize("when", ["refusal", "copy_part"])
def test_a_model_that_changes_before_or_while_it_is_copied_is_an_error_and_nothing_is_left(
    when: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = site.observed()
    name = "model-00002-of-00002.safetensors"
    other = builds.model_files(3, shards=2, change=1)[name]
    real = getattr(S3Place, when)

    def change(*arguments: Any, **more: Any) -> Any:
        site.upload(name, other)
        return real(*arguments, **more)

    monkeypatch.setattr(S3Place, when, change)
    with pytest.raises(InputError, match=rf"models/c/{name}: changed while it was read"):
        builds.build(space, "copy-there")
    monkeypatch.undo()
    assert {key for key in site.rgw.keys(site.bucket) if key.startswith("store/")} == {f"store/{STORE}"}
    assert site.rgw.client().list_multipart_uploads(Bucket=site.bucket).get("Uploads", []) == []
    (site.root / "c" / name).write_bytes(other)
    again = builds.build(site.space(), "copy-there")
    assert again.artifact.version == site.here("copy").artifact.version


def test_infinities_and_nan_are_counted_when_a_model_is_digested(site: Site) -> None:
    name = "model-00001-of-00002.safetensors"
    data = bytearray((site.root / "c" / name).read_bytes())
    data[-6:] = NAN * 2 + INFINITE
    site.write(name, bytes(data))
    space = site.observed()
    built, here = builds.build(space, "copy-there"), site.here("copy")
    found = [one.artifact.manifest.described(VariantDetails).nonfinite for one in (built, here)]
    assert found[0] == found[1] and list(found[0].values()) == [3]
    assert [check.passed for check in built.checks if check.name == "finite"] == [False]
    assert site.moved() < built.plan.bytes_to_write / 2
