"""What the settings of a server that answers for a model have to be like."""

from __future__ import annotations

import shlex
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from merge_assets.shown import without_credentials

_AS = "write it as http://127.0.0.1:8000/v1"


def check_base_url(url: str) -> str:
    """The address below which a server has ``/completions`` and ``/models``, without credentials."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"{without_credentials(url)!r} is no address; {_AS}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{without_credentials(url)!r} is no address; {_AS}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("has more than an address in it; write that alone, and a key into endpoint_key")
    if parts.path.rstrip("/").endswith(("/completions", "/models")):
        raise ValueError(f"{url!r} is not the base URL; leave out what follows /v1")
    return url.rstrip("/")


def check_serve(command: str) -> str:
    """A command that starts such a server on a folder and a port."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"is no command: {error}") from None
    for place in ("{model}", "{port}"):
        if not any(place in word for word in words[1:]):
            raise ValueError(f"has no {place}; write it as vllm serve {{model}} --port {{port}}")
    return command


BaseUrl = Annotated[str, AfterValidator(check_base_url)]
ServeCommand = Annotated[str, AfterValidator(check_serve)]
