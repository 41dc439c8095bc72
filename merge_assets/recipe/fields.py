"""What the recipe schema is made of: its mappings, and field types that each check one kind of value and say what to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, PlainValidator, StrictInt, WithJsonSchema

from merge_assets.errors import did_you_mean
from merge_assets.recipe.parameters import Misfit, shown
from merge_assets.reference import ModelReference
from merge_assets.shown import without_credentials

DTYPES = ("bfloat16", "float16", "float32", "float64")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_GROUP = re.compile(r"(?=.{1,200}\Z)[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")
_TAG_KEY = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9_.-]{0,63}")
_OWNER = re.compile(r"(?=.{1,200}\Z)(team:\S+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_LONGEST_CRON = 200

_Items = TypeVar("_Items", bound=Sized | None)

_CRON_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_CRON_PART = re.compile(r"(\*|\w+(?:-\w+)?)(?:/(\d+))?")


Shown = Annotated[str, AfterValidator(without_credentials)]
"""Words for people; what in them grants access is covered."""


class RecipeMapping(BaseModel):
    """A mapping of the schema; frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    """A validator for text that must match ``pattern`` in full; ``what`` says what is allowed."""

    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{shown(text)} is not allowed: {what}")
        return text

    return check


def read_reference(raw: Any) -> ModelReference:
    """A model reference from its string or from its mapping form.

    Raises:
        Misfit: wrong type, grammar or key.
    """
    if isinstance(raw, ModelReference):
        return raw
    if isinstance(raw, str):
        try:
            return ModelReference.parse(raw)
        except ValueError as error:
            raise Misfit(str(error)) from None
    if not isinstance(raw, dict):
        raise Misfit(f"{shown(raw)} is not a model reference; write PATH[@REVISION][+LORA[@REVISION]]")
    known = ("model", "lora", "override_architecture")
    for key in raw:
        if key not in known:
            raise Misfit(f"unknown key{did_you_mean(key, known)}; known keys: {', '.join(known)}", (key,))
    if "model" not in raw:
        raise Misfit("the mapping form needs the key model: {path, revision}")
    model = _read_part(raw["model"], "model")
    lora = _read_part(raw["lora"], "lora") if raw.get("lora") is not None else None
    return ModelReference(model.path, model.revision, lora=lora)


def _read_part(raw: Any, where: str) -> ModelReference:
    """``{path, revision}`` or ``PATH[@REVISION]``."""
    if isinstance(raw, dict):
        for key in raw:
            if key not in ("path", "revision"):
                raise Misfit("unknown key; known keys: path, revision", (where, key))
        path, revision = raw.get("path"), raw.get("revision")
        if not isinstance(path, str) or not isinstance(revision, str | None):
            raise Misfit("path must be text, and revision must be text in quotes or left out", (where,))
        raw = str(ModelReference(path, revision or None))
    if not isinstance(raw, str):
        raise Misfit("write {path, revision} or PATH[@REVISION]", (where,))
    try:
        reference = ModelReference.parse(raw)
    except ValueError as error:
        raise Misfit(str(error), (where,)) from None
    if reference.lora is not None:
        raise Misfit("the mapping form takes the adapter under the key lora, not after a +", (where,))
    return reference


def check_dtype(text: str) -> str:
    """The bare name of a dtype; a ``torch.`` prefix is dropped."""
    name = text.removeprefix("torch.")
    if name not in DTYPES:
        known = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "fp64": "float64"}
        hint = f", did you mean {known[name]!r}?" if name in known else did_you_mean(name, DTYPES)
        raise ValueError(f"unknown dtype {shown(text)}{hint}; one of {', '.join(DTYPES)}")
    return name


def check_cron(text: str) -> str:
    """A cron line of five fields: numbers, names of months and days, ``*``, ranges, lists and steps."""
    if len(text) > _LONGEST_CRON:
        raise ValueError(f"has {len(text)} characters; a cron line has at most {_LONGEST_CRON}")
    fields = text.split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError(
            f"{text!r} has {len(fields)} fields; a cron line has five: minute hour day-of-month month day-of-week"
        )
    for field, (name, low, high, words) in zip(fields, _CRON_FIELDS, strict=True):
        for part in field.split(","):
            if not _is_cron_part(part, low, high, words):
                raise ValueError(f"{part!r} is not a {name} ({low} to {high}, ranges a-b, steps */n)")
    return text


def _is_cron_part(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    match = _CRON_PART.fullmatch(part.lower())
    if not match or (match[2] is not None and int(match[2]) < 1):
        return False
    if match[1] == "*":
        return True
    bounds = [
        low + words.index(end) if end in words else int(end) if end.isdecimal() and end.isascii() else -1
        for end in match[1].split("-")
    ]
    return all(low <= bound <= high for bound in bounds) and bounds == sorted(bounds)


def check_duration(text: str) -> str:
    """A time such as ``12h`` or ``7d``, of a minute to ten years."""
    if not _DURATION.fullmatch(text) or not 60 <= seconds_of(text) <= _LONGEST_SECONDS:
        raise ValueError(f"{text!r} is no time from 1min to 3650d; write for example 12h, 7d or 2w")
    return text


def seconds_of(duration: str) -> int:
    """Seconds of a checked duration."""
    number = duration.rstrip("minhdw")
    return int(number) * _UNITS[duration.removeprefix(number)]


_DURATION = re.compile(r"[1-9][0-9]{0,6}(min|h|d|w)")
_UNITS = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_SECONDS = 3650 * 86_400


def check_range(layers: tuple[int, int]) -> tuple[int, int]:
    """A half-open layer range that holds one layer or more."""
    start, end = layers
    if start < 0:
        raise ValueError(f"starts at {start}; the first layer is 0")
    if end <= start:
        order = "is reversed" if end < start else "is empty"
        raise ValueError(
            f"[{start}, {end}] {order}; write [start, end) with start < end, so layer {start} alone is "
            f"[{start}, {start + 1}]"
        )
    return layers


def check_filled(items: _Items) -> _Items:
    """A list or mapping of one entry or more. A minimal length would also be missed by entries that are wrong."""
    if items is not None and not len(items):
        raise ValueError("is empty; write at least one entry")
    return items


Filled = AfterValidator(check_filled)
Reference = Annotated[
    ModelReference,
    PlainValidator(read_reference),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"format": "model reference"}),
]
Dtype = Annotated[str, AfterValidator(check_dtype), WithJsonSchema({"enum": list(DTYPES)})]
LayerRange = Annotated[
    tuple[StrictInt, StrictInt], AfterValidator(check_range), WithJsonSchema({"format": "[start, end)"})
]
Name = Annotated[
    str, AfterValidator(matching(_NAME, "a letter or digit, then letters, digits and . _ -, at most 100 in all"))
]
Group = Annotated[str, AfterValidator(matching(_GROUP, "letters, digits and _, levels separated by /, at most 200"))]
TagKey = Annotated[str, AfterValidator(matching(_TAG_KEY, "letters, digits and . _ -, at most 63"))]
TagValue = Annotated[str, AfterValidator(matching(_TAG_VALUE, "letters, digits and . _ -, at most 63"))]
Owner = Annotated[str, AfterValidator(matching(_OWNER, "an e-mail address or team:NAME, at most 200"))]
Duration = Annotated[str, AfterValidator(check_duration), WithJsonSchema({"format": "time such as 12h or 7d"})]
Cron = Annotated[str, AfterValidator(check_cron), WithJsonSchema({"format": "cron line"})]
HubId = Annotated[str, AfterValidator(matching(_HUB_ID, "a repository on the Hub is OWNER/NAME"))]
