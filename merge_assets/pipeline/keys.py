"""Names that Dagster accepts, made from names that people write.

Asset key parts may hold anything but ``/``; group segments and op names only ``[A-Za-z0-9_]``; tag values at most
63 of ``[A-Za-z0-9_.-]``.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

LEADERBOARD = dg.AssetKey(["leaderboard"])
BUILD_JOB = "build"
"""Job of everything that can be built."""

_NAMED = 3
_LONGEST_SCHEDULE = 100
_CRON_WORDS = re.compile(r"[^A-Za-z0-9]+")


def base_key(parts: Sequence[str]) -> dg.AssetKey:
    """Key of a base checkpoint."""
    return dg.AssetKey(["base", *parts])


def snr_key(parts: Sequence[str]) -> dg.AssetKey:
    """Key of a model's SNR analysis."""
    return dg.AssetKey(["snr", *parts])


def importance_key(parts: Sequence[str], kind: str, text: str) -> dg.AssetKey:
    """Key of what a model's layers are worth on one text; the model comes last, as in :func:`scores_key`."""
    return dg.AssetKey(["importance", f"{kind}-{text}", *parts])


def variant_key(name: str) -> dg.AssetKey:
    """Key of a recipe's variant."""
    return dg.AssetKey(["variants", name])


def search_key(name: str) -> dg.AssetKey:
    """Key of a search."""
    return dg.AssetKey(["search", name])


def scores_key(parts: Sequence[str], suite: str) -> dg.AssetKey:
    """Key of a model's scores on one suite; the model comes last, because the lineage graph shows only the last part."""
    return dg.AssetKey(["scores", suite, *parts])


def broken_key(name: str) -> dg.AssetKey:
    """Key of what cannot be used."""
    return dg.AssetKey(["broken", name])


def group_name(*segments: str) -> str:
    """Nested group ``a/b`` of the lineage graph; characters that Dagster refuses become ``_``."""
    parts = [re.sub(r"[^A-Za-z0-9_]+", "_", part) for segment in segments for part in segment.split("/")]
    return "/".join(part for part in parts if part)


def tag_value(text: str) -> str:
    """``text`` as a tag value: refused characters become ``_``, cut to 63 characters."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63]


def job_suffix(text: str) -> str:
    """A readable, collision-free suffix for a job or schedule name, for instance of a cron string."""
    words = _CRON_WORDS.sub("_", text).strip("_")
    return f"{words}_{_short_digest(text)}" if words else _short_digest(text)


def schedule_names(recipes: Mapping[str, Sequence[str]]) -> Mapping[str, str]:
    """A name for the schedule of each cron line, made of the names of its recipes.

    Args:
        recipes: names of recipes by cron line; a recipe has one schedule.
    """
    plain = {}
    for cron, names in recipes.items():
        few, more = sorted(names)[:_NAMED], len(names) - _NAMED
        text = "_".join(["recipes", *few, *([f"and_{more}_more"] if more > 0 else [])])
        plain[cron] = re.sub(r"[^A-Za-z0-9_]", "_", text)
    taken = list(plain.values())
    return {
        cron: name if taken.count(name) == 1 and len(name) <= _LONGEST_SCHEDULE else f"recipes_{job_suffix(cron)}"
        for cron, name in plain.items()
    }


def op_names(keys: Iterable[dg.AssetKey]) -> Mapping[dg.AssetKey, str]:
    """One op name per asset key.

    ``a-b`` and ``a_b`` would give the same op name, which Dagster does not notice when it is built from keys and
    which mixes up their steps; such keys get a digest appended.
    """
    plain = {key: re.sub(r"[^A-Za-z0-9_]", "_", "__".join(key.path)) for key in keys}
    counts: dict[str, int] = {}
    for name in plain.values():
        counts[name] = counts.get(name, 0) + 1
    return {
        key: name if counts[name] == 1 else f"{name}_{_short_digest(key.to_user_string())}"
        for key, name in plain.items()
    }


def stand_ins(keys: Iterable[dg.AssetKey]) -> Mapping[dg.AssetKey, dg.AssetKey]:
    """A key for each that Dagster's decorators take; put the real one back with ``with_attributes``.

    They name the outputs of a step after the keys, and so refuse every key with other characters than ``[A-Za-z0-9_.-]``, such
    as one of a pinned revision, and mix up ``a-b`` and ``a.b``.
    """
    return {key: dg.AssetKey([name]) for key, name in op_names(keys).items()}


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
