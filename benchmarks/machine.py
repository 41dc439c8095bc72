"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

_PACKAGES = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(", ".join(f"{name} {version}" for name, version in found.items()))
"""


def describe(folder: Path, peer: Path) -> dict[str, str]:
    """Machine and versions, by what they are called on the page.

    Args:
        folder: of the checkpoints.
        peer: virtual environment of mergekit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _output("findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)),
        "ours": _output(sys.executable, "-c", _PACKAGES, "merge-assets", "torch", "safetensors")
        + f", commit {_output('git', 'rev-parse', '--short', 'HEAD')}",
        "mergekit": _output(str(peer / "bin" / "python"), "-c", _PACKAGES, "mergekit", "torch", "safetensors"),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
