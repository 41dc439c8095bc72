"""Where a request comes from: which names this server answers to, and whether a page of its own sent the request."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, out of reach for others."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class OwnNames:
    """The host names that the server answers to; with any other one, a stranger's name was pointed at this machine.

    Ports are not compared: the page that such a name serves has the server's port anyway, and tunnels change it.

    Args:
        bound: host name or address that the server listens on. One that means every address of the machine adds all
            IP addresses; nobody can point an address elsewhere.
        names: further names, as a proxy passes them on.
    """

    def __init__(self, bound: str, names: Iterable[str] = ()) -> None:
        address = _address(bound)
        self._any_address = address is not None and address.is_unspecified
        self._names = {"localhost", bound.lower(), *(name.lower() for name in names)}

    def __contains__(self, host: str) -> bool:
        """Whether ``host``, the value of a Host header, is one of them."""
        match = _AUTHORITY.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].strip("[]")
        address = _address(name)
        return name in self._names or (address is not None and (address.is_loopback or self._any_address))


def foreign_writer(headers: Headers) -> str | None:
    """What shows that a page of another origin sent a request that changes something; ``None`` if nothing does.

    Programs that are no browsers send none of these headers; every browser sends at least one of them.
    """
    site = headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin":
        return f"Sec-Fetch-Site: {site}"
    return _foreign(headers, "origin") or _foreign(headers, "referer")


def foreign_reader(headers: Headers) -> str | None:
    """The same for a request that changes nothing: links from elsewhere may lead here, but no page may embed or read it."""
    site = headers.get("sec-fetch-site", "same-origin")
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in ("same-origin", "none") and not is_link:
        return f"Sec-Fetch-Site: {site}"
    return _foreign(headers, "origin")


def _foreign(headers: Headers, name: str) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return f"{name.title()}: {value}"
    own = parts.scheme in ("http", "https") and parts.netloc.lower() == headers["host"].lower()
    return (
        None if own else f"{name.title()}: {parts.scheme}://{parts.netloc}" if parts.netloc else f"{name.title()}: null"
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
