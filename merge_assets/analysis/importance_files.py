"""The files of a measurement of layer importance: a table as JSON and Parquet, and plots."""

from __future__ import annotations

from pathlib import Path

from merge_assets.analysis.importance import TABLE, ImportanceRecord
from merge_assets.analysis.importance_run import write_json

COLUMNS = {"metric": "string", "layer": "int32", "count": "int32", "value": "double"}
"""Column -> Arrow type."""


def write(record: ImportanceRecord, directory: Path) -> list[Path]:
    """Write ``importance.json``, ``importance.parquet`` and ``plots/*.png``; the bytes depend on the record alone.

    Args:
        record: what was measured.
        directory: made if it does not exist.

    Returns:
        The files written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from merge_assets.analysis.importance_plot import pictures

    directory.mkdir(parents=True, exist_ok=True)
    (directory / TABLE).write_text(write_json(record), encoding="utf-8")
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    rows = [figure.model_dump() for figure in record.figures]
    table = directory / "importance.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), table)
    plots = directory / "plots"
    plots.mkdir(exist_ok=True)
    written = [directory / TABLE, table]
    for name, png in pictures(record).items():
        (plots / f"{name}.png").write_bytes(png)
        written.append(plots / f"{name}.png")
    return written
