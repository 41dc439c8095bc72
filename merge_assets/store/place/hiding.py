"""Which texts of a place's options and address may be secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

_OPEN = frozenset({"endpoint_url", "region_name"})
"""Options that messages may show: without them a wrong address cannot be found."""


def plain(value: object) -> object:
    """Options as file systems take them: pydantic secrets become strings, at any depth."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def secrets_of(root: str, options: Mapping[str, Any]) -> list[str]:
    """What no message may show, the longest first."""
    return sorted(set(_texts(options)) | set(_credentials(root)), key=len, reverse=True)


def _texts(value: object) -> Iterator[str]:
    """Every string inside nested options that may be a secret: long enough, and not an address or a region."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _OPEN or "@" in str(item):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str) and len(value) >= 4:
        yield value


def _credentials(root: str) -> list[str]:
    user, at, _ = urlsplit(root).netloc.rpartition("@")
    return [part for part in (user, *user.split(":")) if at and len(part) >= 4]
