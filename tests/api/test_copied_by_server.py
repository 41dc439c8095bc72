"""Contract of models at URLs that the store's server reaches: what is copied of them goes from bucket to bucket, never by here,
and comes out as what a local build makes; where the server does not copy, it is read.

A real S3 server behind a proxy that counts. It stands for the bytes of ``b`` that they were read once, when it was observed.
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
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

MERGES = {
    "copy": "merge_method: passthrough\nmodels: [{{model: {0}b}}]\n",
    # Two layers of six are computed, what is between them is copied.
    "part": "merge_method: slerp\nbase_model: {0}b\nparameters: {{t: [{{filter: layers.0., value: 0.5}}, {{value: 0}}]}}\n"
    "models: [{{model: {0}b}}, {{model: ./a}}]\n",
}
NAN = b"\xc0\x7f"
"""Of bfloat16."""


class Site:
    """A project whose model ``b`` lies in a folder and in a bucket, in which the store lies, too."""

    def __init__(self, root: Path, rgw: Rgw, bucket: str, proxy: FaultProxy) -> None:
        self.root, self.rgw, self.bucket, self.proxy = root, rgw, bucket, proxy
        self.url = f"s3://{bucket}/models/b"
        builds.project(root, **{f"{name}-here": text.format("./") for name, text in MERGES.items()})
        (root / "b" / "tokenizer.json").write_bytes(b'{"version": "1.0"}')
        for name, text in MERGES.items():
            there = text.format(f"s3://{bucket}/models/")
            (root / "recipes" / f"{name}-there.yaml").write_text(there)
        for file in (root / "b").iterdir():
            self.upload(file.name, file.read_bytes())

    def upload(self, name: str, data: bytes) -> None:
        self.rgw.client().put_object(Bucket=self.bucket, Key=f"models/b/{name}", Body=data)

    def write(self, name: str, data: bytes) -> None:
        """Another file of the model, in both places."""
        (self.root / "b" / name).write_bytes(data)
        self.upload(name, data)

    def space(self, **settings: Any) -> api.Workspace:
        given = {"cache_dir": self.root / "cache", **settings}
        return builds.workspace(self.root, f"s3://{self.bucket}/store", self.rgw.options(self.proxy.url), **given)

    def observed(self, **settings: Any) -> api.Workspace:
        """The project, of whose model the digests are known; nothing is counted so far."""
        space = self.space(**settings)
        api.observe(space, ModelReference(self.url))
        self.proxy.reset()
        return space

    def here(self, name: str) -> api.Built:
        """What is made of the same files in a folder, into a store in a folder."""
        return builds.build(builds.workspace(self.root), f"{name}-here")

    def moved(self) -> int:
        """Bytes of weights that went through the proxy."""
        counted = self.proxy.counts(path="safetensors$")
        return counted.received + counted.sent


@pytest.fixture
def site(tmp_path: Path, rgw: Rgw, bucket: str) -> Iterator[Site]:
    with FaultProxy(rgw.url) as proxy:
        yield Site(tmp_path / "project", rgw, bucket, proxy)


def test_a_copied_model_never_comes_by_here(site: Site, tmp_path: Path) -> None:
    space = site.observed()
    built = builds.build(space, "copy-there")
    # Heads, and what fills up the first part of each shard: it comes twice and goes back.
    assert site.moved() < 3 * SMALLEST * len(built.plan.shards) + 1_000_000 < built.plan.bytes_to_write
    assert site.proxy.counts(method="PUT", path="store/.*tokenizer.json").received == 0
    here = site.here("copy")
    assert built.artifact.version == here.artifact.version
    assert builds.contents(built, tmp_path / "there") == builds.contents(here, tmp_path / "here")
    assert space.store.verify(built.artifact) == []
    report = built.report
    assert report is not None
    assert report.tensors_by_server == report.tensors_reused == len(built.plan.tensors)
    assert (report.tensors_copied, report.tensors_computed) == (0, 0)
    assert report.bytes_moved > built.plan.bytes_to_write - SMALLEST * len(built.plan.shards)


def test_of_a_merge_what_is_a_copy_never_comes_by_here(site: Site, tmp_path: Path) -> None:
    space = site.observed()
    built, here = builds.build(space, "part-there"), site.here("part")
    assert built.artifact.version == here.artifact.version
    assert builds.contents(built, tmp_path / "there") == builds.contents(here, tmp_path / "here")
    copies = [tensor for tensor in built.plan.tensors if tensor.is_copy]
    assert built.report is not None
    assert 0 < built.report.tensors_by_server == len(copies) < len(built.plan.tensors)


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
    assert len(told) == 1 and told[0].startswith(f"{site.url}: ") and f"({code}: not here)" in told[0]


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
    name = "model-00003-of-00005.safetensors"
    other = builds.model_files(2, change=2)[name]
    real = getattr(S3Place, when)

    def change(*arguments: Any, **more: Any) -> Any:
        site.upload(name, other)
        return real(*arguments, **more)

    monkeypatch.setattr(S3Place, when, change)
    with pytest.raises(InputError, match=rf"models/b/{name}: changed while it was read"):
        builds.build(space, "copy-there")
    monkeypatch.undo()
    assert {key for key in site.rgw.keys(site.bucket) if key.startswith("store/")} == {f"store/{STORE}"}
    assert site.rgw.client().list_multipart_uploads(Bucket=site.bucket).get("Uploads", []) == []
    (site.root / "b" / name).write_bytes(other)
    again = builds.build(site.space(), "copy-there")
    assert again.artifact.version == site.here("copy").artifact.version


def test_infinities_and_nan_are_counted_when_a_model_is_digested(site: Site) -> None:
    name = "model-00001-of-00005.safetensors"
    data = bytearray((site.root / "b" / name).read_bytes())
    data[-6:] = NAN * 2 + b"\x80\x7f"
    site.write(name, bytes(data))
    space = site.observed()
    built, here = builds.build(space, "copy-there"), site.here("copy")
    found = [one.artifact.manifest.described(VariantDetails).nonfinite for one in (built, here)]
    assert found[0] == found[1] and list(found[0].values()) == [3]
    assert [check.passed for check in built.checks if check.name == "finite"] == [False]
    assert site.moved() < built.plan.bytes_to_write / 2
