"""HTML and Markdown from jinja2 templates, in which every value is escaped, and acts on nobody who reads it.

A package keeps its templates in a folder ``templates`` beside the modules that fill them in: ``NAME.html.j2`` is HTML,
``NAME.md.j2`` is Markdown. What a template must not escape, it says with ``| safe``.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from merge_assets.shown import visible

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = "templates"

_BACKTICKS = re.compile("`+")
# An underscore inside a word begins nothing, and names are full of them.
_MARKS = re.compile(r"[\\`*\[\]<>&|~]|(?<![^\W_])_|_(?![^\W_])")


def render(package: str, name: str, **values: object) -> str:
    """The template ``name`` of ``package``, filled in.

    Raises:
        jinja2.UndefinedError: if a value that the template names is missing.
    """
    return _environment(package, name.endswith(".html.j2")).get_template(name).render(values)


def beside(package: str, name: str) -> str:
    """The text of a file that lies with the templates of ``package``: a style or a script."""
    return files(package).joinpath(FOLDER, name).read_text(encoding="utf-8")


def escape_markdown(text: str) -> str:
    """A text as one line of Markdown, of which nothing is markup; also in a cell of a table."""
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", visible(" ".join(text.splitlines())))


def code_span(text: str) -> str:
    """A text as code within a line of Markdown, which nothing in the text can end; not for cells of tables."""
    ticks = "`" * _longer_than_in(text)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{room}{visible(' '.join(text.splitlines()))}{room}{ticks}"


def fenced(text: str, language: str = "") -> str:
    """A text as a fenced block of Markdown, which nothing in the text can end."""
    fence = "`" * max(3, _longer_than_in(text))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    return f"{fence}{language}\n{visible(lines)}\n{fence}"


def _longer_than_in(text: str) -> int:
    """How many backticks in a row the text does not have."""
    return 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0)


@cache
def _environment(package: str, is_html: bool) -> Environment:
    # The definitions need no page, and most commands none either.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(package, FOLDER),
        autoescape=is_html,
        finalize=_in_html if is_html else _in_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"code_span": code_span, "fenced": fenced}
    return made


def _in_html(value: object) -> object:
    """What an HTML template prints for a value, before it is escaped."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _in_markdown(value: object) -> object:
    """What a Markdown template prints for a value; what is marked as safe has a form of its own."""
    return value if hasattr(value, "__html__") else escape_markdown(str(value))
