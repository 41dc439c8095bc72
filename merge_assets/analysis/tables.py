"""The table of an analysis and the formats that other programs read.

Rows are plain dicts with the keys of :data:`COLUMNS`. ``snr`` may be infinite or NaN there and in Parquet; in JSON
both are ``null``, told apart by ``infinite``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from merge_assets.analysis.layers import AnalysisRecord, Row
from merge_assets.analysis.matrices import Matrix
from merge_assets.analysis.snr import Score, spectrum_snr
from merge_assets.errors import AnalysisError

COLUMNS: dict[str, str] = {
    "tensor": "string",
    "module": "string",
    "stack": "string",
    "layer": "int32",
    "expert": "int32",
    "rows": "int64",
    "columns": "int64",
    "snr": "double",
    "snr_normalised": "double",
    "infinite": "bool",
    "margin": "double",
    "tau": "double",
    "sigma": "double",
    "s_max": "double",
    "s_min": "double",
    "mp_edge": "double",
    "outliers": "int64",
    "outlier_energy": "double",
    "stable_rank": "double",
    "effective_rank": "double",
    "energy_top_1pct": "double",
    "energy_top_10pct": "double",
    "source": "string",
    "dtype": "string",
    "digest": "string",
}
"""Column -> Arrow type. ``source`` is the stored tensor and ``digest`` the SHA-256 of its bytes."""


def make_row(matrix: Matrix, score: Score, digest: str) -> Row:
    """The row of one scored weight."""
    values: Row = {
        "tensor": matrix.name,
        "module": matrix.module,
        "stack": matrix.stack,
        "layer": matrix.layer,
        "expert": matrix.expert,
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
        **asdict(score),
        "source": matrix.source.name,
        "dtype": matrix.source.dtype,
        "digest": digest,
    }
    return {column: values[column] for column in COLUMNS}


def write_parquet(rows: Sequence[Row], file: Path) -> None:
    """The table as Parquet; nullable integers stay integers, infinities stay infinities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file)


def to_json(title: str, layers: int, rows: Sequence[Row], notes: Mapping[str, str]) -> str:
    """``snr.json``: strict JSON, ``null`` where a figure is infinite or undefined."""
    strict = [{key: _strict(value) for key, value in row.items()} for row in rows]
    return AnalysisRecord(model=title, layers=layers, weights=strict, notes=notes).model_dump_json(indent=1) + "\n"


def spectrum_table(
    rows: Sequence[Row], spectra: Mapping[str, npt.NDArray[np.float64]], *, compat: bool = False
) -> dict[str, dict[str, Any]]:
    """The scores as Spectrum and laser_scanner store them: module name -> ``{"snr": number, "type": module type}``.

    Args:
        rows: the table.
        spectra: tensor -> singular values; read only with ``compat``.
        compat: count a missing noise as 1, as Spectrum does since April 2025. Otherwise an infinite score is the
            largest finite double, so that it ranks first in programs that sort the numbers and is still strict JSON.

    An undefined score is 0.
    """
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        if compat:
            value = spectrum_snr(spectra[row["tensor"]], (row["rows"], row["columns"]))
        else:
            value = sys.float_info.max if row["infinite"] else row["snr_normalised"]
        name = row["tensor"].removesuffix(".weight")
        table[name] = {"snr": 0.0 if math.isnan(value) else value, "type": module_type(name)}
    return table


def module_type(name: str) -> str:
    """Spectrum's module type: what follows the first number in a name, the whole name if it has none."""
    parts = name.split(".")
    index = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[index + 1 :])


def sorted_by_type(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Spectrum's sorted form: module type -> module name -> score, largest first; ties in the order given."""
    types: dict[str, dict[str, float]] = {}
    for name, entry in sorted(table.items(), key=lambda item: -item[1]["snr"]):
        types.setdefault(entry["type"], {})[name] = entry["snr"]
    return {kind: types[kind] for kind in dict.fromkeys(entry["type"] for entry in table.values())}


def unfrozen_parameters(
    rows: Sequence[Row],
    table: Mapping[str, Mapping[str, Any]],
    top_percent: float,
    *,
    always: Iterable[str] = (),
    parameters: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """YAML for axolotl: per module type, the top percent by score stay trainable.

    Equal scores (infinite ones without ``compat``) rank by margin. At least one module of each type is named; a fused
    or stacked tensor is named once if any of its parts is chosen. Axolotl reads the entries as patterns that match
    the beginning of a parameter name and takes dots literally.

    Args:
        rows: the table.
        table: the result of :func:`spectrum_table` for the same rows.
        top_percent: 0 < percent ≤ 100; the number of modules is rounded down, as Spectrum does.
        always: further patterns, such as ``^lm_head.weight$``, written first.
        parameters: stored tensor -> names in the model that is trained; without it the stored names are written, and a
            comment that says so. Tensors that the model does not have are left out.

    Raises:
        AnalysisError: the percentage is out of range.
    """
    if not 0 < top_percent <= 100:
        raise AnalysisError(f"top percent is {top_percent}; it must be above 0 and at most 100")
    types: dict[str, list[Row]] = {}
    for row in rows:
        types.setdefault(module_type(row["tensor"].removesuffix(".weight")), []).append(row)
    lines = ["unfrozen_parameters:", *(f"- {json.dumps(pattern)}" for pattern in always)]
    if parameters is None:
        lines.append("# names as stored: transformers was not asked what its class calls them")
    named: set[str] = set()
    for kind, members in types.items():
        members.sort(key=lambda row: (-table[row["tensor"].removesuffix(".weight")]["snr"], -row["margin"]))
        lines.append(f"# {kind}: top {top_percent:g} % of {len(members)}")
        for row in members[: max(1, int(len(members) * top_percent / 100))]:
            for parameter in [row["source"]] if parameters is None else parameters.get(row["source"], ()):
                name = parameter.removesuffix(".weight")
                if name not in named:
                    lines.append(f"- {name}")
                    named.add(name)
    return "\n".join(lines) + "\n"


def _strict(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
