"""The schema of what becomes of tensors that not every model has."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from merge_assets.recipe.parameters import Conditional, Misfit, ParameterValue, read_setting, shown, write_setting

Choice = Literal["carry", "drop", "refuse"]


def _read(raw: Any) -> ParameterValue:
    setting = read_setting(raw)
    entries = setting if isinstance(setting, tuple) else (setting,)
    for number, entry in enumerate(entries):
        value = entry.value if isinstance(entry, Conditional) else entry
        if value not in get_args(Choice):
            path = (number, "value") if isinstance(entry, Conditional) else ()
            raise Misfit(f"{shown(value)} is none of {', '.join(get_args(Choice))}", path)
    return setting


Missing = Annotated[
    ParameterValue | None,
    PlainValidator(_read),
    PlainSerializer(write_setting, return_type=Any),
    WithJsonSchema({"format": "parameter setting"}),
]
