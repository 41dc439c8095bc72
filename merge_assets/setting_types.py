"""Types of settings: lists and options as variables of the environment write them, and devices."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_settings import NoDecode


def split_list(raw: object) -> object:
    """Text of an environment variable: a JSON list, or items separated by commas."""
    if not isinstance(raw, str):
        return raw
    text = raw.strip()
    if text.startswith("["):
        return read_json(text)
    return [item.strip() for item in text.split(",") if item.strip()]


def read_json(raw: object) -> object:
    """What a text says as JSON; what is no text is left as it is."""
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None


Options = Annotated[dict[str, Any], NoDecode, BeforeValidator(read_json)]
Names = Annotated[list[str], NoDecode, BeforeValidator(split_list)]
Folders = Annotated[list[Path], NoDecode, BeforeValidator(split_list)]


def check_device(text: str) -> str:
    """Where to compute: ``auto``, ``cpu``, ``cuda`` for all GPUs, or ``cuda:N`` for one."""
    if text not in _DEVICES and not _DEVICE.fullmatch(text):
        raise ValueError(f"{text!r} is not one of 'auto', 'cpu', 'cuda' or 'cuda:N' for GPU number N")
    return text


_DEVICES, _DEVICE = ("auto", "cpu", "cuda"), re.compile(r"cuda:(0|[1-9][0-9]?)")
Device = Annotated[
    str,
    AfterValidator(check_device),
    WithJsonSchema({"anyOf": [{"enum": list(_DEVICES)}, {"type": "string", "pattern": f"^{_DEVICE.pattern}$"}]}),
]


def usable_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
