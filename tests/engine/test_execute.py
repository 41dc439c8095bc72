"""The executor: the same bytes whatever the cut of the work, and nothing taken for a model when something goes wrong."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from merge_assets.engine.execute import execute
from merge_assets.engine.files import InputFiles, OutputFile
from merge_assets.errors import EngineError, PlanError, Stopped
from merge_assets.plan import Shard
from merge_assets.work import Work
from tests.merging import merge_text, merged_tensors, plan_text
from tests.synthetic import read_tensors, write_checkpoint, write_llama

METHODS = {
    "linear": "parameters: {weight: 0.6}",
    "slerp": "parameters: {t: [0, 0.5, 1]}",
    "ties": "parameters: {weight: 0.6, density: 0.5, rescale: true}",
    "task_arithmetic": "parameters: {weight: 0.6, lambda: 0.8}",
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints with a tensor of several blocks, of a size that no tile divides."""
    root = tmp_path_factory.mktemp("large")
    config = {"architectures": ["X"], "model_type": "llama", "num_hidden_layers": 2, "vocab_size": 7}
    made = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            "model.embed_tokens.weight": torch.randn(7, 33, generator=generator),
            "model.layers.0.mlp.weight": torch.randn(613, 701, generator=generator),
            "model.layers.1.mlp.weight": torch.randn(613, 701, generator=generator),
            "model.norm.weight": torch.randn(33, generator=generator),
        }
        made.append(write_checkpoint(root / f"m{seed}", {k: v.bfloat16() for k, v in tensors.items()}, config))
    return made[0], made[1]


@pytest.mark.parametrize("method", METHODS)
def test_bytes_do_not_depend_on_threads_tile_or_shards(method: str, large: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = large
    models = f"models: [{{model: {first}}}, {{model: {second}}}]"
    base = "" if method == "linear" else f"\nbase_model: {first}"
    text = f"merge_method: {method}\n{models}{base}\n{METHODS[method]}\n"
    expected = merged_tensors(text, tmp_path, threads=1)
    for options in ({"threads": 4}, {"tile": 1000}, {"tile": 1 << 20, "threads": 3}, {"shard_size": 400_000}):
        found = merged_tensors(text, tmp_path, **options)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)), (options, name)


def test_unscaled_passthrough_copies_the_bytes(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m", 4, shards=2)
    result = merged_tensors(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\n", tmp_path)
    inputs = read_tensors(source)
    assert result.keys() == inputs.keys()
    assert all(torch.equal(result[name].view(torch.int16), inputs[name].view(torch.int16)) for name in inputs)


def test_a_file_system_without_kernel_copies_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    source = write_llama(tmp_path / "m", 4)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    result = merged_tensors(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\n", tmp_path)
    assert all(torch.equal(result[n].view(torch.int16), t.view(torch.int16)) for n, t in read_tensors(source).items())


def test_a_copy_needs_no_torch(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m", 4)
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from tests import lazy_merge
        lazy_merge.passthrough(Path({str(source)!r}), Path({str(tmp_path / "out")!r}))
        assert "torch" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_shards_are_valid_safetensors_and_respect_the_size(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m", 4)
    out = merge_text(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\n", tmp_path, shard_size=4000)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            size = sum(opened.get_tensor(name).nbytes for name in opened.keys())  # noqa: SIM118
            assert size <= 4000 or len(list(opened.keys())) == 1


def test_a_stop_request_ends_the_work(large: tuple[Path, Path], tmp_path: Path) -> None:
    plan = plan_text(f"merge_method: linear\nmodels: [{{model: {large[0]}, parameters: {{weight: 1}}}}]\n", tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(Stopped):
        execute(plan, tmp_path / "out", device="cpu", work=Work(should_stop=lambda: True))


def test_progress_ends_at_the_total(large: tuple[Path, Path], tmp_path: Path) -> None:
    text = f"merge_method: slerp\nmodels: [{{model: {large[1]}}}]\nbase_model: {large[0]}\nparameters: {{t: 0.5}}\n"
    plan = plan_text(text, tmp_path)
    (tmp_path / "out").mkdir()
    seen: list[tuple[int, int]] = []
    work = Work(lambda done, total, _: seen.append((done, total)))
    report = execute(plan, tmp_path / "out", device="cpu", work=work)
    assert max(done for done, _ in seen) == plan.bytes_to_read
    assert report.bytes_read == plan.bytes_to_read / 2, "what is swept twice is read once where it fits into memory"
    assert {total for _, total in seen} == {plan.bytes_to_read}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(bad: float, tmp_path: Path) -> None:
    poisoned = torch.ones(16, 16)
    poisoned[3, 5] = bad
    name = "model.layers.1.self_attn.q_proj.weight"
    source = write_llama(tmp_path / "m", edit={name: poisoned.bfloat16()})
    with pytest.raises(EngineError, match=rf"1 output tensors .*{name} \(1\)"):
        merge_text(f"merge_method: linear\nmodels: [{{model: {source}, parameters: {{weight: 1}}}}]\n", tmp_path)


def test_a_float16_overflow_is_refused(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m", edit={"model.norm.weight": torch.full((16,), 1e6, dtype=torch.bfloat16)})
    with pytest.raises(EngineError, match=r"model.norm.weight \(16\)"):
        merge_text(f"merge_method: passthrough\nmodels: [{{model: {source}}}]\ndtype: float16\n", tmp_path)


def test_weights_that_cancel_are_refused(tmp_path: Path) -> None:
    a, b = write_llama(tmp_path / "a"), write_llama(tmp_path / "b", seed=1)
    text = (
        f"merge_method: linear\nmodels: [{{model: {a}, parameters: {{weight: 1}}}}, "
        f"{{model: {b}, parameters: {{weight: -1}}}}]\n"
    )
    with pytest.raises(PlanError, match="sum to 0"):
        merge_text(text, tmp_path)


@pytest.mark.parametrize("scale", ["", ", parameters: {scale: 2}"], ids=["copied", "computed"])
def test_an_input_cut_short_after_planning_is_one_clear_error(scale: str, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "m")
    plan = plan_text(f"merge_method: passthrough\nmodels: [{{model: {source}{scale}}}]\n", tmp_path)
    file = source / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match=r"model\.safetensors: ends at byte \d+, \d+ bytes early"):
        execute(plan, tmp_path / "out", device="cpu")


def test_a_full_disk_is_reported_before_anything_is_computed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(EngineError, match="cannot reserve 100000 bytes"):
            OutputFile(tmp_path / "shard", Shard("shard", "{}", 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_missing_input_names_the_file(tmp_path: Path) -> None:
    with InputFiles() as inputs, pytest.raises(EngineError, match=r"gone\.safetensors: cannot be opened"):
        inputs.read_into(str(tmp_path / "gone.safetensors"), memoryview(bytearray(4)), 0)


def test_cuda_without_a_device_is_a_clear_error(large: tuple[Path, Path], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    plan = plan_text(f"merge_method: linear\nmodels: [{{model: {large[0]}, parameters: {{weight: 1}}}}]\n", tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(EngineError, match="--device cpu"):
        execute(plan, tmp_path / "out", device="cuda")
