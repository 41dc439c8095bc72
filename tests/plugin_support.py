"""A distribution that brings a merge method, as pip leaves one, and commands of processes that see it."""

from __future__ import annotations

import shutil
from pathlib import Path

SHIFTED = """\
from merge_assets.methods import Method
from merge_assets.methods.formula import Combination
from shifted.share import SHARE


def shifted(expression):
    return Combination([1 - SHARE, SHARE])


METHOD = Method(name="shifted", summary="A point on the way.", parameters=(), kernel=shifted, needs_base=True, most=1)
"""

RECIPE = "merge_method: shifted\nbase_model: a\nmodels: [{model: b}]\n"


def install(site: Path, *, version: str = "1.0", share: str = "0.25", method: str = SHIFTED) -> Path:
    """Write the package ``shifted`` with its metadata into a folder of packages, over an earlier state of it.

    Args:
        site: the folder.
        version: of the distribution.
        share: a number in a file beside the kernel's.
        method: the kernel's file.
    """
    files = {
        "shifted/__init__.py": "",
        "shifted/share.py": f"SHARE = {share}\n",
        "shifted/method.py": method,
    }
    for found in site.glob("shifted_method-*.dist-info"):
        shutil.rmtree(found)
    info = f"shifted_method-{version}.dist-info"
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: shifted-method\nVersion: {version}\n",
        f"{info}/entry_points.txt": "[merge_assets.methods]\nshifted = shifted.method:METHOD\n",
        f"{info}/top_level.txt": "shifted\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    return site
