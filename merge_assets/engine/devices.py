"""Where merges are computed: the CPU, or GPUs as torch sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_assets.errors import EngineError
from merge_assets.plan import OutputTensor

_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))
"""Of NVIDIA, of AMD, and of both under WSL2. Where there is none, torch is not asked: importing it takes seconds."""


@dataclass(frozen=True)
class Devices:
    """What a merge is computed on.

    Attributes:
        name: ``cpu``, ``cuda``, or ``cuda:N`` if one was asked for.
        gpus: torch's names of the GPUs, over which workers are spread.
    """

    name: str
    gpus: tuple[str, ...] = ()

    def of_worker(self, number: int) -> str:
        """The device of one worker."""
        return self.gpus[number % len(self.gpus)] if self.gpus else "cpu"

    def free(self) -> list[int]:
        """Bytes of each GPU that are free."""
        import torch

        return [torch.cuda.mem_get_info(gpu)[0] for gpu in self.gpus]


CPU = Devices("cpu")


def choose(device: str, tensors: Sequence[OutputTensor]) -> Devices:
    """What to compute on.

    Args:
        device: ``auto`` (all GPUs that torch sees, or the CPU), ``cpu``, ``cuda`` (all) or ``cuda:N``.
        tensors: what is computed; copies need no GPU.

    Raises:
        EngineError: if torch does not see what was asked for.
    """
    if device == "cpu" or all(tensor.is_copy for tensor in tensors):
        return CPU
    if device == "auto" and not any(driver.exists() for driver in _DRIVERS):
        return CPU
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen = tuple(f"cuda:{number}" for number in range(count))
    if device in ("auto", "cuda") and seen:
        return Devices("cuda", seen)
    if device == "auto":
        return CPU
    if device not in seen:
        found = f"only {', '.join(seen)}" if seen else "no CUDA device"
        raise EngineError(f"device {device!r} was asked for, but torch sees {found}; use --device cpu or auto")
    return Devices(device, (device,))
