"""How long a Hub asks its clients to wait, read from the headers of its answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST = 24 * 3600.0
"""Seconds that are waited at most, whatever a header says."""

RESERVE = 0.1
"""Part of the requests of a window that is left to builds: whoever only looks for changes stops before."""


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` (seconds or a date) or an exhausted ``RateLimit`` asks for; ``None`` for neither."""
    after = next((value.strip() for name, value in headers.items() if name.lower() == "retry-after"), "")
    seconds: float | None = None
    if after.isdecimal():
        seconds = float(after)
    elif after:
        try:
            seconds = parsedate_to_datetime(after).timestamp() - time.time()
        except ValueError:
            seconds = None
    if seconds is None:
        seconds = _until_reset(headers, reserve=0.0)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST)


def nearly_exhausted(headers: Mapping[str, str]) -> float | None:
    """Seconds until the window ends if less than :data:`RESERVE` of its requests are left, else ``None``."""
    return _until_reset(headers, RESERVE)


def _until_reset(headers: Mapping[str, str], reserve: float) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # documented

    found = parse_ratelimit_headers(headers)
    if found is None or found.remaining > reserve * (found.limit or 0):
        return None
    return min(float(found.reset_in_seconds), LONGEST)
