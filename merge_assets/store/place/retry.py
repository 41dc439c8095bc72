"""Asking a place again after errors that may pass, and telling of those that stay without any secret."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from merge_assets.errors import Stopped, StoreError, StoreUnreachableError
from merge_assets.shown import HIDDEN, without_credentials
from merge_assets.store.place.hiding import secrets_of
from merge_assets.store.place.place import OUTSIDE

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_ATTEMPTS = 8
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, ValueError, TypeError, KeyError, NotImplementedError)


class Attempts:
    """Calls of a file system.

    Args:
        root: URL of the store.
        options: of the file system, credentials among them.
    """

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self._secrets = secrets_of(root, options)
        self.shown = without_credentials(root).rstrip("/")
        """The URL as messages name it."""

    def url(self, path: str) -> str:
        """Address of a path, without credentials."""
        if path.startswith(OUTSIDE):
            return f"{self.shown.partition(':')[0]}:{path}"
        return f"{self.shown}/{path}".rstrip("/")

    def call(self, done: str, path: str, function: Callable[[], _T]) -> _T:
        """Call the file system, again after errors that may pass; missing and existing files are answers.

        Args:
            done: what is to be done with the file, as in "cannot be read".
            path: of the file.
            function: does it.
        """
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=5.0),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return retrying(function)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, Stopped):
            raise
        except Exception as error:
            raise self.error(done, path, error) from None

    def must(self, done: str, path: str, function: Callable[[], _T]) -> _T:
        """Like :meth:`call`, for what has to be there."""
        try:
            return self.call(done, path, function)
        except FileNotFoundError:
            raise StoreError(f"{self.url(path)}: is missing") from None

    def write(self, path: str, function: Callable[[], _T]) -> _T:
        """Like :meth:`call`, for writing, which misses nothing but the place itself."""
        try:
            return self.call("written", path, function)
        except FileNotFoundError as error:
            raise self.error("written", path, error) from None

    def said(self, error: Exception) -> str:
        """The words of a failure below us, without any value of the options."""
        text = str(error)
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def error(self, done: str, path: str, error: Exception) -> StoreError:
        """The message for a failure below us, without any value of the options; never chained, for the same reason."""
        text = f"{type(error).__name__}: {self.said(error)}"
        _LOG.debug("%s: cannot be %s: %s", self.url(path), done, text)
        kind = StoreUnreachableError if _may_pass(error) else StoreError
        return kind(f"{self.url(path)}: cannot be {done}: {text}; check its URL, options and network")


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, (*_FINAL, Stopped, StoreError, ImportError))
