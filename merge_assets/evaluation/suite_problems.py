"""What is wrong with the file of a suite, for people."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from merge_assets.errors import did_you_mean
from merge_assets.evaluation.headline import UNION_MEMBERS

_MAX_PROBLEMS = 5
_MAX_READ = 50
_WHOLE = "function-after[_whole_or_fraction()]"
_CONSTRAINED = {"constrained-int", "constrained-str", "int", "float", "str"}
_UNION_MEMBERS = UNION_MEMBERS | _CONSTRAINED | {"literal['auto']", "literal['auto','on','off']", _WHOLE}


def explain(path: Path, error: ValidationError, model: type[BaseModel], inner: Mapping[str, type[BaseModel]]) -> str:
    """What is wrong with a file, in one line that names it and the keys.

    Args:
        path: the file.
        error: what reading it as ``model`` raised.
        model: whose keys are the file's own.
        inner: whose keys are those below a key of the file.
    """
    found = error.errors(include_url=False, include_context=False)
    # A container is reported, too, when nothing in it is valid; its parts say more.
    containers = {item["loc"][:length] for item in found for length in range(len(item["loc"]))}
    found = [item for item in found if item["loc"] not in containers or not item["loc"]]
    # A misspelt key first: the missing one follows from it.
    found.sort(key=lambda item: item["type"] != "extra_forbidden")
    problems = list(dict.fromkeys(_problem(item, model, inner) for item in found[:_MAX_READ]))
    more = len(problems) - _MAX_PROBLEMS + len(found[_MAX_READ:])
    return f"{path}: " + "; ".join(problems[:_MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _problem(item: ErrorDetails, model: type[BaseModel], inner: Mapping[str, type[BaseModel]]) -> str:
    loc = [part for part in item["loc"] if part not in _UNION_MEMBERS]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if item["type"] == "extra_forbidden":
        known = list((inner.get(str(loc[0]), model) if len(loc) > 1 else model).model_fields)
        return f"{key}: unknown key" + (did_you_mean(str(loc[-1]), known) or f"; known: {', '.join(known)}")
    if item["type"] == "missing":
        return f"{key}: is missing"
    if item["type"] == "value_error":
        text = item["msg"].removeprefix("Value error, ")
    else:
        short = reprlib.Repr()
        short.maxlevel = 2
        text = f"{item['msg']}, found {short.repr(item['input'])}"
    return f"{key}: {text}" if key else text
