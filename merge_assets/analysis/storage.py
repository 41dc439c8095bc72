"""The file ``spectra.safetensors``: every spectrum, and what each was computed from.

One float64 tensor per weight, singular values descending. The metadata key ``spectra`` is JSON: format, and per
weight the version of the analysis, the digest of the stored tensor, its dtype, and which part of it the weight is. A
spectrum is used again only if all of these agree, and it has itself the digest that stands there for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from merge_assets.analysis.layers import ANALYSIS_VERSION
from merge_assets.analysis.matrices import Matrix
from merge_assets.digests import digest_of
from merge_assets.errors import AnalysisError

FILE = "spectra.safetensors"

_FORMAT = "merge-assets/spectra/2"
_KEY = "spectra"


def identity(matrix: Matrix, digest: str) -> dict[str, Any]:
    """What a spectrum depends on."""
    return {
        "analysis": ANALYSIS_VERSION,
        "digest": digest,
        "dtype": matrix.source.dtype,
        "block": list(matrix.block),
        "offset": matrix.offset,
        "axis": matrix.axis,
        "spans": [list(span) for span in matrix.spans],
    }


def write_spectra(
    file: Path, spectra: Mapping[str, npt.NDArray[np.float64]], identities: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write every spectrum; the same spectra give the same bytes."""
    # One metadata key only: safetensors writes several in an order that differs from run to run.
    arrays = {name: np.ascontiguousarray(values) for name, values in spectra.items()}
    digests = {name: digest_of(values.tobytes()) for name, values in arrays.items()}
    index = {"format": _FORMAT, "weights": identities, "digests": digests}
    metadata = json.dumps(index, separators=(",", ":"), sort_keys=True)
    # Renamed into place: the file that is replaced may be open as the previous analysis.
    partial = file.with_name(f"{file.name}.partial")
    save_file(arrays, partial, {_KEY: metadata})
    partial.replace(file)


class Spectra:
    """Spectra on disk, read one by one, from any thread.

    Args:
        path: the file, or a directory that has one.

    Raises:
        AnalysisError: there is no such file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.file = path / FILE if path.is_dir() else path
        try:
            opened: Any = safe_open(self.file, framework="numpy")
            metadata = opened.metadata() or {}
            names = set(opened.keys())
            index = json.loads(metadata.get(_KEY, "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            raise AnalysisError(f"{self.file}: no readable spectra: {error}") from error
        self._opened = opened
        self._lock = threading.Lock()
        known = index.get("weights", {}) if index.get("format") == _FORMAT else {}
        self._digests: dict[str, str] = index.get("digests", {})
        self.identities: dict[str, dict[str, Any]] = {name: known[name] for name in known if name in names}

    def matching(self, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
        """The spectra, among those wanted, that were computed from the same thing and are undamaged."""
        found = self.read(name for name, what in wanted.items() if self.identities.get(name) == what)
        return {
            name: values for name, values in found.items() if digest_of(values.tobytes()) == self._digests.get(name)
        }

    def read(self, names: Iterable[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Spectra by tensor name."""
        with self._lock:
            return {name: self._opened.get_tensor(name) for name in names}
