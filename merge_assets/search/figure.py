"""A picture of a search as SVG: marks within a frame with axes. Each stands for itself, in light and dark, without a script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from merge_assets.markup import escape_markdown, render

_PACKAGE = "merge_assets.search"
Tick = tuple[float, str]
"""How far along an axis, 0 to 1, and what stands there."""


@dataclass(frozen=True)
class Picture:
    """A picture that is shown.

    Attributes:
        name: short, unique among the pictures of a search.
        title: for people.
        text: how to read it.
        svg: the picture.
    """

    name: str
    title: str
    text: str
    svg: str

    @property
    def markdown(self) -> str:
        """The picture as an image of Markdown, which needs nothing beside it."""
        data = base64.b64encode(self.svg.encode()).decode()
        return f"![{escape_markdown(self.title)}](data:image/svg+xml;base64,{data})"


@dataclass(frozen=True)
class LeftOut:
    """A picture that would say nothing.

    Attributes:
        title: what it would have been called.
        why: it is not drawn.
    """

    title: str
    why: str


@dataclass(frozen=True)
class Stroke:
    """Lines, or many points of one look, in one element; ``d`` is an SVG path in pixels."""

    shape: ClassVar = "path"
    kind: str
    d: str
    title: str = ""


@dataclass(frozen=True)
class Dot:
    """A point that says what it is."""

    shape: ClassVar = "dot"
    kind: str
    x: float
    y: float
    title: str = ""


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    shape: ClassVar = "box"
    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str = ""


@dataclass(frozen=True)
class Word:
    """A text; ``anchor`` is where of it the point is."""

    shape: ClassVar = "word"
    kind: str
    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"


Mark = Stroke | Dot | Box | Word


@dataclass(frozen=True)
class Area:
    """Where a picture has its marks.

    Attributes:
        width, height: of the picture, pixels.
        left, right, top, bottom: room around the marks, pixels.
    """

    width: int = 560
    height: int = 320
    left: int = 68
    right: int = 24
    top: int = 34
    bottom: int = 44

    def x(self, share: float) -> float:
        """Pixels from the left of what is so far along, 0 to 1."""
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        """Pixels from the top of what is so high, 0 to 1."""
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def draw(
        self,
        marks: Iterable[Mark],
        *,
        label: str,
        x_title: str = "",
        y_title: str = "",
        x_ticks: Sequence[Tick] = (),
        y_ticks: Sequence[Tick] = (),
    ) -> str:
        """The picture.

        Args:
            marks: later ones lie over earlier ones.
            label: what it is, for those who do not see it.
            x_title: of the horizontal axis.
            y_title: of the vertical one.
            x_ticks: marked on the horizontal axis.
            y_ticks: marked on the vertical one.
        """
        return render(
            _PACKAGE,
            "figure.html.j2",
            area=self,
            marks=list(marks),
            label=label,
            titles=(x_title, y_title),
            x_ticks=[(self.x(share), text) for share, text in x_ticks],
            y_ticks=[(self.y(share), text) for share, text in y_ticks],
        )


def line(points: Iterable[tuple[float, float]]) -> str:
    """An SVG path through points."""
    return "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))


def stairs(points: Sequence[tuple[float, float]], end: float | None = None) -> str:
    """An SVG path that keeps the height of each point until the next one, and of the last one until ``end``."""
    if not points:
        return ""
    steps = [f"M{points[0][0]:.1f} {points[0][1]:.1f}", *(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])]
    return "".join([*steps, *([] if end is None else [f"H{end:.1f}"])])


def points(at: Iterable[tuple[float, float]]) -> str:
    """An SVG path of points, each drawn as the end of a line without a length."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at)


def band(low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]) -> str:
    """An SVG path around what lies between two lines of as many points."""
    return f"{line([*low, *reversed(high)])}Z"
