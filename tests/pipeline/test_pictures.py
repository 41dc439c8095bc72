"""Contract of pictures in metadata: images that are short enough to be shown where they stand, and whose cells are right."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from merge_assets.pipeline.pictures import SHOWN_AT_ONCE, bar, improvements_picture, layer_picture, snr_picture
from tests.merging import plan_text
from tests.synthetic import write_llama

SVG = "{http://www.w3.org/2000/svg}"


def opened(markdown: str | None) -> ElementTree.Element:
    """The SVG in an image of Markdown, whose address ends where the parenthesis does."""
    assert markdown is not None
    match = re.fullmatch(r"!\[[^\]]*\]\(data:image/svg\+xml,([^\s()<>]*)\)", markdown)
    assert match, markdown
    return ElementTree.fromstring(unquote(match[1]))


def rows(modules: int, layers: int, snr: Any) -> list[dict[str, Any]]:
    return [
        {"layer": layer, "stack": "model.layers", "module": f"mlp.part{m}", "snr": snr(m, layer), "infinite": False}
        for m in range(modules)
        for layer in range(layers)
    ]


def pixels(svg: ElementTree.Element) -> Any:
    """Colours of the strip, rows by columns by red, green and blue."""
    image = svg.find(f"{SVG}image")
    assert image is not None
    _, _, data = image.attrib["href"].partition("base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_the_strip_is_darker_where_the_snr_is_higher_and_marks_what_is_infinite_or_missing() -> None:
    made = rows(2, 5, lambda m, layer: 10.0**layer)
    made[1] |= {"snr": math.inf, "infinite": True}
    del made[5]
    shades = pixels(opened(snr_picture(made)))
    assert shades.shape == (2, 5, 3)
    light = shades.sum(axis=2)
    assert list(np.argsort(-light[0, [0, 2, 3, 4]])) == [0, 1, 2, 3]
    assert tuple(shades[0, 1]) == (0xF2, 0xA5, 0x41)
    assert tuple(shades[1, 0]) == (0xD9, 0xDD, 0xE2)


def test_the_strip_of_a_large_model_is_shown_at_once() -> None:
    random = np.random.default_rng(0)
    made = snr_picture(rows(4, 48, lambda m, layer: float(random.lognormal())))
    assert made is not None and len(made) < SHOWN_AT_ONCE
    assert pixels(opened(made)).shape == (4, 48, 3)


def test_all_equal_values_and_names_that_are_markup_are_no_error() -> None:
    made = [row | {"module": "a<b>&'(c)"} for row in rows(1, 3, lambda m, layer: 1.0)]
    texts = [text.text for text in opened(snr_picture(made)).iter(f"{SVG}text")]
    assert "a<b>&'(c)" in texts
    assert snr_picture([row | {"layer": None} for row in made]) is None


def test_stacked_layers_are_drawn_and_a_plain_merge_is_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_llama(tmp_path / name, layers=32)
    a, b = tmp_path / "a", tmp_path / "b"
    slices = "slices:\n- sources: [{model: %s, layer_range: [0, 24]}]\n- sources: [{model: %s, layer_range: [8, 32]}]\n"
    plan = plan_text(f"merge_method: passthrough\n{slices % (a, b)}", tmp_path)
    made = layer_picture(plan)
    assert made is not None and len(made) < SHOWN_AT_ONCE
    svg = opened(made)
    wide = 0.9  # of a font size of 1.5, a letter of most fonts
    right = float(svg.attrib["viewBox"].split()[2]) - 1
    assert all(float(text.attrib["x"]) + wide * len(text.text or "") <= right for text in svg.iter(f"{SVG}text"))
    strokes = [path.attrib["d"] for path in svg.iter(f"{SVG}path")]
    assert [places(stroke) for stroke in strokes] == [
        [(layer, layer) for layer in range(24)],
        [(24 + layer, 8 + layer) for layer in range(24)],
    ]
    mean = f"merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\nparameters: {{weight: 1}}\n"
    assert layer_picture(plan_text(mean, tmp_path)) is None


def test_the_steps_of_a_search_end_at_its_best_and_are_shown_at_once() -> None:
    improved = [(n * n, 1 - 0.9**n) for n in range(60)]
    made = improvements_picture("demo <b>", improved, 3600)
    assert made is not None and len(made) < SHOWN_AT_ONCE
    svg = opened(made)
    (path,) = svg.iter(f"{SVG}path")
    ends = re.findall(r"H([\d.e-]+)V([\d.e-]+)", path.attrib["d"])
    assert len(ends) == 39 and float(ends[-1][1]) == 0.0
    assert float(ends[-1][0]) == round(40 * 59 * 59 / 3599, 1)
    assert "demo <b>: 0.8784 to 0.998 in 3600 trials" in [text.text for text in svg.iter(f"{SVG}text")]
    assert improvements_picture("demo", improved[:1], 9) is None


def places(stroke: str) -> list[tuple[int, int]]:
    """Where the strokes of a path begin."""
    found, x, y = [], 0, 0
    for dx, dy in re.findall(r"m(-?\d+),(-?\d+)h1", stroke):
        x, y = x + int(dx), y + int(dy)
        found.append((x, y))
        x += 1
    return found


def test_a_bar_is_as_long_as_its_number() -> None:
    assert [bar(value) for value in (0.0, 0.05, 0.5, 1.0, 1.7, -1.0)] == ["", "▌", "█" * 5, "█" * 10, "█" * 10, ""]
    lengths = [len(bar(n / 80)) for n in range(81)]
    assert lengths == sorted(lengths)
