"""Contract of models at URLs: what is made of them is what is made of the same files in a folder; nothing is read twice.

A real S3 server; the file system in memory of fsspec stands for those of which only whole files are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from merge_assets import api
from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import MergeAssetsError
from merge_assets.records import VariantDetails
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.store.place.fsspec import FsspecPlace
from merge_assets.workspace import Workspace
from merge_assets.workspace.staleness import Staleness
from tests import needs
from tests.adapter_support import LLAMA, LLAMA_CASES, save_adapter, save_base
from tests.s3.rgw import Rgw
from tests.scored import SUITE, evaluated
from tests.synthetic import read_tensors, write_llama

TIES = "merge_method: ties\nbase_model: {0}a\nmodels: [{{model: {0}b, parameters: {{weight: 0.7, density: 0.5}}}}]\n"
COPY = "merge_method: passthrough\nmodels: [{{model: {0}b}}]\n"


class Remote:
    """A project whose models ``a`` and ``b`` lie in a folder and at a URL."""

    def __init__(self, root: Path, url: str, options: dict[str, Any]) -> None:
        self.root, self.url = root, url
        self.options = {url.partition("://")[0]: options}
        self.files = fsspec.core.url_to_fs(url, **options)[0]
        (root / "recipes").mkdir()
        for seed, name in enumerate("ab"):
            write_llama(root / name, 2, seed=seed, shards=1 + seed)
            self.upload(name)
        for name, text in {"ties": TIES, "copy": COPY}.items():
            self.recipe(f"{name}-here", text.format("./"))
            self.recipe(f"{name}-there", text.format(f"{url}/"))

    def recipe(self, name: str, text: str) -> None:
        (self.root / "recipes" / f"{name}.yaml").write_text(text)

    def upload(self, name: str) -> None:
        for file in (self.root / name).iterdir():
            self.files.pipe_file(self.at(name, file.name), file.read_bytes())

    def at(self, model: str, file: str) -> str:
        return f"{self.url.partition('://')[2]}/{model}/{file}"

    def space(self, **settings: Any) -> Workspace:
        given = {"root": self.root, "device": "cpu", "model_options": self.options, **settings}
        return api.Workspace.open(Settings.model_validate(given))

    def reference(self, name: str) -> ModelReference:
        return ModelReference(f"{self.url}/{name}")


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.server)])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    if request.param == "s3":
        server: Rgw = request.getfixturevalue("rgw")
        yield Remote(tmp_path, f"s3://{request.getfixturevalue('bucket')}/models", server.options())
        return
    yield Remote(tmp_path, "memory://models", {})
    fsspec.filesystem("memory").rm("/models", recursive=True)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The ranges of files that are read."""
    ranges: list[tuple[str, int, int]] = []
    read_range = FsspecPlace.read_range

    def noted(place: FsspecPlace, path: str, begin: int, end: int) -> bytes:
        ranges.append((path, begin, end))
        return read_range(place, path, begin, end)

    monkeypatch.setattr(FsspecPlace, "read_range", noted)
    return ranges


def test_what_is_made_of_them_is_what_is_made_of_the_same_files_in_a_folder(remote: Remote) -> None:
    space = remote.space()
    for name in ("ties", "copy"):
        there, here = (api.build(space, space.recipe(f"{name}-{where}")).artifact for where in ("there", "here"))
        assert there.version == here.version  # of the same bytes
        api.merge(space, space.recipe(f"{name}-there"), remote.root / f"{name}-merged")
        for key, tensor in read_tensors(there.directory(remote.root)).items():
            assert read_tensors(remote.root / f"{name}-merged")[key].equal(tensor)
        assert [item.kind for item in there.manifest.inputs] == ["url"] * len(here.manifest.inputs)
        checks = [there.manifest.described(VariantDetails).checks, here.manifest.described(VariantDetails).checks]
        passed, same = ({check.name: check.passed for check in own} for own in checks)
        assert passed == same != {}


def test_a_plan_reads_headers_alone(remote: Remote, read: list[tuple[str, int, int]]) -> None:
    space = remote.space()
    made, same = (api.plan(space, space.recipe(f"ties-{where}")) for where in ("there", "here"))
    assert [(t.name, t.shape, t.begin) for t in made.tensors] == [(t.name, t.shape, t.begin) for t in same.tensors]
    starts = {model: open_checkpoint(remote.root / model).tensors.values() for model in "ab"}
    first = {
        f"{model}/{t.file}": min(o.begin for o in ts if o.file == t.file) for model, ts in starts.items() for t in ts
    }
    assert {path.removeprefix("models/") for path, _, _ in read} == set(first)
    assert all(end <= first[path.removeprefix("models/")] for path, _, end in read)


def test_their_version_is_the_digest_of_their_bytes_which_are_read_once(
    remote: Remote, read: list[tuple[str, int, int]]
) -> None:
    seen = api.observe(remote.space(), remote.reference("b"))
    assert seen.fingerprint == digest_checkpoint(open_checkpoint(remote.root / "b")).fingerprint
    assert sum(end - begin for path, begin, end in read if path.endswith(".safetensors")) > seen.bytes
    read.clear()
    assert api.observe(remote.space(), remote.reference("b")) == seen
    assert sum(end - begin for _, begin, end in read) < seen.bytes / 4, "headers alone"


def test_a_model_that_changes_is_another_and_what_was_made_of_it_is_out_of_date(remote: Remote) -> None:
    space = remote.space()
    before = api.observe(space, remote.reference("b")).fingerprint
    built = api.build(space, space.recipe("ties-there"))
    assert Staleness(remote.space(), thorough=True).reason(space.recipe("ties-there")) is None
    write_llama(remote.root / "other", 2, seed=7, shards=2)
    (remote.root / "b").rename(remote.root / "old")
    (remote.root / "other").rename(remote.root / "b")
    remote.upload("b")
    assert api.observe(remote.space(), remote.reference("b")).fingerprint != before
    reason = Staleness(remote.space(), thorough=True).reason(space.recipe("ties-there"))
    assert reason is not None and f"{remote.url}/b" in reason
    space = remote.space()
    again, here = (api.build(space, space.recipe(f"ties-{where}")).artifact.version for where in ("there", "here"))
    assert again == here != built.artifact.version


def test_they_are_analysed_like_a_folder(remote: Remote) -> None:
    space = remote.space()
    there, here = (
        api.snr(space, reference, remote.root / name, modules=["q_proj"])
        for name, reference in (("out-there", remote.reference("b")), ("out-here", ModelReference("./b")))
    )
    assert there.rows == here.rows


def test_they_are_compared_with_others_by_ranges(remote: Remote, read: list[tuple[str, int, int]]) -> None:
    there, same, other = remote.reference("b"), ModelReference("./b"), ModelReference("./a")
    assert api.likeness(remote.space(), there, same).is_same
    assert not api.likeness(remote.space(), other, there).same_weights
    assert {path.removeprefix("models/").partition("/")[0] for path, _, _ in read} == {"b"}


def test_the_leaderboard_records_which_kind_of_model_each_is(remote: Remote) -> None:
    (remote.root / "suites").mkdir()
    (remote.root / "suites/demo.yaml").write_text(SUITE)
    space = remote.space(default_suites=["demo"])
    models = {"url": remote.reference("b"), "local": ModelReference("./b")}
    for reference in models.values():
        evaluated(space, str(reference), 0.5)
    inputs = {one.name: one.kind for one in api.rank(space).artifact.manifest.inputs}
    assert inputs == {space.names.identify(reference).title: kind for kind, reference in models.items()}


def test_adapters_lie_at_urls_too(remote: Remote) -> None:
    save_base(remote.root / "base", LLAMA)
    save_adapter(remote.root / "lora", remote.root / "base", needs.module("peft").LoraConfig(**LLAMA_CASES["plain"]))
    remote.upload("base")
    remote.upload("lora")
    text = "merge_method: passthrough\nmodels: [{{model: {0}base+{0}lora}}]\n"
    remote.recipe("here", text.format("./"))
    remote.recipe("there", text.format(f"{remote.url}/"))
    space = remote.space()
    there, here = (api.build(space, space.recipe(name)).artifact.version for name in ("there", "here"))
    assert there == here


@pytest.mark.server
def test_a_store_in_the_same_bucket_opens_them_with_its_options(rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    remote = Remote(tmp_path, f"s3://{bucket}/models", rgw.options())
    place = {"store": f"s3://{bucket}/store", "store_options": rgw.options(), "model_options": {}}
    space = remote.space(**place)
    there, here = (api.build(space, space.recipe(f"copy-{where}")).artifact for where in ("there", "here"))
    assert there.version == here.version
    assert space.store.verify(there) == []


def damaged(remote: Remote, what: str) -> str:
    """A URL at which there is no model."""
    if what == "a shard is missing":
        remote.files.rm_file(remote.at("b", "model-00002-of-00002.safetensors"))
    if what == "a shard is cut":
        path = remote.at("b", "model-00002-of-00002.safetensors")
        remote.files.pipe_file(path, remote.files.cat_file(path)[:-100])
    if what == "no config":
        remote.files.rm_file(remote.at("b", "config.json"))
    return f"{remote.url}/{'nowhere' if what == 'nothing there' else 'b'}"


WRONG = {
    "nothing there": "there are no files; correct the URL",
    "a shard is missing": "model-00002-of-00002.safetensors",
    "a shard is cut": "model-00002-of-00002.safetensors",
    "no config": "config.json",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_model_is_one_line_that_names_it(what: str, remote: Remote) -> None:
    url = damaged(remote, what)
    remote.recipe("wrong", f"merge_method: passthrough\nmodels: [{{model: '{url}'}}]\n")
    space = remote.space()
    with pytest.raises(MergeAssetsError) as caught:
        api.plan(space, space.recipe("wrong"))
    assert url in str(caught.value) and WRONG[what] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.server
@pytest.mark.parametrize("what", ["bucket", "key"])
def test_a_bucket_that_is_not_there_or_not_ours_is_said(what: str, rgw: Rgw, bucket: str, tmp_path: Path) -> None:
    remote = Remote(tmp_path, f"s3://{bucket}/models", rgw.options())
    wrong = {"s3": {**rgw.options(), "secret": "not-the-secret"}} if what == "key" else remote.options
    url = "s3://no-such-bucket/models/b" if what == "bucket" else f"{remote.url}/b"
    remote.recipe("wrong", f"merge_method: passthrough\nmodels: [{{model: '{url}'}}]\n")
    space = remote.space(model_options=wrong)
    with pytest.raises(MergeAssetsError) as caught:
        api.plan(space, space.recipe("wrong"))
    said = str(caught.value)
    assert url in said and "\n" not in said and "not-the-secret" not in said
    assert ("there are no files" if what == "bucket" else "cannot be listed") in said


OTHERWISE: dict[str, str] = {
    "hf://org/name": "models on the Hub are written org/name",
    "https://huggingface.co/org/name": "models on the Hub are written org/name",
    "file:///srv/model": "write its path, /srv/model",
    "s3://": "write it like s3://BUCKET/PATH",
    "s3://bucket//x": "write it like s3://BUCKET/PATH",
    "s3://bucket/../x": "write it like s3://BUCKET/PATH",
    "s3://bucket/x@main": "a URL has no revision; leave out @main",
    "nonsense://bucket/x": "nonsense",
}


@pytest.mark.parametrize("text", OTHERWISE)
def test_what_is_written_otherwise_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "wrong.yaml").write_text(f"merge_method: passthrough\nmodels: [{{model: '{text}'}}]\n")
    space = api.Workspace.open(Settings(root=tmp_path))
    with pytest.raises(MergeAssetsError) as caught:
        api.plan(space, space.recipe("wrong"))
    assert OTHERWISE[text] in str(caught.value)


@pytest.mark.server
def test_a_model_that_changes_while_it_is_read_is_not_taken(
    rgw: Rgw, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(tmp_path, f"s3://{bucket}/models", rgw.options())
    read_range = FsspecPlace.read_range
    name, size = remote.at("a", "model.safetensors"), (tmp_path / "a" / "model.safetensors").stat().st_size

    def change(place: FsspecPlace, path: str, begin: int, end: int) -> bytes:
        if path.endswith("a/model.safetensors") and end == size:
            remote.files.pipe_file(name, bytes(reversed(remote.files.cat_file(name))))
        return read_range(place, path, begin, end)

    monkeypatch.setattr(FsspecPlace, "read_range", change)
    with pytest.raises(MergeAssetsError, match=r"a/model\.safetensors: changed while it was read; wait"):
        api.observe(remote.space(), remote.reference("a"))
