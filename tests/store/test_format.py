"""The format of a store and of its records: another one is told in one line and left alone, a newer minor one is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets.errors import StoreError
from merge_assets.records import (
    FORMAT,
    Check,
    Details,
    Input,
    MirrorDetails,
    Record,
    RecordFile,
    ScoresDetails,
    VariantDetails,
    parsed,
)
from merge_assets.sealed import seal, unseal
from merge_assets.settings import Settings
from merge_assets.store.collect import carry_out, plan_collection
from merge_assets.store.inventory import survey
from merge_assets.store.names import STORE
from tests.commands import run_command
from tests.store_places import Lot, place, s3_endpoint
from tests.store_support import FILES, LINE, commit, made_from
from tests.synthetic import write_llama

__all__ = ["place", "s3_endpoint"]

VERBS = (
    lambda store: store.get(LINE, "f1"),
    lambda store: store.find(LINE, "k1"),
    lambda store: store.reuse(LINE, "k1"),
    lambda store: store.versions(LINE),
    lambda store: store.lines("variants"),
    lambda store: store.current(LINE),
    lambda store: store.set_current(LINE, "f1"),
    lambda store: store.origins({"a" * 64}, LINE),
    lambda store: store.draft(LINE).__enter__(),
    lambda store: store.build(LINE, "k2").__enter__(),
    lambda store: survey(store),
    lambda store: commit(store, "f2"),
)
"""Everything that is done with a store."""


def as_format_1(place: Lot) -> None:
    """A store as the version before left it: no record of the store, and other manifests."""
    commit(place.store)
    path = f"{LINE}/f1/manifest.json"
    fields = unseal(place.read(path))
    assert fields is not None
    del fields["format"], fields["provenance"]
    place.write(path, seal(fields | {"inputs": {"base": "aa"}, "merge_assets": "0.1.0"}))
    place.remove(STORE)


def bytes_of(place: Lot) -> dict[str, bytes]:
    return {name: place.read(name) for name in place._files()}


def test_whatever_is_made_first_says_the_format(place: Lot) -> None:
    commit(place.store)

    fields = unseal(place.read(STORE))
    assert fields is not None and fields["format"] == FORMAT == 2


@pytest.mark.parametrize("older", [True, False])
def test_a_store_of_another_format_is_told_and_left_alone(place: Lot, older: bool) -> None:
    if older:
        as_format_1(place)
    else:
        commit(place.store)
        place.write(STORE, seal({"format": 3, "merge_assets": "9.0"}))
    before = bytes_of(place)

    for verb in VERBS:
        with pytest.raises(StoreError, match="nothing in it was changed") as told:
            verb(place.store)
        assert f"is a store of format {1 if older else 3}," in str(told.value)
        assert "\n" not in str(told.value) and place.root.split("://")[-1] in str(told.value)
    assert bytes_of(place) == before


def test_looking_at_an_empty_store_writes_nothing(place: Lot) -> None:
    assert place.store.versions(LINE) == [] and place.store.current(LINE) is None
    assert place._files() == set()


def test_a_store_that_lost_what_says_its_format_is_known_by_its_versions(place: Lot) -> None:
    commit(place.store)
    place.remove(STORE)

    assert place.store.current(LINE) is not None
    assert STORE not in place._files()  # whoever only looks writes nothing
    commit(place.store, "f2", key="k2")
    assert STORE in place._files()


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"format": 3}'])
def test_a_record_of_the_format_that_is_damaged_counts_as_lost(place: Lot, damaged: bytes) -> None:
    commit(place.store)
    place.write(STORE, damaged)

    assert place.store.current(LINE) is not None


def test_fields_of_a_newer_minor_version_are_kept(place: Lot) -> None:
    """In the manifest, its inputs, files and details; also when the manifest is written once more."""
    commit(place.store, "f1", inputs=made_from({"base": "aa"}))
    commit(place.store, "f2", key="k2")
    path = f"{LINE}/f1/manifest.json"
    fields = unseal(place.read(path))
    assert fields is not None
    fields["novel"] = {"a": 1}
    fields["inputs"][0]["novel"] = True
    fields["files"]["config.json"]["novel"] = [1]
    fields["details"]["novel"] = "words"
    fields["provenance"]["novel"] = None
    place.write(path, seal(fields))

    artifact = place.store.get(LINE, "f1")

    assert artifact is not None
    assert unseal(artifact.manifest.encode()) == fields
    assert artifact.directory(place.scratch / "copies").joinpath("config.json").read_bytes() == FILES["config.json"]
    plan = plan_collection(survey(place.store), keep=5, older_than=None, pinned={})
    carry_out(place.store, plan)
    assert unseal(place.read(path)) == fields


class Newer(Record):
    x: int
    added: str = "here"


class Now(Record):
    x: int


def test_a_record_hands_on_what_it_does_not_know() -> None:
    now = parsed(Now, Newer(x=1).model_dump())
    assert now.model_dump() == {"x": 1, "added": "here"}
    assert parsed(Newer, now.model_copy(update={"x": 2}).model_dump()) == Newer(x=2)


@pytest.mark.parametrize(
    "fields", [None, [], "text", {}, {"format": 1}, {"format": 3}, {"format": "2"}, {"format": None}]
)
def test_a_document_of_another_format_is_refused(fields: object) -> None:
    with pytest.raises(ValueError, match=r"format|not a record"):
        RecordFile.of(fields)


def test_details_of_another_kind_are_an_error_with_what_to_do(place: Lot) -> None:
    manifest = commit(place.store, details=Details(model="a", suite=7, headline=0.5)).manifest

    with pytest.raises(
        StoreError, match=r"slerp-7b/f1: manifest.json: details.suite: .*merge-assets store rm 'variants/sl"
    ):
        manifest.described(ScoresDetails)
    with pytest.raises(StoreError, match=r"details\.repository: Field required"):
        manifest.described(MirrorDetails)


def test_a_check_with_a_field_more_is_read() -> None:
    """A record that another version of the program wrote."""
    figures = VariantDetails.model_fields["report"].annotation.model_fields.items()
    report = {name: 0 for name, field in figures if field.is_required()} | {"device": "cpu"}
    check = {"name": "finite", "passed": True, "description": "all", "metadata": {}, "severity": "low"}
    fields = {"recipe": "a", "method": "linear", "layers": 1, "parameters": 2, "checks": [check], "report": report}
    (found,) = parsed(VariantDetails, fields).checks
    assert found == Check(**check)


@pytest.mark.parametrize(
    "fields", [{"name": "a", "fingerprint": "b"}, {"kind": "moon", "name": "a", "fingerprint": "b"}]
)
def test_an_input_says_where_it_is_from(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="kind"):
        parsed(Input, fields)


def test_a_version_says_by_what_it_was_made_and_when(place: Lot) -> None:
    made = commit(place.store).manifest.provenance
    assert made.started <= made.ended and made.ended.utcoffset() is not None
    assert made.merge_assets and made.command and "CPUs" in made.host


@pytest.mark.parametrize(
    "arguments",
    [
        ("store", "ls"),
        ("store", "show", "variants/slerp-7b"),
        ("store", "verify"),
        ("store", "gc"),
        ("store", "rm", "variants/slerp-7b@f1", "--yes"),
        ("recipes",),
        ("plan", "one"),
        ("build", "one"),
        ("leaderboard",),
    ],
)
def test_commands_end_with_one_line_on_an_older_store(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    settings = Settings(root=tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/one.yaml").write_text("merge_method: passthrough\nmodels: [{model: slerp-7b}]\n")
    (tmp_path / "recipes/slerp-7b.yaml").write_text("merge_method: passthrough\nmodels: [{model: ./a}]\n")
    write_llama(tmp_path / "a")
    lot = Lot(settings.store_url, {}, tmp_path / "scratch")
    as_format_1(lot)
    before = bytes_of(lot)

    done = run_command(*arguments, root=tmp_path)

    assert done.code != 0 and "is a store of format 1" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert bytes_of(lot) == before


def test_work_on_folders_does_not_ask_the_store(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", layers=1)
    lot = Lot(Settings(root=tmp_path).store_url, {}, tmp_path / "scratch")
    as_format_1(lot)

    done = run_command("snr", "./a", "--out", "out", "--modules", "o_proj", root=tmp_path)

    assert done.code == 0, done.stderr
    assert (tmp_path / "out/snr.json").is_file()
