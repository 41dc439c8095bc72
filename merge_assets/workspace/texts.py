"""Texts that models are run on."""

from __future__ import annotations

from hashlib import sha256

from merge_assets.errors import AnalysisError
from merge_assets.recipe import TextSample
from merge_assets.regular import read_regular
from merge_assets.settings import Settings

LARGEST = 64 << 20
"""Bytes of a text."""


def read_sample(settings: Settings, sample: TextSample) -> bytes:
    """The bytes of a text's file.

    Raises:
        AnalysisError: it cannot be read, is empty, or is larger than :data:`LARGEST`.
    """
    file = settings.path(sample.file)
    try:
        data = read_regular(file, LARGEST)
    except OSError as error:
        raise AnalysisError(f"{file}: the text cannot be read: {error.strerror}; give a plain text file") from None
    if not data or len(data) > LARGEST:
        what = "is empty" if not data else f"is larger than {LARGEST >> 20} MiB; cut it, its beginning is enough"
        raise AnalysisError(f"{file}: {what}")
    return data


def text_digest(settings: Settings, sample: TextSample) -> str:
    """SHA-256, in hex, of a text's file.

    Raises:
        AnalysisError: as :func:`read_sample` does.
    """
    return sha256(read_sample(settings, sample)).hexdigest()
