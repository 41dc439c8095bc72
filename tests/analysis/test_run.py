"""Contract: an analysis equals a float64 full SVD of every weight, whatever the storage type, sharding and workers.

Also: what it writes is strict, complete and the same every time; spectra of unchanged tensors are not computed again;
it stops on request.
"""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from merge_assets.analysis import tables
from merge_assets.analysis.heat_map import heat_map
from merge_assets.analysis.layers import read_layers, read_rows
from merge_assets.analysis.picture import MAX_BYTES
from merge_assets.analysis.result import read_analysis
from merge_assets.analysis.run import analyse
from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import AnalysisError, InputError, Stopped
from merge_assets.work import Work
from tests.analysis_support import llama, reference_snr, with_spectrum, write_checkpoint

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "examples" / "checkpoints" / "base"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Three layers; v_proj of layers 0 and 2 is flat, hence infinite."""
    tensors, config = llama(3)
    for layer in (0, 2):
        tensors[f"model.layers.{layer}.self_attn.v_proj.weight"] = with_spectrum(
            np.linspace(1.2, 1 + layer / 20, 8), 32
        )
    return write_checkpoint(tmp_path_factory.mktemp("base"), tensors, config, dtype=torch.bfloat16, shards=2)


@pytest.fixture(scope="module")
def analysis(checkpoint):
    return analyse(checkpoint, workers=2, title="small")


@pytest.fixture(scope="module")
def written(analysis, tmp_path_factory):
    directory = tmp_path_factory.mktemp("analysis")
    analysis.write(directory, removed=[0, 2])
    return directory


def assert_equals_full_svd(analysis, checkpoint):
    tensors = {}
    for file in checkpoint.weight_files:
        tensors |= load_file(Path(checkpoint.location) / file)
    matrices = {n: t.to(torch.float64).numpy() for n, t in tensors.items() if t.ndim == 2 and ".layers." in n}
    assert {row["tensor"] for row in analysis.rows} == set(matrices)
    for row in analysis.rows:
        snr, normalised, margin = reference_snr(matrices[row["tensor"]])
        assert row["infinite"] is math.isinf(snr), row["tensor"]
        assert row["snr"] == pytest.approx(snr, rel=1e-9), row["tensor"]
        assert row["snr_normalised"] == pytest.approx(normalised, rel=1e-9), row["tensor"]
        assert row["margin"] == pytest.approx(margin, rel=1e-6), row["tensor"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shards", [1, 3])
def test_scores_equal_a_full_svd(tmp_path, dtype, shards):
    tensors, config = llama(3, seed=shards)
    tensors["model.layers.1.self_attn.v_proj.weight"] = with_spectrum(np.linspace(1.2, 1, 8), 32)
    checkpoint = write_checkpoint(tmp_path, tensors, config, dtype=dtype, shards=shards)
    analysis = analyse(checkpoint, workers=2)
    assert_equals_full_svd(analysis, checkpoint)
    assert any(row["infinite"] for row in analysis.rows)
    assert not all(row["infinite"] for row in analysis.rows)


@pytest.mark.skipif(not (DEMO / "config.json").exists(), reason="the demo checkpoints are not there")
def test_scores_of_the_demo_base_equal_a_full_svd():
    checkpoint = open_checkpoint(DEMO)
    analysis = analyse(checkpoint, workers=2)
    assert analysis.layers == checkpoint.layer_count
    assert_equals_full_svd(analysis, checkpoint)


def test_rows_say_where_each_weight_lies(checkpoint, analysis):
    digests = digest_checkpoint(checkpoint).tensors
    for row in analysis.rows:
        assert row["tensor"] == f"model.layers.{row['layer']}.{row['module']}.weight"
        assert (row["rows"], row["columns"]) == checkpoint.tensors[row["tensor"]].shape
        assert (row["stack"], row["expert"], row["dtype"]) == ("model.layers.", None, "BF16")
        assert row["digest"] == digests[row["tensor"]]


def test_progress_counts_bytes_up_to_the_total(checkpoint):
    calls = []
    analysis = analyse(checkpoint, workers=2, work=Work(lambda *call: calls.append(call)))
    sizes = {name: header.nbytes for name, header in checkpoint.tensors.items()}
    assert {name for _, _, name in calls} == {row["tensor"] for row in analysis.rows}
    done = 0
    for at, total, name in calls:
        done += sizes[name]
        assert (at, total) == (done, sum(sizes[row["tensor"]] for row in analysis.rows))
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_it_stops_on_request(checkpoint, after):
    done = []
    with pytest.raises(Stopped, match=r"of 21 weights"):
        analyse(
            checkpoint,
            workers=1,
            work=Work(lambda at, total, name: done.append(name), lambda: len(done) >= after),
        )
    assert len(done) == after


def test_known_digests_are_compared_with_what_is_read(checkpoint, analysis):
    known = digest_checkpoint(checkpoint).tensors
    assert analyse(checkpoint, workers=1, digests=known).rows == analysis.rows
    one = analysis.rows[3]["source"]
    with pytest.raises(InputError, match=f"tensor '{one}' is not what it was when it was digested"):
        analyse(checkpoint, workers=1, digests={**known, one: known[analysis.rows[0]["source"]]})


def test_a_damaged_spectrum_is_computed_again(tmp_path, checkpoint, analysis, written):
    file = tmp_path / "spectra.safetensors"
    data = bytearray((written / file.name).read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    again = analyse(checkpoint, previous=file)
    assert again.reused == len(again.rows) - 1
    assert all(np.array_equal(again.spectra[name], values) for name, values in analysis.spectra.items())


def test_nothing_is_computed_again_for_the_same_tensors(checkpoint, analysis, written, monkeypatch):
    monkeypatch.setattr("merge_assets.analysis.run.singular_values", lambda _: pytest.fail("computed again"))
    digests = digest_checkpoint(checkpoint).tensors
    again = analyse(checkpoint, workers=2, previous=written, digests=digests)
    assert (again.reused, again.bytes_read) == (21, 0)
    assert again.rows == analysis.rows
    assert all(np.array_equal(again.spectra[name], values) for name, values in analysis.spectra.items())
    some = analyse(checkpoint, modules=["v_proj"], previous=written / "spectra.safetensors")
    assert (some.reused, len(some.rows)) == (3, 3)


def test_only_a_changed_tensor_is_computed_again(tmp_path, checkpoint, written, monkeypatch):
    changed = "model.layers.1.mlp.up_proj.weight"
    for file in Path(checkpoint.location).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / checkpoint.tensors[changed].file
    tensors = load_file(shard)
    tensors[changed] = tensors[changed] * 3
    save_file(tensors, shard, {"format": "pt"})
    again = analyse(open_checkpoint(tmp_path), workers=1, previous=written)
    assert again.reused == len(again.rows) - 1
    before = {row["tensor"]: row for row in read_rows(written)}
    assert {row["tensor"] for row in again.rows if row["s_max"] != before[row["tensor"]]["s_max"]} == {changed}


def test_a_missing_previous_analysis_is_an_error(checkpoint, tmp_path):
    with pytest.raises(AnalysisError, match="no readable spectra"):
        analyse(checkpoint, previous=tmp_path / "none")
    (tmp_path / "spectra.safetensors").write_bytes(b"damaged")
    with pytest.raises(AnalysisError, match="no readable spectra"):
        analyse(checkpoint, previous=tmp_path)


def test_spectra_of_another_file_kind_are_ignored(checkpoint):
    plain = Path(checkpoint.location) / checkpoint.weight_files[0]
    assert analyse(checkpoint, modules=["v_proj"], previous=plain).reused == 0


def test_weights_that_are_not_finite_name_the_file_and_the_tensor(tmp_path):
    tensors, config = llama(2)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    with pytest.raises(AnalysisError, match=r"model\.safetensors: tensor model\.layers\.1\.mlp\.up_proj\.weight: 1 of"):
        analyse(write_checkpoint(tmp_path, tensors, config))


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path):
    tensors, config = llama(2)
    checkpoint = write_checkpoint(tmp_path, tensors, config)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(AnalysisError, match="the file ends at byte"):
        analyse(checkpoint, workers=2)
    file.unlink()
    with pytest.raises(AnalysisError, match="cannot be read"):
        analyse(checkpoint, workers=2)


def no_constants(text):
    raise AssertionError(f"{text} is not strict JSON")


def test_json_is_strict_and_marks_infinite_scores(written, analysis):
    document = json.loads((written / "snr.json").read_text(), parse_constant=no_constants)
    assert (document["model"], document["layers"], document["notes"]) == ("small", 3, {})
    infinite = [row for row in document["weights"] if row["infinite"]]
    assert {row["tensor"] for row in infinite} >= {f"model.layers.{n}.self_attn.v_proj.weight" for n in (0, 2)}
    assert all(row["snr"] is None and row["snr_normalised"] is None and row["margin"] > 1 for row in infinite)
    assert read_rows(written) == analysis.rows


def test_undefined_scores_are_null_but_not_infinite(tmp_path):
    tensors, config = llama(2)
    tensors["model.layers.0.self_attn.v_proj.weight"] = np.zeros((8, 32))
    analysis = analyse(write_checkpoint(tmp_path / "model", tensors, config), modules=["v_proj"])
    analysis.write(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "snr.json").read_text(), parse_constant=no_constants)
    zero = document["weights"][0]
    assert (zero["snr"], zero["infinite"]) == (None, False)
    assert math.isnan(read_layers(tmp_path / "out", "v_proj", "snr")[0]["value"])
    export = json.loads((tmp_path / "out" / "spectrum.json").read_text(), parse_constant=no_constants)
    assert export["model.layers.0.self_attn.v_proj"]["snr"] == 0


def test_parquet_has_the_same_table(written, analysis):
    table = pq.read_table(written / "snr.parquet")
    assert table.column_names == list(tables.COLUMNS)
    assert table.to_pylist() == analysis.rows
    frame = analysis.table()
    assert list(frame.columns) == list(tables.COLUMNS)
    assert frame["layer"].tolist() == [row["layer"] for row in analysis.rows]


def test_spectra_are_stored_in_full_precision(written, analysis):
    with safe_open(written / "spectra.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(analysis.spectra)
        for name in file.keys():  # noqa: SIM118 - not a dict
            values = file.get_tensor(name)
            assert values.dtype == np.float64
            assert np.array_equal(values, analysis.spectra[name])


def test_an_analysis_reads_back_as_it_was(written, analysis):
    again = read_analysis(written)
    assert (again.title, again.layers, again.rows, again.notes) == ("small", 3, analysis.rows, {})
    assert again.identities == analysis.identities
    assert all(np.array_equal(again.spectra[name], values) for name, values in analysis.spectra.items())


def test_the_bytes_do_not_depend_on_workers_or_time(checkpoint, written, tmp_path):
    files = analyse(checkpoint, workers=1, title="small").write(tmp_path, removed=[2, 0])
    assert files
    for file in files:
        assert file.read_bytes() == (written / file.relative_to(tmp_path)).read_bytes(), file.name


def test_the_spectrum_export_ranks_infinite_scores_first_with_numbers_only(written, analysis):
    export = json.loads((written / "spectrum.json").read_text(), parse_constant=no_constants)
    for row in analysis.rows:
        entry = export[row["tensor"].removesuffix(".weight")]
        assert entry["type"] == row["module"]
        assert entry["snr"] == (sys.float_info.max if row["infinite"] else row["snr_normalised"])
    by_type = json.loads((written / "spectrum_sorted.json").read_text())
    assert sum(len(members) for members in by_type.values()) == len(export)
    for kind, members in by_type.items():
        assert all(export[name] == {"snr": value, "type": kind} for name, value in members.items())
        assert list(members.values()) == sorted(members.values(), reverse=True)
    assert set(list(by_type["self_attn.v_proj"])[:2]) == {f"model.layers.{n}.self_attn.v_proj" for n in (0, 2)}


def test_the_compatible_export_counts_a_missing_noise_as_one(analysis):
    export = tables.spectrum_table(analysis.rows, analysis.spectra, compat=True)
    for row in analysis.rows:
        values = analysis.spectra[row["tensor"]]
        expected = values.sum() / values[0] if row["infinite"] else row["snr_normalised"]
        assert export[row["tensor"].removesuffix(".weight")]["snr"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("percent", "each"), [(100, 3), (70, 2), (34, 1), (1, 1)])
def test_axolotl_gets_the_top_percent_of_every_module_type(analysis, percent, each):
    export = tables.spectrum_table(analysis.rows, analysis.spectra)
    text = tables.unfrozen_parameters(analysis.rows, export, percent, always=["^lm_head.weight$"])
    names = yaml.safe_load(text)["unfrozen_parameters"]
    assert names[0] == "^lm_head.weight$"
    assert len(names) == 1 + 7 * each
    flat = [name for name in names if name.endswith("v_proj")]
    margins = {row["tensor"].removesuffix(".weight"): row["margin"] for row in analysis.rows}
    assert flat == sorted((n for n in margins if n.endswith("v_proj")), key=lambda n: -margins[n])[:each]


@pytest.mark.parametrize("percent", [0, -1, 100.5])
def test_a_percentage_out_of_range_is_an_error(analysis, percent):
    export = tables.spectrum_table(analysis.rows, analysis.spectra)
    with pytest.raises(AnalysisError, match="above 0 and at most 100"):
        tables.unfrozen_parameters(analysis.rows, export, percent)


def test_plots_are_small_pictures_of_every_module(written, analysis):
    names = {file.stem for file in (written / "plots").iterdir()}
    assert names == {"heatmap"} | {f"spectra-{row['module']}" for row in analysis.rows}
    for file in (written / "plots").iterdir():
        assert file.stat().st_size <= MAX_BYTES
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300


def test_removed_layers_and_infinite_cells_show_in_the_heat_map(analysis):
    def colours(rows, removed):
        image = Image.open(io.BytesIO(heat_map(rows, title="t", removed=removed))).convert("RGB")
        return {colour: count for count, colour in image.getcolors(1 << 24)}

    red, orange = (0xC8, 0x1E, 0x4A), (0xF2, 0xA5, 0x41)
    plain, marked = colours(analysis.rows, []), colours(analysis.rows, [1])
    assert red not in plain and marked[red] > 500
    assert plain[orange] > 1000
    finite = [row for row in analysis.rows if not row["infinite"]]
    assert orange not in colours(finite, [])


@pytest.mark.parametrize("layers", [1, 30, 96])
def test_plots_of_few_and_many_layers_stay_small(analysis, layers):
    rows = [
        {**row, "layer": layer, "tensor": f"{layer}.{row['tensor']}"}
        for layer in range(layers)
        for row in analysis.rows
        if row["layer"] == layer % 3
    ]
    assert 0 < len(heat_map(rows, title="a model", removed=range(layers // 2))) <= MAX_BYTES


def test_figures_per_layer_for_pruning(written, analysis):
    rows = {row["layer"]: row for row in analysis.rows if row["module"] == "self_attn.v_proj"}
    for by in ("snr", "margin"):
        found = read_layers(written, "self_attn.v_proj", by)
        assert found == [
            {
                "layer": layer,
                "value": rows[layer][by],
                "infinite": rows[layer]["infinite"],
                "margin": rows[layer]["margin"],
                "tensor": rows[layer]["tensor"],
            }
            for layer in range(3)
        ]
    assert read_layers(written, "v_proj", "snr") == read_layers(written, "self_attn.v_proj.weight", "snr")
    assert [figure["infinite"] for figure in read_layers(written, "v_proj", "snr")][::2] == [True, True]


@pytest.mark.parametrize(
    ("tensor", "by", "message"),
    [
        ("self_attn.w_proj", "snr", r"no weight of any layer is called 'self_attn.w_proj'; .*self_attn.v_proj"),
        ("proj", "snr", "no weight of any layer is called 'proj'"),
        ("mlp", "margin", r"'mlp' matches more than one weight of layer 0: .*mlp.* and .*mlp"),
        ("v_proj", "block_influence", "'block_influence' is not a metric"),
    ],
)
def test_figures_that_do_not_exist_or_are_not_unique_are_errors(written, tensor, by, message):
    with pytest.raises(AnalysisError, match=message):
        read_layers(written, tensor, by)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "other"}'])
def test_a_directory_without_an_analysis_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "snr.json").write_text(content)
    with pytest.raises(AnalysisError, match=r"snr\.json"):
        read_layers(tmp_path, "v_proj", "snr")


def test_figures_are_read_without_heavy_packages(written):
    code = (
        "import sys, pathlib; from merge_assets.analysis.layers import read_layers; "
        f"read_layers(pathlib.Path({str(written)!r}), 'v_proj', 'snr'); "
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_analysis_may_replace_the_one_it_continues(checkpoint, analysis, tmp_path):
    analyse(checkpoint, modules=["mlp"]).write(tmp_path, plots=False)
    again = analyse(checkpoint, previous=tmp_path)
    assert again.reused == 9
    again.write(tmp_path, plots=False)
    assert read_rows(tmp_path) == analysis.rows
    assert analyse(checkpoint, previous=tmp_path).reused == 21
    assert not list(tmp_path.glob("*.partial"))
