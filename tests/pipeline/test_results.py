"""Contract of what Dagster's pages say of a result: what became of it and why comes first, and figures are of this run.

Real merges and analyses of tiny checkpoints, in one process; Dagster's own instance in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas
import pytest
import torch

from merge_assets import api
from merge_assets.errors import Stopped
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.ranking import ranking_rows
from merge_assets.pipeline.reasons import AGAIN_TAG, ASKED, EVERYTHING, LOST
from merge_assets.pipeline.results import SIZE
from merge_assets.pipeline.versions import report_observation
from merge_assets.settings import Settings
from merge_assets.work import Work
from merge_assets.workspace import Workspace
from tests.synthetic import write_checkpoint, write_llama

pytestmark = pytest.mark.filterwarnings("ignore")

# No library knows it, so that no step tries to load what it merged.
CONFIG = {"architectures": ["X"], "model_type": "unheard-of", "num_hidden_layers": 1, "vocab_size": 8}
MEAN = "merge_method: linear\nmodels: [{model: ./a}, {model: ./b}]\nparameters: {weight: 1}\n"
SHORT = """\
merge_method: passthrough
prune_layers: {model: ./deep, by: snr, tensor: self_attn.v_proj, remove: {lowest: 2}}
"""
VARIANT, ANALYSIS = dg.AssetKey(["variants", "mean"]), dg.AssetKey(["snr", "deep"])
WORK = ("tensors_computed", "read_mib", "written_mib", "merge_seconds")


class Site:
    """A project, and what its asset's page says after each run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "recipes").mkdir()
        (root / "recipes" / "mean.yaml").write_text(MEAN)
        for seed, name in enumerate("ab"):
            self.write(name, seed + 1.0)
        self.instance = dg.DagsterInstance.ephemeral()

    def write(self, name: str, value: float) -> None:
        names = [f"model.layers.0.{module}.weight" for module in ("up_proj", "down_proj")]
        shutil.rmtree(self.root / name, ignore_errors=True)
        write_checkpoint(self.root / name, {each: torch.full((64, 64), value) for each in names}, CONFIG)

    def workspace(self) -> Workspace:
        return Workspace.open(Settings(root=self.root, default_suites=[], device="cpu", threads=1))

    def observe(self) -> None:
        workspace = self.workspace()
        for node in build_graph(workspace).bases:
            report_observation(self.instance, node.key, api.observe(workspace, node.reference).fingerprint, {})

    def run(self, key: dg.AssetKey = VARIANT, **tags: str) -> dict[str, Any]:
        """The metadata of one materialisation, in its order."""
        workspace = self.workspace()
        job = build_definitions(workspace, build_graph(workspace)).resolve_job_def("build")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        result = job.execute_in_process(quiet, instance=self.instance, asset_selection=[key], tags=tags)
        (event,) = result.asset_materializations_for_node(key.to_python_identifier())
        return {name: value.value for name, value in event.metadata.items()}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.observe()
    yield made
    made.instance.dispose()


def test_outcome_and_reason_come_first_and_figures_are_of_this_run(site: Site) -> None:
    first = site.run()
    assert list(first)[:3] == ["outcome", "reason", "work"]
    assert (first["outcome"], first["reason"]) == ("built", "never built")
    assert " s on cpu; tensors: 2 computed; 64.0 KiB read, 32.0 KiB written (" in first["work"]
    assert (first["tensors_computed"], first["read_mib"], first["written_mib"]) == (2, 0.062, 0.031)
    assert first["merge_seconds"] > 0

    again = site.run()
    assert (again["outcome"], again["reason"]) == ("reused from the store", ASKED)
    assert again["work"].startswith("none: the store has had it since 20")
    assert {name: again[name] for name in WORK} == dict.fromkeys(WORK, 0)
    assert again.keys() & {"mib_per_s", "peak_memory_mib", "where_bytes_are_from"} == set()

    forced = site.run(**{AGAIN_TAG: EVERYTHING})
    assert (forced["outcome"], forced["reason"]) == ("computed again, equal", "everything was to be made again")
    assert forced["tensors_computed"] == 2
    assert forced["merge_seconds"] > 0


def test_the_reason_is_what_changed(site: Site) -> None:
    site.run()
    (site.root / "recipes" / "mean.yaml").write_text(MEAN.replace("weight: 1", "weight: 3"))
    assert site.run()["reason"].startswith("the recipe, its method or the numerics version changed: ")
    site.write("a", 7.0)
    site.observe()
    assert site.run()["reason"].startswith("base/a has other bytes: ")
    shutil.rmtree(site.root / "var" / "store" / "variants" / "mean")
    lost = site.run()
    assert (lost["outcome"], lost["reason"]) == ("built", LOST)


def test_counters_of_nothing_are_left_out_and_sizes_have_units(site: Site) -> None:
    shown = site.run()
    assert [name for name, value in shown.items() if value == 0 or value == "0 B"] == []
    assert shown["size"].endswith("KiB") and shown[SIZE] > 32 * 1024
    assert not any("bytes" in name for name in shown if name != SIZE)


def test_a_build_that_goes_on_says_so(site: Site) -> None:
    """It is stopped when the second tensor of two is computed and not finished yet."""
    workspace, late = site.workspace(), []
    work = Work(lambda done, total, label: late.append(done >= total), lambda: any(late))
    with pytest.raises(Stopped):
        api.build(workspace, workspace.recipe("mean"), work=work)
    shown = site.run()
    assert shown["outcome"] == "built, resumed"
    assert " s on cpu; tensors: 1 computed, 1 left by an earlier attempt; " in shown["work"]


def test_an_analysis_that_is_reused_took_no_time_now(site: Site) -> None:
    write_llama(site.root / "deep", layers=6)
    (site.root / "recipes" / "short.yaml").write_text(SHORT)
    site.observe()
    first, again = site.run(ANALYSIS), site.run(ANALYSIS)
    assert list(first)[:3] == ["outcome", "reason", "work"]
    assert first["work"].startswith("6 spectra computed; ") and first["analysis_seconds"] > 0 and first["read_mib"] > 0
    assert (again["outcome"], again["analysis_seconds"], again["read_mib"]) == ("reused from the store", 0, 0)
    assert again["snr_picture"] == first["snr_picture"]
    forced = site.run(ANALYSIS, **{AGAIN_TAG: EVERYTHING})
    assert forced["outcome"] == "measured again"
    assert forced["analysis_seconds"] not in (0, first["analysis_seconds"])


def test_the_ranking_shows_averages_in_percent_with_the_difference_to_the_best_parent() -> None:
    frame = pandas.DataFrame(
        {
            "rank": pandas.array([1, None], dtype="Int64"),
            "rank low": pandas.array([1, None], dtype="Int64"),
            "rank high": pandas.array([3, None], dtype="Int64"),
            "model": ["mean", "base"],
            "method": ["linear", None],
            "kind": ["variant", "base"],
            "layers": pandas.array([16, None], dtype="Int64"),
            "demo": pandas.array([0.2625, None], dtype="Float64"),
            "demo delta": pandas.array([-0.004, None], dtype="Float64"),
            "demo verdict": pandas.array(["cannot tell", None], dtype="string"),
            "demo/task:acc": [0.1, 0.2],
            "demo/task:acc delta": [0.1, 0.2],
            "stale": pandas.array(["mean has other bytes", None], dtype="string"),
            "failed": pandas.array([None, "1 of 2 tasks failed: word: too long"], dtype="string"),
        }
    )
    assert ranking_rows(frame) == [
        {
            "rank": 1,
            "95 % ranks": "1–3",
            "model": "mean",
            "method": "linear",
            "layers": 16,
            "demo": "26.2",
            "demo Δ": "-0.4",
            "demo verdict": "cannot tell",
            "failed": "",
            "out of date": "mean has other bytes",
        },
        {
            "rank": "",
            "95 % ranks": "",
            "model": "base",
            "method": "base",
            "layers": "",
            "demo": "",
            "demo Δ": "",
            "demo verdict": "",
            "failed": "1 of 2 tasks failed: word: too long",
            "out of date": "",
        },
    ]
