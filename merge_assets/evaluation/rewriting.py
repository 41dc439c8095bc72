"""A loaded model is made another one: only the tensors that are not the same are written, in their places.

That a tensor of a file is a parameter of the loaded model is looked at and not supposed: transformers splits, joins and ties.

Imported by the model worker alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from merge_assets.checkpoint import open_checkpoint


def why_not_rewritten(model: torch.nn.Module, directory: Path, check: Callable[[], None] = lambda: None) -> str:
    """Why tensors of files cannot be written over those of a model, in a few words; empty if they can.

    They can where every tensor of the files is, under its own name and byte for byte, one of the model's, which shares no
    memory with that of another, and the model has no others.

    Args:
        model: loaded from the files; its parameters and buffers are compared as they are, converted to their dtype.
        directory: where the files lie, of safetensors.
        check: called before each tensor.
    """
    held: dict[str, torch.Tensor] = dict(model.state_dict())
    checkpoint = open_checkpoint(directory)
    spans: list[tuple[str, int, int]] = []
    for file in checkpoint.weight_files:
        with safe_open(directory / file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                check()
                ours = held.get(name)
                if ours is None:
                    return f"{name} is no tensor of the loaded model"
                if not _is_equal(ours, opened.get_tensor(name)):
                    return f"{name} is another tensor in the loaded model than in its file"
                spans.append((str(ours.device), *_span(ours)))
    spans.sort()
    if any(one[0] == next_one[0] and one[2] > next_one[1] for one, next_one in pairwise(spans)):
        return "two tensors of its files are one in the loaded model"
    covered = {(device, begin, end) for device, begin, end in spans}
    for name, ours in held.items():
        if ours.numel() and (str(ours.device), *_span(ours)) not in covered:
            return f"{name} of the loaded model is in no file"
    return ""


def rewrite_tensors(model: torch.nn.Module, file: Path) -> None:
    """Write the tensors of a file over those of a model that have their names; converted to their dtype as on loading."""
    held: dict[str, Any] = dict(model.state_dict())  # detached, of the same memory
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            held[name].copy_(opened.get_tensor(name))


def _is_equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether a tensor holds what a file says: the shape, and after conversion the bytes, those of NaN too."""
    if ours.shape != theirs.shape or not ours.is_contiguous():
        return False
    one, other = ours.cpu(), theirs.to(ours.dtype)
    return torch.equal(one.reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    begin = tensor.data_ptr()
    return begin, begin + tensor.numel() * tensor.element_size()
