"""What must not be in any text that is shown, kept or sent: characters that act on who reads it, and credentials of addresses.

Names, cards, tasks and messages come from people whom nobody knows. Addresses come with passwords, whoever wrote them.
"""

from __future__ import annotations

import json
import re

HIDDEN = "******"

# C0 and C1, which move cursors and start escape sequences, but for tab and newline; what ends lines in some programs only;
# marks that turn the direction of the text after them; tags, which nobody sees.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_HALVES = re.compile("[\ud800-\udfff]")

_USER = re.compile(r"(?<=://)[^\s/?#\"<>`]*@")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
_SECRET = r"token|key|secret|passw|pwd|auth(?!or)|(?<![a-z])sig|signature|credential"
_QUERY = re.compile(rf"(?<=[?&;#])([^=&;#\s]*(?:{_SECRET})[^=&;#\s]*=)[^&;#\s,)\]}}]+", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def visible(text: str) -> str:
    """``text`` with what a terminal, a browser or an editor would act on spelled out, as in ``\\x1b``; tabs and newlines stay.

    Halves of surrogate pairs, which no file takes, are spelled out, too.
    """
    return _HALVES.sub(_spelled, _ACTING.sub(_spelled, text))


def visible_json(text: str) -> str:
    """JSON with the same spelled out as JSON does it."""
    return _HALVES.sub(_in_json, _ACTING.sub(_in_json, text))


def without_credentials(text: str) -> str:
    """``text`` with asterisks for what grants access: users and passwords of addresses, keys and tokens in their queries, and
    tokens of the Hub."""
    if "://" in text:
        text = _ADDRESS.sub(lambda found: _QUERY.sub(rf"\1{HIDDEN}", found[0]), _USER.sub(f"{HIDDEN}@", text))
    return _TOKEN.sub(HIDDEN, text) if "hf_" in text else text


def _in_json(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _spelled(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
