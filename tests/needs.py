"""What a test needs of the machine: where it is missing, the test is skipped with the reason, or fails where CI is set."""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

import pytest


def refuse(reason: str) -> NoReturn:
    """End the test that asks, or the file while it is loaded."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def module(name: str) -> Any:
    """An imported module of a package that only tests need."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        refuse(f"{error.name} is not installed; make install-dev")
