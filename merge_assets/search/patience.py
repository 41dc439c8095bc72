"""Wait for a storage of trials that is away for a while, as a database is that is started anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from merge_assets.errors import SearchError, in_one_line
from merge_assets.shown import without_credentials

_T = TypeVar("_T")
AWAY = (StorageInternalError, SQLAlchemyError)
"""What a storage that is away raises."""

_SECONDS = 120


def patiently(url: str, call: Callable[[], _T]) -> _T:
    """What a call gives, which is made again until the storage is there.

    Args:
        url: of the storage.
        call: may be made twice.

    Raises:
        SearchError: the storage is away for two minutes.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(AWAY),
        stop=stop_after_delay(_SECONDS),
        wait=wait_exponential(0.1, max=2),
        reraise=True,
    )
    try:
        return retrying(call)
    except AWAY as error:
        below = error.__cause__
        why = in_one_line(below if isinstance(below, Exception) else error)
        raise SearchError(
            f"the storage of trials {without_credentials(url)} is away: {why}; start it, and then the search, which goes on"
        ) from None
