"""Pictures that Dagster's pages show where they stand, in metadata of less than a thousand characters.

Of longer Markdown the pages show a link, behind which it opens. A picture here is an SVG inside the address of an image.
"""

import base64
import html
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from merge_assets import markup
from merge_assets.errors import printable
from merge_assets.plan.model import Plan

SHOWN_AT_ONCE = 1000
"""Characters of Markdown from which on Dagster's pages show a link only."""

_COLOURS = ("#1c5a96", "#c9740a", "#3a8f5c", "#8a4f9e", "#c81e4a", "#5f6b76")
_SHADES = ("d9dde2", "f2a541", "eef4fa", "cfe2f2", "a9cbe6", "78adda", "4a8fc4", "2f74ad", "1c5a96", "0b2a52")
"""No such weight; infinite; then from the lowest SNR to the highest. As in the heat map of the analysis."""

_SHADES_OF_FINITE = len(_SHADES) - 2
_LONGEST_NAME = 20
_STRIP = 24
_BAR = 10
_WIDE, _TALL = 40, 12
_MOST_STEPS = 40


def bar(fraction: float) -> str:
    """A number between 0 and 1 as a bar of characters."""
    eighths = round(8 * _BAR * min(max(fraction, 0.0), 1.0))
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else " ▏▎▍▌▋▊▉"[eighths % 8])


def layer_picture(plan: Plan) -> str | None:
    """From which layers of which models every layer of a variant is made, as Markdown.

    ``None`` where each is made of the layers in its own place, which a table says as well.
    """
    cells: dict[int, list[tuple[int, int]]] = {}
    for span in plan.layers:
        for layer in range(span.start, span.end):
            for source in span.sources:
                cells.setdefault(source.model, []).append((layer, source.start + layer - span.start))
    if all(layer == source for places in cells.values() for layer, source in places):
        return None
    count, depth = plan.layer_count, 1 + max(source for places in cells.values() for _, source in places)
    parts = []
    for number, (model, places) in enumerate(cells.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        name = _text(plan.model_names[model])
        parts.append(f"<path stroke='{colour}' d='{_path(places)}'/>")
        parts.append(f"<text x='0' y='{depth + 5 + 2 * number}' fill='{colour}'>{name}</text>")
    parts.append(f"<text x='0' y='{depth + 2.5}'>layer of the variant: 0 to {count - 1}</text>")
    for layer, y in ((0, 1.5), (depth - 1, depth)):
        parts.append(f"<text x='{count + 1}' y='{y}'>layer {layer} of the model</text>")
    height = depth + 6 + 2 * len(cells)
    return _image("Layers of the models in the layers of the variant", max(count + 22, 30), height, "".join(parts))


def snr_picture(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The SNR of every module in every layer as a strip of colours, as Markdown; ``None`` without layers."""
    grid: dict[str, dict[int, float]] = {}
    of_layers = [row for row in rows if row["layer"] is not None]
    several = len({row["stack"] for row in of_layers}) > 1
    for row in of_layers:
        cells = grid.setdefault(f"{row['stack']}.{row['module']}" if several else row["module"], {})
        value = math.inf if row["infinite"] else float(row["snr"])
        cells[row["layer"]] = max(value, cells.get(row["layer"], 0.0))  # of several experts the highest
    if not grid:
        return None
    count = 1 + max(layer for cells in grid.values() for layer in cells)
    finite = [math.log(value) for cells in grid.values() for value in cells.values() if 0 < value < math.inf]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    pixels = [[_shade(cells.get(layer), low, high) for layer in range(count)] for cells in grid.values()]
    png = base64.b64encode(_png(pixels)).decode()
    wide = max(_STRIP, count / 4)
    parts = [
        f"<image href='data:image/png;base64,{png}' width='{wide:g}' height='{2 * len(grid)}'"
        " preserveAspectRatio='none' style='image-rendering:pixelated'/>"
    ]
    for number, module in enumerate(grid):
        parts.append(f"<text x='{wide + 1:g}' y='{2 * number + 1.6}'>{_text(module)}</text>")
    parts.append(f"<text y='{2 * len(grid) + 2}'>layer 0 to {count - 1}; dark: high, orange: infinite</text>")
    return _image("SNR by layer and module", round(wide) + 18, 2 * len(grid) + 4, "".join(parts))


def improvements_picture(label: str, improved: Sequence[tuple[int, float]], count: int) -> str | None:
    """The best score of a search so far, over its trials, as Markdown; ``None`` where it never improved on the first.

    Args:
        label: what the score is.
        improved: number and score of every trial that was better than all before it; of many, the last ones are drawn.
        count: trials that were begun.
    """
    steps = improved[-_MOST_STEPS:]
    if len(steps) < 2:
        return None
    low, high = (end(score for _, score in steps) for end in (min, max))

    def at(number: int, score: float) -> tuple[str, str]:
        wide = max(count - 1, 1)
        return f"{_WIDE * number / wide:.3g}", f"{_TALL * (high - score) / (high - low):.3g}"

    (x, y), *rest = (at(*one) for one in steps)
    line = "".join([f"M{x},{y}", *(f"H{x}V{y}" for x, y in rest), f"H{_WIDE}"])
    first, last = steps[0][1], steps[-1][1]
    parts = [
        f"<path d='{line}' fill='none' stroke='{_COLOURS[1]}' stroke-width='.3'/>",
        f"<text x='{_WIDE + 1}' y='{float(rest[-1][1]) + 0.6:.3g}'>{last:.4g}</text>",
        f"<text y='{_TALL + 3}'>{_text(label)}: {first:.4g} to {last:.4g} in {count} trials</text>",
    ]
    return _image("The best so far", _WIDE + 10, _TALL + 6, "".join(parts))


def _path(places: Sequence[tuple[int, int]]) -> str:
    """A stroke of one unit for every place, each move relative to the end of the stroke before."""
    steps, x, y = [], 0, 0
    for layer, source in places:
        steps.append(f"m{layer - x},{source - y}h1")
        x, y = layer + 1, source
    return "".join(steps)


def _image(title: str, width: int, height: float, inside: str) -> str:
    """An SVG of so many units, ten pixels each, as an image of Markdown."""
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='-1 -1 {width} {height:g}' width='{10 * width}' "
        f"font-size='1.5' font-family='sans-serif' style='background:#fff'>{inside}</svg>"
    )
    address = quote(svg, safe="'=/:;,.!-+*")
    return f"![{markup.escape_markdown(title)}](data:image/svg+xml,{address})"


def _text(name: str) -> str:
    shown = printable(name)
    return html.escape(shown if len(shown) <= _LONGEST_NAME else f"…{shown[1 - _LONGEST_NAME :]}")


def _shade(value: float | None, low: float, high: float) -> int:
    """Index of a colour."""
    if value is None:
        return 0
    if value == math.inf:
        return 1
    place = (math.log(value) - low) / (high - low) if value > 0 and high > low else 0.0
    return 2 + min(int(place * _SHADES_OF_FINITE), _SHADES_OF_FINITE - 1)


def _png(pixels: Sequence[Sequence[int]]) -> bytes:
    """Rows of indices into the colours as a PNG, without a library: the smallest there is."""
    head = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 3, 0, 0, 0)
    lines = b"".join(b"\0" + bytes(row) for row in pixels)
    chunks = (
        (b"IHDR", head),
        (b"PLTE", bytes.fromhex("".join(_SHADES))),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
