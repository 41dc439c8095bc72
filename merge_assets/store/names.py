"""Which names may become paths of the store: lines, versions, keys and file names.

Names come from recipes, Hub identifiers and manifests read back from a bucket, so every one of them is
checked before it is joined to a path or an object key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from merge_assets.errors import StoreError
from merge_assets.freshness import short

MANIFEST = "manifest.json"
CURRENT = "current.json"
CLAIM = "claim.json"
KEYS = "keys"
BUILDS = "builds"
INDEX = "index.txt"
LEASES = "leases"
STORE = "store.json"

_LINE_PART = re.compile(r"[\w@+=(][\w@+=(),.~ -]*")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
_RESERVED = frozenset({MANIFEST, CURRENT, CLAIM, KEYS, BUILDS, INDEX, LEASES})
_LONGEST_PART = 200


def check_line(line: str) -> str:
    """Return ``line`` if it is a legal line name such as ``variants/slerp-7b``.

    Raises:
        StoreError: if a part is empty, hidden, reserved, too long, or could leave the store.
    """
    for part in line.split("/"):
        if not _LINE_PART.fullmatch(part) or part[-1] in ". " or part in _RESERVED or _too_long(part):
            raise StoreError(
                f"{line!r} is not a line of the store: each part between slashes is at most {_LONGEST_PART} bytes of "
                "letters, digits and _ @ + = ( ) , . ~ - or spaces, does not start or end with a dot, "
                f"and is none of {', '.join(sorted(_RESERVED))}"
            )
    return line


def check_version(version: str) -> str:
    """Return ``version`` if it is a legal version name: a digest, or letters, digits and ``. _ -``.

    Raises:
        StoreError: if it is not.
    """
    return _check_plain(version, "version")


def is_version(name: str) -> bool:
    """True for a legal version name."""
    return _VERSION.fullmatch(name) is not None and name not in _RESERVED


def check_key(key: str) -> str:
    """Return ``key`` if it is a legal input key; the rule is that of :func:`check_version`.

    Raises:
        StoreError: if it is not.
    """
    return _check_plain(key, "key")


def check_file(name: str) -> str:
    """Return ``name`` if it is a relative path with forward slashes that stays inside its artifact.

    Raises:
        StoreError: if it could leave the artifact, or has a name that the store uses itself.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or _too_long(part) for part in parts) or re.search(r"[\\\x00-\x1f]", name):
        raise StoreError(f"{name!r} is not a file name inside an artifact: write a relative path with forward slashes")
    if parts[0] in (MANIFEST, CLAIM):
        raise StoreError(f"{name!r} is a name that the store uses itself: call the file something else")
    return name


def short_name(name: tuple[str, str]) -> str:
    """Line and version for people: as much of the version as is shown."""
    return f"{name[0]}@{short(name[1])}"


def short_names(names: Iterable[tuple[str, str]]) -> str:
    """Several of them, in one text."""
    return ", ".join(map(short_name, names))


def _check_plain(text: str, what: str) -> str:
    if not is_version(text):
        raise StoreError(
            f"{text!r} is not a {what} of the store: use 1 to 128 letters, digits and . _ - starting with a letter "
            f"or digit, not ending with a dot, and none of {', '.join(sorted(_RESERVED))}"
        )
    return text


def _too_long(part: str) -> bool:
    return len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART
