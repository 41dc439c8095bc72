"""Contract: figures of layer importance equal those of the whole model in memory, by formulas in float64 to 1e-6; one layer is
in memory at a time; a killed measurement goes on; what cannot be run layer by layer is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_assets import api
from merge_assets.analysis.importance import ImportanceRecord, Metric, layer_table, read_importance, values_of
from merge_assets.analysis.importance_run import Importance
from merge_assets.errors import AnalysisError, Stopped
from merge_assets.recipe import TextSample
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.work import Work

REPOSITORY = Path(__file__).parents[2]
BASE = REPOSITORY / "examples" / "checkpoints" / "base"
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a text: held-out passages of all three domains of the demo, in turn."""
    folder = tmp_path_factory.mktemp("project")
    data = REPOSITORY / "suites" / "tasks" / "data"
    files = [(data / f"{name}.jsonl").read_text().splitlines() for name in ("scripture", "manual", "glosses")]
    passages = [json.loads(line)["text"] for lines in zip(*files, strict=False) for line in lines]
    (folder / "text.txt").write_text("\n\n".join(passages))
    return folder


def measured(root: Path, model: Path, kind: Any, out: Path, **settings: Any) -> Importance:
    space = api.Workspace.open(Settings(root=root, cache_dir=out / "cache", device="cpu"))
    sample = TextSample(file="text.txt", **settings)
    return api.importance(space, ModelReference.parse(str(model)), out, kind, sample)


def pieces_of(root: Path, model: Path, tokens: int, length: int) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(model)((root / "text.txt").read_text(), add_special_tokens=False)["input_ids"]
    return torch.tensor(ids[: tokens // length * length]).reshape(-1, length)


def whole(model: Path, dtype: torch.dtype = torch.float64) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, experts_implementation="eager").eval()


def layers_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.get_decoder().layers


def streams_of(model: Any, pieces: torch.Tensor) -> list[torch.Tensor]:
    """Before every layer and behind the last: (pieces, positions, width) in float64."""
    seen: list[torch.Tensor] = []
    layers = layers_of(model)
    hooks = [layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].double())) for layer in layers]

    def behind(_: Any, args: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out).double())

    hooks.append(layers[-1].register_forward_hook(behind))
    with torch.no_grad():
        model(input_ids=pieces, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def perplexity_of(model: Any, pieces: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=pieces, use_cache=False).logits.double()
    logs = torch.log_softmax(logits[:, :-1], -1).gather(-1, pieces[:, 1:, None])
    return math.exp(-logs.mean().item())


def without(model: Any, removed: set[int]) -> Callable[[torch.Tensor], float]:
    """The model with some layers taken out of its list."""
    layers = layers_of(model)
    kept = torch.nn.ModuleList([layer for number, layer in enumerate(layers) if number not in removed])
    owner = model.get_decoder() if not hasattr(model, "transformer") else model.transformer
    name = "h" if hasattr(model, "transformer") else "layers"

    def perplexity(pieces: torch.Tensor) -> float:
        setattr(owner, name, kept)
        try:
            return perplexity_of(model, pieces)
        finally:
            setattr(owner, name, layers)

    return perplexity


def check_activations(record: ImportanceRecord, model: Any, pieces: torch.Tensor) -> None:
    seen = streams_of(model, pieces)
    cos = torch.nn.functional.cosine_similarity
    for layer, value in values_of(record, "block_influence").items():
        wanted = 1 - cos(seen[layer], seen[layer + 1], dim=-1).mean().item()
        assert value == pytest.approx(wanted, abs=TOLERANCE)
    for count in range(1, record.layers + 1):
        for layer, value in values_of(record, "angular_distance", count).items():
            cosines = cos(seen[layer][:, -1], seen[layer + count][:, -1], dim=-1)
            wanted = sum(math.acos(min(1.0, c)) / math.pi for c in cosines.tolist()) / len(cosines)
            assert value == pytest.approx(wanted, abs=TOLERANCE)
    assert len(values_of(record, "block_influence")) == record.layers
    assert sum(f.metric == "angular_distance" for f in record.figures) == record.layers * (record.layers + 1) // 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_block_influence_and_angular_distance_are_those_of_the_whole_model(
    dtype: str, root: Path, tmp_path: Path
) -> None:
    found = measured(root, BASE, "activations", tmp_path, tokens=600, length=128, dtype=dtype)
    text = found.record.text
    assert (text.pieces, text.tokens, text.length, text.dtype) == (4, 512, 128, dtype)
    check_activations(found.record, whole(BASE, getattr(torch, dtype)), pieces_of(root, BASE, 600, 128))
    assert found.most_loaded == 1


@pytest.mark.slow
def test_every_layer_left_out_and_the_one_chosen_agree_with_brute_force(root: Path, tmp_path: Path) -> None:
    found = measured(root, BASE, "perplexity", tmp_path, tokens=512, length=128, dtype="float64")
    model, pieces = whole(BASE), pieces_of(root, BASE, 512, 128)
    brute = {layer: without(model, {layer})(pieces) for layer in range(16)}
    values = values_of(found.record, "perplexity")
    assert values == pytest.approx(brute, rel=TOLERANCE)
    assert min(values, key=values.__getitem__) == min(brute, key=brute.__getitem__)
    base = next(f.value for f in found.record.figures if f.metric == "perplexity" and f.layer is None)
    assert base == pytest.approx(perplexity_of(model, pieces), rel=TOLERANCE)
    for count in (1, 4, 9):
        cut = values_of(found.record, "reverse_order", count)
        assert cut == pytest.approx({16 - count: without(model, set(range(16 - count, 16)))(pieces)}, rel=TOLERANCE)
    assert found.most_loaded == 1


def small(kind: str, folder: Path) -> Path:
    """A model of another family, of random weights, with the demo's tokenizer."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    common = {**sizes, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 64}
    config: Any = {
        "mixtral": lambda: transformers.MixtralConfig(**common, num_local_experts=4),
        "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
            **common, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts_per_tok=2
        ),
        "gemma2": lambda: transformers.Gemma2Config(**common, head_dim=8, sliding_window=8),
        "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=1024, n_positions=64),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(
            **{**sizes, "vocab_size": 1024, "max_position_embeddings": 64, "rotary_pct": 0.5}
        ),
    }[kind]()
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for file in BASE.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gemma2", "gpt2", "gpt_neox"])
def test_other_families_are_run_layer_by_layer_as_they_are_whole(kind: str, root: Path, tmp_path: Path) -> None:
    """Experts that the library fuses, windows that alternate, tables of frequencies, layers that give tuples."""
    model = small(kind, tmp_path / "model")
    found = measured(root, model, "activations", tmp_path / "out", tokens=96, length=48, dtype="float64")
    check_activations(found.record, whole(model), pieces_of(root, model, 96, 48))
    found = measured(root, model, "perplexity", tmp_path / "out", tokens=96, length=48, dtype="float64")
    brute = {layer: without(whole(model), {layer})(pieces_of(root, model, 96, 48)) for layer in range(3)}
    if kind != "gemma2":  # which of its layers have a window goes by their place in the list
        assert values_of(found.record, "perplexity") == pytest.approx(brute, rel=TOLERANCE)


@pytest.mark.slow
def test_what_hands_on_more_than_hidden_states_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=32, d_ff=32, num_layers=2, num_heads=2, d_kv=8, vocab_size=1024)
    ).save_pretrained(tmp_path / "t5")
    for file in BASE.glob("tokenizer*"):
        (tmp_path / "t5" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        AnalysisError, match=r"T5ForConditionalGeneration: activations cannot be measured layer by layer"
    ):
        measured(root, tmp_path / "t5", "activations", tmp_path / "out", tokens=64, length=32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["activations", "perplexity"])
def test_a_measurement_that_was_stopped_goes_on_and_ends_with_the_same_figures(
    kind: Any, root: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"tokens": 256, "length": 64}
    space = api.Workspace.open(Settings(root=root, cache_dir=tmp_path / "cache", device="cpu"))
    sample, reference = TextSample(file="text.txt", **settings), ModelReference.parse(str(BASE))
    labels: list[str] = []

    def report(done: int, total: int, label: str) -> None:
        labels.append(label)

    stopping = Work(report=report, should_stop=lambda: any("layer 5 of 16, piece 2" in label for label in labels))
    with pytest.raises(Stopped):
        api.importance(space, reference, tmp_path / "out", kind, sample, work=stopping)
    found = api.importance(space, reference, tmp_path / "out", kind, sample)
    fresh = measured(root, BASE, kind, tmp_path / "fresh", **settings)
    assert found.resumed in (5, 6)  # the layer may have been finished while it was told
    assert fresh.resumed == 0
    assert found.record == fresh.record
    assert not list((tmp_path / "cache" / "importance").iterdir())


@pytest.mark.slow
def test_what_is_written_is_strict_complete_and_read_back(root: Path, tmp_path: Path) -> None:
    found = measured(root, BASE, "activations", tmp_path / "out", tokens=128, length=64)
    assert read_importance(tmp_path / "out") == found.record
    json.loads((tmp_path / "out" / "importance.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    rows = pq.read_table(tmp_path / "out" / "importance.parquet").to_pylist()
    assert rows == [figure.model_dump() for figure in found.record.figures]
    table = layer_table(found.record)
    assert [row["layer"] for row in table] == [str(layer) for layer in range(16)]
    metric: Metric = "block_influence"
    assert float(table[3][metric]) == pytest.approx(values_of(found.record, metric)[3], rel=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the text cannot be read: No such file or directory; give a plain text file"),
        (b"", "is empty"),
        (b"abc \xff", r"is no text in UTF-8 \(byte 4\)"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(AnalysisError, match=message):
        measured(tmp_path, BASE, "activations", tmp_path / "out")


def test_the_cost_is_known_before_anything_is_loaded(root: Path) -> None:
    space = api.Workspace.open(Settings(root=root, device="cpu"))
    sample, reference = TextSample(file="text.txt", tokens=4096), ModelReference.parse(str(BASE))
    once = api.importance_cost(space, reference, "activations", sample)
    left_out = api.importance_cost(space, reference, "perplexity", sample)
    assert (once.passes, left_out.passes) == (16, 16 * 17 // 2)
    parameters = 96 * (96 + 24 + 24 + 96) + 3 * 96 * 176 + 2 * 96
    assert once.operations == 2 * 4096 * 16 * parameters
    assert left_out.operations == once.operations * 17 / 2
    assert left_out.scratch == 17 * 4096 * 96 * 4
    assert "136 passes of a layer, 8.5 times those of the model itself" in str(left_out)
