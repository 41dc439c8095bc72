"""Assets that no recipe makes any more.

Dagster plans a retry with the definitions of now, and refuses it as a whole if they lack one of its assets. So what was there
stays for a day: shown as gone, made by nothing but the retry of a run that was planned with it.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import dagster as dg

from merge_assets.pipeline.keys import op_names
from merge_assets.pipeline.steps import single_asset
from merge_assets.pipeline.variants import CHECKS

KEEP_SECONDS = 86_400.0
_FILE = "assets.json"


def remember(cache: Path, there: Iterable[dg.AssetKey]) -> list[dg.AssetKey]:
    """The assets that went within the last day, sorted; and note those that are there.

    Args:
        cache: folder of the note. One that cannot be read or written costs no more than retries of what went.
        there: what recipes make now.
    """
    now = time.time()
    names = {key.to_user_string() for key in there}
    file = cache / _FILE
    try:
        noted = json.loads(file.read_text("utf-8"))
        seen = {str(name): float(at) for name, at in noted.items() if now - float(at) < KEEP_SECONDS}
    except (OSError, ValueError, AttributeError, TypeError):
        seen = {}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{_FILE}.{os.getpid()}")
        draft.write_text(json.dumps(seen | dict.fromkeys(names, now)), "utf-8")
        draft.replace(file)
    except OSError:
        pass
    return sorted(dg.AssetKey.from_user_string(name) for name in seen.keys() - names)


def build_gone(keys: Sequence[dg.AssetKey], there: Iterable[dg.AssetKey]) -> list[dg.AssetsDefinition]:
    """An asset for each that went.

    Args:
        keys: what went.
        there: what is there, with which they share the names of steps.
    """
    names = op_names([*there, *keys])
    return [_build_gone(key, names[key]) for key in keys]


def _build_gone(key: dg.AssetKey, op_name: str) -> dg.AssetsDefinition:
    checked = CHECKS.items() if key.path[0] == "variants" else ()
    spec = dg.AssetSpec(
        key,
        group_name="gone",
        tags={"state": "gone", "automation": "off"},
        description="No recipe makes this any more: it was deleted, renamed or edited, or is broken. "
        "It is shown for a day, so that runs that were planned with it can be repeated.",
    )

    @single_asset(
        spec,
        op_name,
        checks=[dg.AssetCheckSpec(name, asset=key, description=text, blocking=True) for name, text in checked],
    )
    def gone(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        raise dg.Failure(
            description=f"{key.to_user_string()}: no recipe makes this any more; there is nothing to build",
            allow_retries=False,
        )

    return gone
