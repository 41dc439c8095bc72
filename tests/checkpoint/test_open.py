"""``open_checkpoint`` sees a directory as transformers would load it, or says in one error why it cannot.

Every error names the file, the tensor where one is at fault, and what to do. No weight is read.
"""

import json
import math
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from merge_assets.checkpoint import carried_files, fingerprint_files, open_checkpoint, tokenizer_files
from merge_assets.checkpoint.files import needed_files
from merge_assets.errors import CheckpointError
from tests.checkpoint_support import LLAMA_CONFIG, raw_file, save_llama, sharded, tensor_file, write_files

ONE = {"config.json": LLAMA_CONFIG, "model.safetensors": tensor_file({"x": ("F32", [2], 8)})}


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory)
    message = str(caught.value)
    assert message.startswith(str(directory))
    assert ";" in message, "the remedy follows a semicolon"
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shard_size", ["40KB", "1GB"])
def test_a_transformers_checkpoint_as_the_safetensors_library_sees_it(tmp_path: Path, shard_size: str) -> None:
    checkpoint = open_checkpoint(save_llama(tmp_path, shard_size=shard_size, dtype="bfloat16"))
    seen = {}
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                part = file.get_slice(name)
                seen[name] = (path.name, part.get_dtype(), tuple(part.get_shape()))
    assert {name: (t.file, t.dtype, t.shape) for name, t in checkpoint.tensors.items()} == seen
    assert len(checkpoint.weight_files) == len(list(tmp_path.glob("*.safetensors")))
    assert checkpoint.files == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert checkpoint.config == json.loads((tmp_path / "config.json").read_text())
    assert checkpoint.generation_config == json.loads((tmp_path / "generation_config.json").read_text())
    assert checkpoint.location == str(tmp_path)
    assert checkpoint.layer_count == 4


def test_tensor_bytes_lie_at_their_offsets(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_llama(tmp_path))
    for name, tensor in checkpoint.tensors.items():
        with safe_open(tmp_path / tensor.file, framework="np") as file:
            expected = file.get_tensor(name).tobytes()
        assert (tmp_path / tensor.file).read_bytes()[tensor.begin : tensor.end] == expected


def test_tensors_are_in_order_of_shard_and_offset(tmp_path: Path) -> None:
    tensors = list(open_checkpoint(save_llama(tmp_path)).tensors.values())
    assert tensors == sorted(tensors, key=lambda tensor: (tensor.file, tensor.begin))


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "m", ONE)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(Path("m")).location == str(tmp_path / "m")


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("../a.safetensors", "not the name of a safetensors file beside the index"),
        ("/etc/a.safetensors", "not the name"),
        ("..\\a.safetensors", "not the name"),
        ("sub/a.safetensors", "not the name"),
        ("a.bin", "not the name"),
        ("", "not the name"),
        (7, "not the name"),
        (None, "not the name"),
        ("c.safetensors", "c.safetensors, which is missing"),
    ],
)
def test_an_index_names_only_shards_beside_it(tmp_path: Path, shard: object, says: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(tensor_file({"x": ("F32", [2, 3], 24)}))
    index = {"weight_map": {"x": shard, "y": "b.safetensors"}}
    message = refusal(sharded(tmp_path / "m", index=index))
    assert "model.safetensors.index.json: tensor 'x'" in message
    assert says in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"b": None}, "b.safetensors, which is missing", id="shard missing"),
        pytest.param(
            {"a": tensor_file({"z": ("U8", [1], 1)})}, "a.safetensors: tensor 'z' is not listed", id="unlisted tensor"
        ),
        pytest.param(
            {"index": {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"}}},
            "model.safetensors.index.json: tensor 'z' is not in its shard b.safetensors",
            id="listed tensor absent",
        ),
        pytest.param(
            {"index": {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}},
            "a.safetensors: tensor 'x' is not listed for this shard",
            id="tensors listed for each other's shard",
        ),
        pytest.param(
            {"b": tensor_file({"x": ("U8", [1], 1), "y": ("U8", [1], 1)})},
            "b.safetensors: tensor 'x' is in a.safetensors too; model.safetensors.index.json lists it in a.safetensors",
            id="tensor in two shards",
        ),
        pytest.param({"index": {"weight_map": {}}}, "weight_map", id="empty weight map"),
        pytest.param({"index": {"weight_map": ["x"]}}, "weight_map", id="weight map is a list"),
        pytest.param({"index": []}, "index.json: holds list, not an object", id="index is a list"),
        pytest.param({"index": b"{"}, "index.json: not JSON", id="index is not JSON"),
        pytest.param(
            {"index": b'{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}'},
            "names 'x' twice",
            id="index names a tensor twice",
        ),
        pytest.param({"a": b"short"}, "a.safetensors: 5 bytes are too few", id="shard cut off"),
        pytest.param(
            {"a": tensor_file({"x": ("F32", [2, 3], 24)})[:-1]}, "a.safetensors: tensor 'x'", id="shard truncated"
        ),
        pytest.param({"config": None}, "config.json: missing", id="no config"),
        pytest.param({"config": []}, "config.json: holds list, not an object", id="config is a list"),
        pytest.param({"config": b"{'a': 1}"}, "config.json: not JSON", id="config is not JSON"),
        pytest.param({"config": b"\xff"}, "config.json: not JSON", id="config is not UTF-8"),
        pytest.param({"config": b'{"a": "\xed\xa0\x80"}'}, "config.json: not JSON", id="config with half a character"),
        pytest.param({"config": b'{"a": "\\ud800"}'}, "only half of a character", id="config with half an escape"),
        pytest.param({"config": b'{"a": ' * 300 + b"1" + b"}" * 300}, "config.json: nested deeper", id="deep config"),
        pytest.param(
            {"config": b"{" + b" " * 10_000_000 + b"}"}, "bytes are more than the 10000000 allowed", id="a large config"
        ),
    ],
)
def test_files_that_do_not_agree_are_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    assert says in refusal(sharded(tmp_path, **changes))


def test_constants_that_python_writes_into_settings_are_numbers_there_and_nowhere_else(tmp_path: Path) -> None:
    limits = b'{"model_type": "mamba2", "limit": [-Infinity, Infinity], "floor": NaN}'
    opened = open_checkpoint(
        write_files(sharded(tmp_path, config=limits), {"generation_config.json": b'{"penalty": Infinity}'})
    )
    assert opened.config["limit"] == [-math.inf, math.inf]
    assert math.isnan(opened.config["floor"])
    assert opened.generation_config == {"penalty": math.inf}
    index = b'{"metadata": {"total_size": NaN}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}'
    assert "index.json: not JSON (NaN is not JSON)" in refusal(sharded(tmp_path, index=index))


def test_the_good_checkpoint_that_the_bad_ones_are_made_of_opens(tmp_path: Path) -> None:
    assert list(open_checkpoint(sharded(tmp_path)).tensors) == ["x", "y"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"pytorch_model.bin": b"\x80"}, "pytorch_model.bin: pickled weights"),
        ({"consolidated.00.pth": b"\x80"}, "consolidated.00.pth: pickled weights"),
        ({"model-00001-of-00002.safetensors": b""}, "there is no model.safetensors.index.json that lists it"),
        ({"adapter_config.json": {}, "adapter_model.safetensors": b""}, "LoRA adapter"),
        ({"model.Q4.gguf": b"GGUF"}, "GGUF"),
        ({}, "model.safetensors: missing"),
    ],
)
def test_a_directory_without_readable_weights(tmp_path: Path, files: dict[str, object], says: str) -> None:
    assert says in refusal(write_files(tmp_path, {"config.json": LLAMA_CONFIG, **files}))


def test_a_stale_single_file_beside_shards_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    write_files(tmp_path, {"model.safetensors": ONE["model.safetensors"]})
    assert "remove the one that is stale" in refusal(tmp_path)


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    assert "not a directory" in refusal(tmp_path / "absent")


def test_an_empty_weight_file_is_refused(tmp_path: Path) -> None:
    assert "holds no tensors" in refusal(write_files(tmp_path, {**ONE, "model.safetensors": raw_file({})}))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_link_out_of_the_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    write_files(tmp_path / "m", ONE)
    secret = tmp_path / "secret"
    secret.write_bytes(ONE["model.safetensors"])
    (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "m" / name).symlink_to(secret)
    message = refusal(tmp_path / "m")
    assert f"m/{name}: is a link to {secret}" in message


def test_a_link_into_a_folder_that_is_named_is_followed(tmp_path: Path) -> None:
    write_files(tmp_path / "m", {"config.json": ONE["config.json"]})
    shards = write_files(tmp_path / "shards", {"1": ONE["model.safetensors"]})
    (tmp_path / "m" / "model.safetensors").symlink_to(shards / "1")
    assert list(open_checkpoint(tmp_path / "m", [tmp_path / "other", shards]).tensors) == ["x"]
    with pytest.raises(CheckpointError, match="link_targets"):
        open_checkpoint(tmp_path / "m", [tmp_path / "other"])


def test_the_only_variant_is_read(tmp_path: Path) -> None:
    one = write_files(
        tmp_path / "one", {"config.json": ONE["config.json"], "model.fp16.safetensors": ONE["model.safetensors"]}
    )
    assert open_checkpoint(one).weight_files == ("model.fp16.safetensors",)
    index = json.dumps({"weight_map": {"x": "model.fp16-00001-of-00001.safetensors"}}).encode()
    shard, listing = "model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"
    sharded = {"config.json": ONE["config.json"], listing: index, shard: ONE["model.safetensors"]}
    opened = open_checkpoint(write_files(tmp_path / "sharded", sharded))
    assert opened.weight_files == (shard,) and listing in needed_files(opened.files, opened.weight_files)
    (one / "model.bf16.safetensors").write_bytes(ONE["model.safetensors"])
    assert "model.bf16.safetensors: so is model.fp16.safetensors there" in refusal(one)
    (one / "model.safetensors").write_bytes(ONE["model.safetensors"])
    assert open_checkpoint(one).weight_files == ("model.safetensors",), "the plain name comes first"


def test_links_within_the_checkpoint_and_to_the_checkpoint_are_followed(tmp_path: Path) -> None:
    write_files(tmp_path / "m", {"config.json": LLAMA_CONFIG, "weights.bin": ONE["model.safetensors"]})
    (tmp_path / "m" / "model.safetensors").symlink_to("weights.bin")
    (tmp_path / "link").symlink_to("m")
    assert list(open_checkpoint(tmp_path / "link").tensors) == ["x"]


def test_the_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    blobs = write_files(repository / "blobs", {"1": ONE["config.json"], "2": ONE["model.safetensors"]})
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(os.path.relpath(blobs / "1", snapshot))
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blobs / "2", snapshot))
    assert open_checkpoint(snapshot).files["model.safetensors"] == len(ONE["model.safetensors"])


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path: Path) -> None:
    write_files(tmp_path, {"config.json": LLAMA_CONFIG})
    os.mkfifo(tmp_path / "model.safetensors")
    assert "model.safetensors: missing" in refusal(tmp_path)


def test_what_a_derived_checkpoint_takes_over(tmp_path: Path) -> None:
    tokenizer = [
        "added_tokens.json",
        "chat_template.jinja",
        "merges.txt",
        "spiece.model",
        "tokenizer.json",
        "vocab.json",
    ]
    others = ["generation_config.json", "preprocessor_config.json"]
    left = [
        "README.md",
        "trainer_state.json",
        "onnx/tokenizer.json",
        ".gitattributes",
        "modeling_own.py",
        "x.model.bak",
    ]
    files = {name: {} for name in [*tokenizer, *others, *left]}
    template = "additional_chat_templates/tool_use.jinja"
    checkpoint = open_checkpoint(write_files(tmp_path, {**ONE, **files, template: b"{{ x }}"}))
    assert tokenizer_files(checkpoint) == sorted([*tokenizer, template])
    assert carried_files(checkpoint) == sorted([*tokenizer, *others, template])


def test_files_in_subfolders_are_other_models() -> None:
    """A Hub listing names them, a local one does not; a fingerprint may not tell the two apart."""
    names = ["config.json", "onnx/config.json", "onnx/spiece.model", "spiece.model", "model.safetensors"]
    names += ["modeling_own.py", "onnx/modeling_own.py"]
    assert fingerprint_files(names, ["model.safetensors"]) == [
        *("config.json", "model.safetensors", "modeling_own.py", "spiece.model")
    ]


def test_code_is_taken_over_where_the_config_names_it(tmp_path: Path) -> None:
    config = {**LLAMA_CONFIG, "auto_map": {"AutoModel": "modeling_own.Model"}}
    checkpoint = open_checkpoint(write_files(tmp_path, {**ONE, "config.json": config, "modeling_own.py": b""}))
    assert carried_files(checkpoint) == ["modeling_own.py"]
