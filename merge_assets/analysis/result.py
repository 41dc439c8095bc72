"""A finished analysis: its table and spectra, and how they are written and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from merge_assets.analysis import tables
from merge_assets.analysis.layers import TABLE, Row, read_document
from merge_assets.analysis.storage import FILE, Spectra, write_spectra

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Analysis:
    """Scores and spectra of a checkpoint's weights.

    Attributes:
        title: the model's name in tables and plots.
        layers: number of layers of the main stack.
        rows: the table, one dict per weight with the keys of :data:`merge_assets.analysis.tables.COLUMNS`.
        spectra: tensor -> singular values, descending, float64.
        identities: tensor -> what its spectrum was computed from.
        notes: tensor -> why it was not scored, or was scored whole although it is fused.
        reused: number of spectra taken from a previous analysis.
        bytes_read: bytes of weights read, those read only to be hashed included.
        seconds: wall time of the computation.
        versions: of numpy, and of the library of linear algebra that it used; empty for one that was read back.
    """

    title: str
    layers: int
    rows: list[Row]
    spectra: Mapping[str, npt.NDArray[np.float64]]
    identities: Mapping[str, Mapping[str, Any]]
    notes: Mapping[str, str]
    reused: int = 0
    bytes_read: int = 0
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of all figures and notes; the title does not count."""
        return hashlib.sha256(self.figures().encode()).hexdigest()

    def figures(self) -> str:
        """``snr.json`` without the title."""
        return tables.to_json("", self.layers, self.rows, self.notes)

    def table(self) -> pd.DataFrame:
        """The table as a pandas frame; ``layer`` and ``expert`` are nullable integers."""
        import pandas as pd

        frame = pd.DataFrame(self.rows, columns=list(tables.COLUMNS))
        return frame.astype({"layer": "Int32", "expert": "Int32"})

    def write(
        self,
        directory: Path,
        *,
        removed: Iterable[int] = (),
        top_percent: float = 50,
        always: Sequence[str] = (),
        spectrum_compat: bool = False,
        parameters: Mapping[str, Sequence[str]] | None = None,
        plots: bool = True,
    ) -> list[Path]:
        """Write the tables, spectra, exports and plots.

        The bytes depend only on the analysis and the arguments, not on time, place or number of workers.

        Args:
            directory: made if it does not exist; files of the same names are replaced.
            removed: layers to be marked in the plots.
            top_percent: share of each module type in ``unfrozen_parameters.yaml``.
            always: further patterns for ``unfrozen_parameters.yaml``, such as ``^lm_head.weight$``.
            spectrum_compat: in the exports, count a missing noise as 1, as Spectrum does since April 2025.
            parameters: for ``unfrozen_parameters.yaml``, stored tensor -> names in the model that is trained.
            plots: whether to draw.

        Returns:
            The files written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        exported = tables.spectrum_table(self.rows, self.spectra, compat=spectrum_compat)
        texts = {
            TABLE: tables.to_json(self.title, self.layers, self.rows, self.notes),
            "spectrum.json": _json(exported),
            "spectrum_sorted.json": _json(tables.sorted_by_type(exported)),
            "unfrozen_parameters.yaml": tables.unfrozen_parameters(
                self.rows, exported, top_percent, always=always, parameters=parameters
            ),
        }
        written: list[Path] = []
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
            written.append(directory / name)
        tables.write_parquet(self.rows, directory / "snr.parquet")
        write_spectra(directory / FILE, self.spectra, self.identities)
        written += [directory / "snr.parquet", directory / FILE]
        if plots:
            from merge_assets.analysis.plots import write_plots

            written += write_plots(self, directory / "plots", removed=removed)
        return written


def read_analysis(directory: Path) -> Analysis:
    """An analysis as it was written.

    Raises:
        AnalysisError: a file is missing or damaged.
    """
    document = read_document(directory)
    rows = document.weights
    stored = Spectra(directory)
    spectra = stored.read(row["tensor"] for row in rows)
    return Analysis(document.model, document.layers, rows, spectra, stored.identities, document.notes)


def _json(value: object) -> str:
    return json.dumps(value, indent=4, allow_nan=False, ensure_ascii=False) + "\n"
