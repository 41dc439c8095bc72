"""The benchmark's instruments: what a process took, and what the page says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import diamond
from benchmarks.measure import RunError, Usage, floor, run
from benchmarks.object_store_copy import copy
from benchmarks.object_store_models import model_files, revision, shape_of
from benchmarks.object_store_report import show
from benchmarks.report import PARTS, render
from benchmarks.works import WORKS, recipe_text
from merge_assets import api
from merge_assets.checkpoint import open_checkpoint
from merge_assets.recipe import load_recipe
from merge_assets.settings import Settings
from tests.s3.rgw import Rgw

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MEGABYTE = 1_000_000
PROGRAM = """
import os, pathlib, sys
out = pathlib.Path(sys.argv[1])
out.mkdir()
ballast = b"x" * 200_000_000
(out / "model.safetensors").write_bytes(ballast[:30_000_000])
print('{"seconds": 1.5}')
"""


MEASURE = """
import dataclasses, json, pathlib, sys
from benchmarks import diamond
from benchmarks.measure import run
out = pathlib.Path(sys.argv[2])
print(json.dumps(dataclasses.asdict(run([sys.executable, "-c", sys.argv[1], out], out, out.with_suffix(".log")))))
"""


@pytest.fixture
def usage(tmp_path) -> Usage:
    """Taken by a small process, as the benchmark is: a child's peak begins at that of the process which started it."""
    command = [sys.executable, "-c", MEASURE, PROGRAM, tmp_path / "out"]
    done = subprocess.run(command, cwd=PAGE.parents[1], check=True, capture_output=True, text=True)
    return Usage(**json.loads(done.stdout))


def test_a_measured_process_shows_its_memory_and_its_output(usage, tmp_path):
    assert 200 * MEGABYTE < usage.memory < 300 * MEGABYTE
    assert usage.output == 30 * MEGABYTE
    assert usage.written >= 30 * MEGABYTE
    assert usage.engine == 1.5
    assert usage.cpu > 0
    assert not (tmp_path / "out").exists()


def test_a_failed_process_is_an_error_that_names_its_log(tmp_path):
    with pytest.raises(RunError, match=r"ended with code 3; see .*log"):
        run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "out", tmp_path / "log")


@pytest.mark.parametrize("copies", [True, False])
def test_the_floor_leaves_nothing_behind(copies, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "model.safetensors").write_bytes(os.urandom(100_000))
    assert floor([source], 250_001, tmp_path / "out", copies=copies) > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_every_work_is_a_recipe(work, tmp_path):
    file = tmp_path / f"{work.name}.yaml"
    models = {name: tmp_path / name for name in ("base", "one", "two")}
    file.write_text(recipe_text(work.body, models, 22))
    assert {reference.path for reference in load_recipe(file).references()} == {str(m) for m in work.inputs(models)}


def test_the_stack_of_22_layers_has_32(tmp_path):
    stack = next(work for work in WORKS if work.name == "stack")
    text = recipe_text(stack.body, {"one": Path("one")}, 22)
    assert "[0, 16]" in text
    assert "[6, 22]" in text


def record(wall: float) -> dict[str, object]:
    return {"wall": wall, "cpu": 1, "memory": 100 * MEGABYTE, "read": 1, "written": 1, "engine": 1.9, "output": 1}


def test_the_diamond_has_two_recipes_a_level_and_is_planned_without_weights(tmp_path):
    diamond.write_project(tmp_path, 3, layers=1)
    space = api.Workspace.open(Settings(root=tmp_path))
    assert len(space.book.recipes) == 7 and not space.book.broken
    plan = api.plan(space, space.recipe("top"))
    assert [model.reference for model in plan.models] == ["left-02", "right-02"]


def test_the_page_says_which_aims_are_met_and_by_how_much_the_others_are_missed():
    results = {
        "rounds": 3,
        "machine": {"processor": "one"},
        "works": {
            "linear": {
                "date": "today",
                "layers": 22,
                "ours": [record(2), record(9), record(1)],
                "mergekit": [record(16)],
                "floor": [1.0],
            }
        },
    }
    page = render("before\n<!-- generated: times -->\nold\n<!-- end of generated -->\nafter", results)
    assert page.startswith("before\n")
    assert page.endswith("after")
    assert "old" not in page
    assert (
        "| linear | 2.00 s | 16.0 s (one run) | 8.0× | ≥ 7×, met | 1.00 s | 1.90 s | 1.90× | **≤ 1.7×, missed by 11.8%** |"
        in page
    )


def test_the_page_has_a_place_for_every_generated_part():
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in PAGE.read_text()] == []


def test_a_model_for_the_hub_has_five_shards_of_which_a_revision_changes_one(tmp_path):
    shape = shape_of(2048)
    assert (shape.feed, shape.heads, shape.kv_heads) == (5632, 32, 4)
    small = shape_of(256)
    files = model_files(0, 12, small)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    assert len(open_checkpoint(tmp_path).tensors) == 12 * 9 + 3
    assert files == model_files(0, 12, small)
    for shard in range(5):
        ((name, data),) = revision(0, 12, small, shard, 1).items()
        assert len(data) == len(files[name])
        assert data != files[name]


@pytest.mark.parametrize("client", ["s3fs", "boto3"])
def test_a_plain_copy_moves_every_byte_once(client: str, rgw: Rgw, bucket: str):
    size, output = 9_000_001, 12_000_003
    rgw.client().put_object(Bucket=bucket, Key="in", Body=bytes(size))
    moved = copy(client, bucket, rgw.options(), [("in", size)], down=True, up=[output, 5])
    assert moved["bytes"] == size + output + 5
    head = rgw.client().head_object(Bucket=bucket, Key="copy/0")
    assert (head["ContentLength"], head["ETag"][-3:]) == (output, '-1"')
    assert rgw.client().head_object(Bucket=bucket, Key="copy/1")["ContentLength"] == 5


def test_a_copy_through_a_file_sends_what_came(rgw: Rgw, bucket: str, tmp_path: Path):
    sent = os.urandom(9_000_001)
    rgw.client().put_object(Bucket=bucket, Key="in", Body=sent)
    copy("s3fs", bucket, rgw.options(), [("in", len(sent))], down=True, up=[len(sent)], folder=str(tmp_path))
    assert rgw.client().get_object(Bucket=bucket, Key="copy/0")["Body"].read() == sent


def test_the_throughput_of_a_build_is_told_as_a_share_of_the_plain_copy(capsys):
    build = {"wall": 4.0, "cpu": 1, "machine_cpu": 2, "input_bytes": 200e6, "output_bytes": 100e6}
    build |= {"phases": {"engine": 2, "wait for transfers": 1}, "peak_memory": 300e6, "idle_memory": 100e6}
    copies = {"wall": 2.0, "cpu": 1, "machine_cpu": 2, "bytes": 300e6}
    rounds = [
        {
            "build": build,
            "build with checks": build,
            "s3fs both": copies,
            "s3fs both, through a file": copies | {"wall": 3.0},
        }
    ]
    show(
        {
            "machine": {"processor": "one"},
            "load_before": [0.0],
            "model_bytes": 1e8,
            "rounds": 1,
            "throughput": {"rounds": rounds, "memory_setting": 256e6},
        }
    )
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["", "build", "4.00", "75", "0.50", "0.75", "1.0", "2.0", ""] in lines
    assert ["", "build, engine and transfers alone", "3.00", "100", "0.67", "1.00", "1.0", "2.0", ""] in lines
    assert any("200 MB" in line for line in lines)
