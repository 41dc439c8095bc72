"""Checkpoints that people send whom nobody knows: each is a sound tiny model in which one file was made to do harm.

Code that would run writes :data:`CANARY` and calls a port; nothing may do either.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANARY = "canary"
"""File beside the checkpoint that foreign code writes."""

Change = Callable[[Path, int], None]


@dataclass(frozen=True)
class Stranger:
    """One hostile checkpoint.

    Attributes:
        name: what is wrong with it.
        change: makes it of a sound one; gets the folder, and the port of a listener.
    """

    name: str
    change: Change


def write(stranger: Stranger, sound: Path, folder: Path, port: int) -> Path:
    """Write a hostile checkpoint into ``folder``, which does not exist."""
    shutil.copytree(sound, folder)
    stranger.change(folder, port)
    return folder


def _code(folder: Path, port: int) -> str:
    """Python that leaves traces when it is run."""
    return (
        f"open({str(folder.parent / CANARY)!r}, 'w').write('ran')\n"
        f"import socket\nsocket.create_connection(('127.0.0.1', {port})).close()\n"
    )


def _json(file: str, **values: Any) -> Change:
    """The file with other values; ``None`` as the value of a key takes it out."""

    def change(folder: Path, port: int) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(content | values))

    return change


def _text(file: str, text: str | bytes) -> Change:
    def change(folder: Path, port: int) -> None:
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def _each(*changes: Change) -> Change:
    def change(folder: Path, port: int) -> None:
        for one in changes:
            one(folder, port)

    return change


def _module(name: str) -> Change:
    """A module whose import leaves traces, with classes of the names that ``auto_map`` gives."""

    def change(folder: Path, port: int) -> None:
        (folder / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        classes = "".join(f"class {one}: pass\n" for one in ("Config", "Model", "Tokenizer"))
        (folder / f"{name}.py").write_text(_code(folder, port) + classes + "def generate(*a, **k): pass\n")

    return change


class _Payload:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def _pickle(file: str) -> Change:
    def change(folder: Path, port: int) -> None:
        (folder / file).write_bytes(pickle.dumps(_Payload(_code(folder, port))))

    return change


def _remove(file: str) -> Change:
    return lambda folder, port: (folder / file).unlink()


def _tokenizer(**values: Any) -> Change:
    return _json("tokenizer.json", **values)


def _nested(depth: int, kind: str, inner: str) -> Change:
    """A tokenizer.json with a part inside itself so many times; written as text, since json would not nest it."""

    def change(folder: Path, port: int) -> None:
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text()) | {kind: "HERE"}
        head = f'{{"type":"Sequence","{inner}":['
        path.write_text(json.dumps(content).replace('"HERE"', head * depth + "]}" * depth))

    return change


def _template(text: str) -> Change:
    return _each(_json("tokenizer_config.json", chat_template=text), _text("chat_template.jinja", text))


def _many_tokens(count: int) -> dict[str, int]:
    return {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{n}": n for n in range(3, count)}}


def _config(**values: Any) -> Change:
    return _json("config.json", **values)


def _generation(**values: Any) -> Change:
    return _json("generation_config.json", **values)


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _sequence(part: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", part: steps}


_AUTO = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Model"}
_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch canary') }}"

STRANGERS = tuple(
    Stranger(name, change)
    for name, change in {
        # -- tokenizer.json ---------------------------------------------------------------------------------------------
        "tokenizer: a normalizer that doubles the text forty times": _tokenizer(
            normalizer=_sequence("normalizers", [_replace("[a-z]", "ee")] * 40)
        ),
        "tokenizer: a pattern that goes back exponentially": _tokenizer(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": r"(?:(?:\w|\w\w|\s)*)*\x00$"},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
        "tokenizer: a pattern that compiles into gigabytes": _tokenizer(
            normalizer=_replace("(((a{1,1000}){1,1000}){1,1000}){1,1000}", "")
        ),
        "tokenizer: a pattern of ten megabytes": _tokenizer(normalizer=_replace("(a|b)?" * 1_700_000, "")),
        "tokenizer: normalizers nested 100,000 deep": _nested(100_000, "normalizer", "normalizers"),
        "tokenizer: pre-tokenizers nested 120 deep": _nested(120, "pre_tokenizer", "pretokenizers"),
        "tokenizer: a million words": _tokenizer(
            model={"type": "WordLevel", "vocab": _many_tokens(1_000_000), "unk_token": "<unk>"}
        ),
        "tokenizer: numbers below zero": _tokenizer(
            model={"type": "WordLevel", "vocab": {"<unk>": -1}, "unk_token": "<unk>"}
        ),
        "tokenizer: numbers beyond 64 bits": _tokenizer(
            model={"type": "WordLevel", "vocab": {"<unk>": 1 << 70}, "unk_token": "<unk>"}
        ),
        "tokenizer: no mapping": _text("tokenizer.json", "[]"),
        "tokenizer: cut off": _text("tokenizer.json", '{"version": "1.0", "model": {"type"'),
        "tokenizer: bytes that are no text": _text("tokenizer.json", b"\xff\xfe\x00" * 1000),
        "tokenizer: 100,000 added tokens": _tokenizer(
            added_tokens=[
                {
                    "id": n,
                    "content": f"<x{n}>",
                    "special": True,
                    "single_word": False,
                    "lstrip": True,
                    "rstrip": True,
                    "normalized": True,
                }
                for n in range(100_000)
            ]
        ),
        "tokenizer: a character map of garbage": _tokenizer(
            normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w" + "A" * 100_000}
        ),
        # -- tokenizer_config.json --------------------------------------------------------------------------------------
        "tokenizer config: a class of its own code": _each(
            _module("evil"),
            _json(
                "tokenizer_config.json",
                tokenizer_class="Tokenizer",
                auto_map={"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]},
            ),
        ),
        "tokenizer config: a class that is a path": _each(
            _module("evil"),
            _json(
                "tokenizer_config.json",
                tokenizer_class="../evil.Tokenizer",
                auto_map={"AutoTokenizer": "../evil--evil.Tokenizer"},
            ),
        ),
        "tokenizer config: lengths that are no lengths": _json(
            "tokenizer_config.json", model_max_length=float("nan"), padding_side="up"
        ),
        "tokenizer config: a number of 10^9 for an added token": _json(
            "tokenizer_config.json", added_tokens_decoder={str(10**9): {"content": "<far>", "special": True}}
        ),
        "chat template: a loop without end": _template(
            "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"
        ),
        "chat template: a way out of the sandbox": _template(_ESCAPE),
        # -- generation_config.json -------------------------------------------------------------------------------------
        "generation: a million beams": _generation(num_beams=1_000_000, early_stopping=False),
        "generation: a billion tokens": _generation(max_new_tokens=10**9, min_new_tokens=10**9, eos_token_id=None),
        "generation: a million answers": _generation(num_return_sequences=1_000_000, do_sample=True),
        "generation: code of its own": _each(
            _module("custom_generate/generate"), _generation(custom_generate=".", trust_remote_code=True)
        ),
        "generation: a strategy that the Hub has code for": _generation(penalty_alpha=0.6, top_k=4, dola_layers="high"),
        "generation: words for numbers": _generation(
            num_beams="many", temperature=[], eos_token_id={"a": 1}, max_length="x"
        ),
        "generation: a million ends": _generation(
            eos_token_id=list(range(1_000_000)), suppress_tokens=list(range(100_000))
        ),
        "generation: 10,000 texts that stop": _generation(
            stop_strings=["x" * n for n in range(1, 2000)], max_time=1e300
        ),
        "generation: a cache of its own": _generation(cache_implementation="evil", compile_config={"backend": "evil"}),
        "generation: no JSON": _text("generation_config.json", "{" * 100_000),
        # -- config.json: code ------------------------------------------------------------------------------------------
        "config: a family of its own code": _each(
            _module("evil"), _config(model_type="evil", architectures=["Model"], auto_map=_AUTO)
        ),
        "config: code for a family that is known": _each(_module("evil"), _config(auto_map=_AUTO)),
        "config: code in another repository": _config(
            auto_map={key: f"evil/repository--{value}" for key, value in _AUTO.items()}, model_type="evil"
        ),
        "config: code outside of the folder": _each(
            _module("evil"),
            _config(auto_map={key: f"../../{value}" for key, value in _AUTO.items()}, model_type="evil"),
        ),
        "config: attention that is code of the Hub": _config(
            attn_implementation="evil/kernels", _attn_implementation="evil/kernels"
        ),
        "config: a quantisation of another library": _config(
            quantization_config={
                "quant_method": "gptq",
                "bits": 4,
                "dataset": "evil",
                "modules_in_block_to_quantize": [["x"]],
            }
        ),
        "config: a dtype that is a function": _config(dtype="load", torch_dtype="hub"),
        "config: a class that is none": _config(architectures=["AutoModel.from_pretrained"], model_type="llama"),
        # -- config.json: values ----------------------------------------------------------------------------------------
        "config: a billion labels": _config(num_labels=1_000_000_000, id2label=None),
        "config: hidden states of 10^12": _config(hidden_size=10**12),
        "config: a vocabulary of 10^12": _config(vocab_size=10**12),
        "config: 10^9 layers": _config(num_hidden_layers=10**9),
        "config: 9,999 layers": _config(num_hidden_layers=9_999),
        "config: heads below zero": _config(num_attention_heads=-4, num_key_value_heads=-1),
        "config: heads of no width": _config(head_dim=0),
        "config: numbers that are none": _config(
            rms_norm_eps=float("nan"), initializer_range=float("inf"), rope_theta=float("-inf")
        ),
        "config: words for numbers": _config(hidden_size="many", num_hidden_layers=[2], vocab_size={"a": 1}),
        "config: a family of a million letters": _config(model_type="x" * 1_000_000),
        "config: positions without end": _config(
            max_position_embeddings=10**15,
            rope_parameters={"rope_type": "dynamic", "factor": 1e300, "rope_theta": 1e-300},
        ),
        "config: 10,000 deep": _text("config.json", '{"a":' * 10_000 + "1" + "}" * 10_000),
        "config: a link to a device": lambda folder, port: (
            (folder / "config.json").unlink(),
            (folder / "config.json").symlink_to("/dev/zero"),
        )[0],
        # -- weights and what lies beside -------------------------------------------------------------------------------
        "weights: a pickle beside the tensors": _each(_pickle("pytorch_model.bin"), _pickle("training_args.bin")),
        "weights: a pickle alone": _each(_pickle("pytorch_model.bin"), _remove("model.safetensors")),
        "weights: a header of 2^60 bytes": _text("model.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"),
        "beside: an adapter on another model": _each(
            _module("evil"),
            _text(
                "adapter_config.json",
                json.dumps(
                    {
                        "base_model_name_or_path": "evil/base",
                        "peft_type": "LORA",
                        "auto_mapping": {"parent_library": "evil"},
                    }
                ),
            ),
        ),
        "beside: modules of sentence-transformers that are code": _each(
            _module("evil"),
            _text("modules.json", json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Model"}])),
        ),
    }.items()
)
