"""Contract: a reference and its text are the same thing, whatever a folder is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.recipe import load_recipe, to_mergekit
from merge_assets.reference import ModelReference
from tests.commands import run_command
from tests.merging import read_tensors
from tests.synthetic import write_llama

_paths = st.text(st.sampled_from("ab/.+@%240Bx-"), min_size=1).filter(lambda path: not path.startswith(("+", "@")))
_revisions = st.none() | st.text(st.sampled_from("abc0."), min_size=1)
_plain = st.builds(ModelReference, _paths, _revisions)


@given(st.builds(ModelReference, _paths, _revisions, st.none() | _plain))
def test_what_is_written_is_read_again(reference: ModelReference) -> None:
    assert ModelReference.parse(str(reference)) == reference


@pytest.mark.parametrize("name", ["plus+code", "at@home", "50%2Boff", "50%25", "a+b@c"])
@pytest.mark.parametrize("form", ["mapping", "text"])
def test_a_folder_may_be_called_so(name: str, form: str, tmp_path: Path) -> None:
    write_llama(tmp_path / name, 1, dtype=torch.float32)
    model = f"{{model: {{path: './{name}'}}}}" if form == "mapping" else str(ModelReference(f"./{name}"))
    (tmp_path / "r.yaml").write_text(f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n")
    done = run_command("merge", "r.yaml", "out", root=tmp_path)
    assert done.code == 0, done.stderr
    one, other = read_tensors(tmp_path / "out"), read_tensors(tmp_path / name)
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert f"path: ./{name}" in to_mergekit(load_recipe(tmp_path / "r.yaml")), "as mergekit reads it"


def test_a_plus_in_a_text_is_for_an_adapter_and_how_it_is_meant_otherwise_is_said(tmp_path: Path) -> None:
    write_llama(tmp_path / "plus+code", 1)
    (tmp_path / "r.yaml").write_text("merge_method: passthrough\nmodels: [{model: ./plus+code}]\n")
    done = run_command("plan", "r.yaml", root=tmp_path)
    assert done.code == 2 and "a + or @ of their own is written %2B or %40" in done.stderr
