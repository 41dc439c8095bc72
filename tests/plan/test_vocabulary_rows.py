"""Contract: a row map says, as text, where every row comes from; gathering gives exactly those rows, whatever the tile.

The oracle is indexing with numpy, row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets.checkpoint import TensorHeader
from merge_assets.engine.buffers import Buffer
from merge_assets.engine.files import InputFiles
from merge_assets.engine.gather import Gather
from merge_assets.engine.witness import Witness
from merge_assets.engine.worker import CpuWorker, Shared
from merge_assets.plan import OutputTensor, TensorInput
from merge_assets.plan.model import Plan, PlannedModel
from merge_assets.plan.vocabulary_rows import Row, as_text, inputs_of, runs
from merge_assets.work import UNATTENDED

HEIGHTS = (7, 5, 11)
WIDTH = 3

row = st.lists(st.integers(0, 2), unique=True, max_size=3).flatmap(
    lambda models: st.tuples(*(st.tuples(st.just(m), st.integers(0, HEIGHTS[m] - 1)) for m in sorted(models)))
)
scattered = st.lists(row, min_size=1, max_size=20)
consecutive = st.integers(0, 2).flatmap(
    lambda model: st.integers(1, HEIGHTS[model]).map(lambda count: [((model, r),) for r in range(count)])
)
maps = st.lists(st.one_of(scattered, consecutive), min_size=1, max_size=4).map(
    lambda parts: [row for part in parts for row in part]
)


def expanded(text: str, inputs: list[int]) -> list[Row]:
    return [
        tuple((inputs[place], first + offset) for place, first in run.sources)
        for run in runs(text)
        for offset in range(run.count)
    ]


@given(maps)
def test_a_row_map_is_what_its_text_says(rows: list[Row]) -> None:
    inputs = inputs_of(rows)
    assert expanded(as_text(rows, inputs), inputs) == rows


def test_rows_that_follow_each_other_are_one_run() -> None:
    rows: list[Row] = [*(((4, r),) for r in range(5)), (), (), ((2, 1), (4, 7)), ((2, 2), (4, 8))]
    assert as_text(rows, [2, 4]) == "5:1@0 2 2:0@1+1@7"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=maps, tile=st.integers(1, 40), dtypes=st.tuples(*[st.sampled_from(["F32", "BF16"])] * 3))
def test_gathering_is_indexing(rows: list[Row], tile: int, dtypes: tuple[str, ...], tmp_path: Path) -> None:
    inputs = inputs_of(rows)
    tables = []
    for model, height in enumerate(HEIGHTS):
        table = torch.arange(height * WIDTH, dtype=torch.float32).reshape(height, WIDTH) + 64 * model
        raw = table if dtypes[model] == "F32" else table.bfloat16().view(torch.int16)
        (tmp_path / f"{model}").write_bytes(raw.numpy().tobytes())
        tables.append(table.numpy().astype(np.float64))
    zero = np.zeros(WIDTH)
    expected = np.stack([np.mean([tables[m][r] for m, r in row], axis=0) if row else zero for row in rows])

    items = []
    for model in inputs:
        size = HEIGHTS[model] * WIDTH * (4 if dtypes[model] == "F32" else 2)
        header = TensorHeader("e", dtypes[model], (HEIGHTS[model], WIDTH), f"{model}", 0, size)
        items.append(TensorInput(model, header, None, {}, ""))
    tensor = OutputTensor(
        name="e",
        dtype="F32",
        shape=(len(rows), WIDTH),
        shard=-1,
        begin=0,
        end=0,
        method="input:gather",
        parameters={},
        inputs=tuple(items),
        base=None,
        layer=None,
        key="",
        rows=as_text(rows, inputs),
    )
    models = tuple(PlannedModel(str(number), str(tmp_path), None) for number in range(3))
    plan = Plan("", "", models, (), (), {}, (), 0, (), (), (), "", (), "")
    with InputFiles() as files:
        worker = CpuWorker(Shared(plan, files, [], UNATTENDED, 0, Witness(plan, files, "off", outputs=False)), tile, 0)
        gather = Gather(tensor, worker, tile)
        out, found = Buffer(tile * 4), []
        for start in range(0, tensor.elements, tile):
            count = min(tile, tensor.elements - start)
            assert gather.compute(start, count, out, "F32") == 0
            found.append(np.frombuffer(out.view[: 4 * count], np.float32).copy())
    assert np.array_equal(np.concatenate(found), expected.astype(np.float32).ravel())
