"""Tables of the fields of a record, by whether results depend on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel


def fields_of(record: Any) -> set[str]:
    if issubclass(record, BaseModel):
        return set(record.model_fields)
    return {field.name for field in dataclasses.fields(record)}


def sides(record: Any, keyed: Iterable[str], beside: Iterable[str]) -> None:
    """Every field is on exactly one side."""
    keyed, beside = set(keyed), set(beside)
    assert not keyed & beside
    assert keyed | beside == fields_of(record), f"{record.__name__}: say of each field whether results depend on it"
