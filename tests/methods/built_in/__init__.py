"""One file a method: its formula in float64 numpy, and the cases in which the engine's results are compared with it.

Each has ``formula(x, b, …)``, written from the method's formula alone, with ``x`` the inputs without the base, ``b`` the base
if there is one, per-model parameters as one value per ``x``, and for methods with random masks ``name`` and ``seed``;
``CASES``, in which every parameter is tried; and ``TYPICAL``, in which the laws are tried that all methods obey.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def file_of(method: str) -> ModuleType:
    """The file of a method."""
    return importlib.import_module(f"{__name__}.{method}")


def gathered(kind: str) -> dict[str, Any]:
    """The ``CASES`` or ``TYPICAL`` of all methods, by name."""
    files = [file_of(file.name) for file in pkgutil.iter_modules(__path__)]
    return {name: case for file in files for name, case in getattr(file, kind).items()}
