"""Texts, tables and pictures as Dagster shows them on an asset's page. They are small: metadata is stored with every event."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from merge_assets import markup
from merge_assets.errors import printable
from merge_assets.plan.describe import human_bytes
from merge_assets.recipe import Recipe, said_of

MAX_ROWS = 400
MAX_PICTURE_BYTES = 100_000
MAX_TEXT = 60_000
MAX_FOLDED = 20

Metadata = dict[str, Any]


def table(rows: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue | dg.TextMetadataValue:
    """Rows of equal keys as an inline grid, cut to :data:`MAX_ROWS`; ``none`` for no rows."""
    if not rows:
        return dg.MetadataValue.text("none")
    records = [dg.TableRecord({key: _cell(value) for key, value in row.items()}) for row in rows[:MAX_ROWS]]
    columns = [dg.TableColumn(key, _column_type([row[key] for row in rows])) for key in rows[0]]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def picture(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG inside Markdown; one that is too large for the event log is left out with a note."""
    if len(png) > MAX_PICTURE_BYTES:
        return dg.MetadataValue.md(f"The picture has {human_bytes(len(png))}; open it in the artifact's folder.")
    return dg.MetadataValue.md(
        f"![{markup.escape_markdown(title)}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def code(text: str, language: str) -> dg.MarkdownMetadataValue:
    """Text as a fenced block."""
    return dg.MetadataValue.md(fenced(text, language))


def fenced(text: str, language: str = "") -> str:
    """Text as a fenced block of Markdown, cut to :data:`MAX_TEXT`."""
    shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n…"
    return markup.fenced(shown, language)


def code_references(file: Path, line: int) -> dg.CodeReferencesMetadataValue:
    """Where a definition stands, as the link "Open in editor"."""
    return dg.CodeReferencesMetadataValue(
        code_references=[dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=file.name)]
    )


def one_sentence(text: str) -> str:
    """``text`` as one line that ends like a sentence; the catalogue shows the first characters of a description."""
    line = printable(" ".join(text.split()))
    return line if not line or line.endswith((".", "!", "?")) else f"{line}."


def recipe_description(recipe: Recipe, folded: Sequence[Recipe] = ()) -> str:
    """Description of a variant: one sentence, then the recipe's own text and that of the recipes folded into it."""
    models = ", ".join(str(reference) for reference in recipe.references())
    sentence = one_sentence(recipe.description) or one_sentence(f"Merge of {models} by {recipe.merge_method}.")
    parts = [sentence]
    if recipe.found is not None:
        parts.append(markup.escape_markdown(printable(" ".join(said_of(recipe.found)))))
    if trusted := sorted({str(model) for one in (recipe, *folded) for model in one.trust_remote_code}):
        parts.append(f"May run code of {printable(', '.join(trusted))} (`trust_remote_code`), without a network.")
    parts.append(fenced(recipe.source.text.strip(), "yaml"))
    if folded:
        parts.append(f"Folds in: {', '.join(inner.name for inner in folded)}.")
    for inner in folded[:MAX_FOLDED]:
        parts.append(f"`{inner.name}`, not stored:\n\n{fenced(inner.source.text.strip(), 'yaml')}")
    return "\n\n".join(parts)


def check_metadata(metadata: Mapping[str, object]) -> Metadata:
    """Figures of a check; whatever is not a plain value as text."""
    plain = (int, float, bool)
    return {
        printable(key): value if isinstance(value, plain) else printable(str(value)) for key, value in metadata.items()
    }


def _cell(value: object) -> str | int | float | bool:
    if isinstance(value, float) and not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    return value if isinstance(value, (int, float, bool)) else printable(str(value))


def _column_type(values: Sequence[object]) -> str:
    cells = [_cell(value) for value in values]
    if all(isinstance(cell, bool) for cell in cells):
        return "bool"
    if all(isinstance(cell, int) for cell in cells):
        return "int"
    return "float" if all(isinstance(cell, (int, float)) for cell in cells) else "string"
