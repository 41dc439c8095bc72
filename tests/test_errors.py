"""Contract of the tree of errors: every one has a kind of its own, crosses processes whole, and is retried if it may pass."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import pytest

import merge_assets
from merge_assets.checkpoint import read_checkpoint
from merge_assets.errors import (
    EngineError,
    HubError,
    HubTrouble,
    MergeAssetsError,
    PlanError,
    RecipeError,
    StoreUnreachableError,
    in_file,
)
from merge_assets.store import Artifact
from merge_assets.workspace.bucket import StoredSource

DOCS = Path(__file__).parent.parent / "docs" / "operation.md"
TROUBLES: tuple[HubTrouble, ...] = get_args(HubTrouble)
PASSING = {"hub.limited", "hub.failing", "hub.unreachable", "store.unreachable"}


def classes(of: type[MergeAssetsError] = MergeAssetsError) -> Iterator[type[MergeAssetsError]]:
    for one in of.__subclasses__():
        if one.__module__.startswith("merge_assets."):
            yield one
            yield from classes(one)


def examples() -> list[MergeAssetsError]:
    """One of every class, of the Hub's one of every trouble."""
    made: list[MergeAssetsError] = []
    for kind in classes():
        if kind is HubError:
            made += [HubError("acme/base@main", f"is {trouble}; wait", trouble, 7.0) for trouble in TROUBLES]
        elif issubclass(kind, RecipeError):
            made.append(kind("is wrong; mend it", file=Path("recipe.yaml"), key="models[0].model"))
        else:
            made.append(kind("a: is wrong; mend it"))
    return made


def test_every_class_of_errors_has_a_kind_of_its_own() -> None:
    kinds = [error.kind for error in examples()]
    assert len(kinds) == len(set(kinds))
    assert MergeAssetsError.kind not in kinds
    assert all(re.fullmatch(r"[a-z]+([.-][a-z]+)*", kind) for kind in kinds)


def test_every_kind_is_in_the_table_of_the_docs_and_no_other_is() -> None:
    section = DOCS.read_text().partition("## Kinds of errors")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    told = {row[1].strip(" `"): row[3].strip() for row in rows}
    expected = {error.kind: "yes" if error.may_pass else "no" for error in examples()}
    assert told == {**expected, "stopped": "yes"}


def test_what_may_pass_is_what_a_server_does_not_what_a_person_must_mend() -> None:
    assert {error.kind for error in examples() if error.may_pass} == PASSING


@pytest.mark.parametrize("error", examples(), ids=lambda error: error.kind)
def test_an_error_crosses_processes_with_all_that_it_knows(error: MergeAssetsError) -> None:
    with pytest.raises(type(error)), in_file("recipe.yaml"):
        raise error
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    for other in (copy.copy(error), *(pickle.loads(pickle.dumps(error, protocol)) for protocol in protocols)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)
        assert (other.kind, other.may_pass, other.wait) == (error.kind, error.may_pass, error.wait)


def test_a_file_is_put_in_front_of_the_same_error() -> None:
    error = HubError("acme/base", "too many requests; wait", "limited", 30.0)
    with pytest.raises(HubError) as caught, in_file("outer.yaml"), in_file("recipe.yaml"):
        raise error
    assert caught.value is error
    assert str(error) == "recipe.yaml: acme/base: too many requests; wait"
    assert (error.file, error.kind, error.wait, error.may_pass) == ("recipe.yaml", "hub.limited", 30.0, True)


def test_an_error_that_names_its_file_keeps_it() -> None:
    with pytest.raises(PlanError) as caught, in_file("outer.yaml"):
        raise PlanError("is wrong", file="inner.yaml:3", key="models")
    assert str(caught.value) == "inner.yaml:3: models: is wrong"


def test_what_is_put_in_front_can_be_printed_too() -> None:
    error = EngineError("is wrong")
    error.prefix("caf\udce9: ")
    assert str(error).encode() == b"caf\\udce9: is wrong"


def test_no_module_makes_an_error_anew_from_another() -> None:
    """A class called with another's message loses kind and wait, and fails where it takes more than a message."""
    remade = re.compile(r"raise type\(\w+\)\(|raise \w+\.__class__\(")
    for file in Path(merge_assets.__file__).parent.rglob("*.py"):
        assert not remade.search(file.read_text()), file


def test_a_bucket_that_does_not_answer_is_not_a_damaged_checkpoint() -> None:
    error = StoreUnreachableError("s3://bucket/x/config.json: cannot be read: timed out; check the network")

    def read(name: str) -> bytes:
        raise error

    files = {name: SimpleNamespace(size=2, pieces=()) for name in ("config.json", "model.safetensors")}
    artifact = SimpleNamespace(url="s3://bucket/x", manifest=SimpleNamespace(files=files), read_bytes=read)
    with pytest.raises(StoreUnreachableError) as caught:
        read_checkpoint(StoredSource(cast(Artifact, artifact)))
    assert caught.value is error and caught.value.may_pass
