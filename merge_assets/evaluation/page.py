"""The leaderboard as one self-contained HTML page: its skeleton, style and script lie beside this module.

The table is complete without the script, which adds sorting, filtering, tooltips and the details panel.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from html import escape
from importlib.resources import files
from string import Template

from merge_assets.evaluation.leaderboard import (
    Cell,
    Column,
    Delta,
    Leaderboard,
    LeaderboardEntry,
    Row,
    arrow,
    format_count,
)
from merge_assets.evaluation.scores import format_delta, format_value

_FIXED = (
    ("rank", "#", "Rank"),
    ("model", "Model", "Model"),
    ("method", "Method", "Method"),
    ("size", "Size", "Parameters"),
    ("layers", "Layers", "Layers"),
)


def render_page(board: Leaderboard, title: str) -> str:
    """The whole page.

    Args:
        board: what to show.
        title: heading and title of the page.
    """
    package = files("merge_assets.evaluation")
    template, style, script = (
        package.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    return Template(template).substitute(
        title=escape(title),
        summary=_summary(board),
        style=style,
        script=script,
        highlights=_highlights(board),
        controls=_suite_chips(board),
        table=_table(board),
        details="".join(_details(board, row, i) for i, row in enumerate(board.rows)),
    )


def _summary(board: Leaderboard) -> str:
    variants = sum(entry.kind == "variant" for entry in board.entries)
    tasks = sum(column.task is not None for column in board.columns)
    parts = [
        _count(variants, "variant"),
        _count(len(board.entries) - variants, "base checkpoint"),
        _count(tasks, "task"),
        "suite " + ", ".join(escape(s) for s in board.suites)
        if len(board.suites) == 1
        else _count(len(board.suites), "suite"),
    ]
    return " · ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _highlights(board: Leaderboard) -> str:
    """Cards: the first in rank, the largest gain over the best parent, the first in most tasks."""
    column = board.rank_column
    scored = [row for row in board.rows if column and column in row.cells]
    if column is None or not scored:
        return '<p class="empty">No scores yet. Build a variant, or evaluate a base checkpoint.</p>'
    cards = [_card("Best score", scored[0].entry.model, _number(scored[0].cells[column], column), _label(column))]
    gains = [
        (cell.best_parent, cell, row.entry)
        for row in scored
        if (cell := row.cells[column]).best_parent is not None and cell.best_parent.gain > 0
    ]
    if gains:
        delta, cell, entry = max(gains, key=lambda item: item[0].gain)
        difference = format_delta(delta.difference, column.is_fraction, cell.value)
        text = f'<span class="{_tone(delta)}">{arrow(delta)} {difference}</span>'
        cards.append(_card("Largest gain over the best parent", entry.model, text, f"against {escape(delta.parent)}"))
    tasks = [other for other in board.columns if other.task is not None]
    wins = Counter(
        row.entry.model
        for other in tasks
        for row in board.rows
        if other in row.cells and row.cells[other].value == _best_value(board, other)
    )
    if wins:
        model, count = wins.most_common(1)[0]
        cards.append(_card("Best in most tasks", model, str(count), f"of {_count(len(tasks), 'task')}, ties included"))
    return f'<ul class="cards">{"".join(cards)}</ul>'


def _card(head: str, model: str, value: str, note: str) -> str:
    return (
        f'<li><span class="card-head">{head}</span><span class="card-value">{value}</span>'
        f'<span class="card-model">{escape(model)}</span><span class="card-note">{note}</span></li>'
    )


def _suite_chips(board: Leaderboard) -> str:
    if len(board.suites) < 2:
        return ""
    chips = "".join(
        f'<label><input type="checkbox" name="suite" value="{name}" checked><span>{name}</span></label>'
        for name in map(escape, board.suites)
    )
    return f'<fieldset class="chips"><legend>Suites</legend>{chips}</fieldset>'


def _table(board: Leaderboard) -> str:
    groups = [
        (suite, list(columns)) for suite, columns in itertools.groupby(board.columns, lambda column: column.suite)
    ]
    suites = "".join(
        f'<th colspan="{len(columns)}" scope="colgroup" class="suite" data-suite="{escape(suite)}">{escape(suite)}</th>'
        for suite, columns in groups
    )
    heads = "".join(_head(*names) for names in _FIXED)
    heads += "".join(_score_head(i, column) for i, column in enumerate(board.columns))
    ranges = {column: _range(board, column) for column in board.columns}
    body = "".join(_row(board, row, i, ranges) for i, row in enumerate(board.rows))
    return f"""<div class="frame" tabindex="0" role="region" aria-label="Leaderboard table">
<table id="board">
<caption class="sr">Models ranked by {escape(_label(board.rank_column)) if board.rank_column else "nothing"}</caption>
<thead>
<tr class="groups"><td colspan="2" class="corner"></td><td colspan="3"></td>{suites}</tr>
<tr>{heads}</tr>
</thead>
<tbody>
{body}</tbody>
</table>
</div>"""


def _head(key: str, text: str, spoken: str) -> str:
    sort = ' aria-sort="ascending"' if key == "rank" else ""
    button = f'<button type="button" data-key="{key}" aria-label="{spoken}">{text}</button>'
    return f'<th scope="col" class="{key}"{sort}>{button}</th>'


def _score_head(index: int, column: Column) -> str:
    direction = "desc" if column.higher_is_better else "asc"
    below = _breakable(
        (column.metric or "mean of tasks") + ("" if column.higher_is_better else "\N{NO-BREAK SPACE}↓"), "_,"
    )
    tip = f"{column.suite}: {column.task or 'average'}\n{column.metric or 'mean of the headline metrics'}, "
    tip += "higher is better" if column.higher_is_better else "lower is better"
    kind = "score headline" if column.task is None else "score"
    return (
        f'<th scope="col" class="{kind}" data-suite="{escape(column.suite)}" data-tip="{escape(tip)}">'
        f'<button type="button" data-key="{index}" data-first="{direction}">{_breakable(column.title, "_")}'
        f"<small>{below}</small></button></th>"
    )


def _row(board: Leaderboard, row: Row, index: int, ranges: dict[Column, tuple[float, float]]) -> str:
    entry = row.entry
    text = " ".join([entry.model, entry.method or "", entry.kind, *entry.parents]).lower()
    folder, slash, name = entry.model.rpartition("/")
    dimmed = f'<span class="folder">{_breakable(folder + slash, "/")}</span>' if slash else ""
    model = f'<a href="#model-{index}">{dimmed}{_breakable(name, "-_")}</a>'
    model += f'<span class="sub">{escape(entry.description)}</span>' if entry.description else ""
    tip = f' data-recipe="model-{index}"' if entry.recipe else ""
    method = f'<span class="tag {entry.kind}">{escape(entry.method or entry.kind)}</span>'
    place = "" if row.rank is None else str(row.rank)
    cells = [
        f'<td class="rank" data-v="{place}"><span class="place p{place}">{place}</span></td>',
        f'<th scope="row" class="model" data-v="{escape(entry.model.lower())}"{tip}>{model}</th>',
        f'<td class="method" data-v="{escape(entry.method or "")}">{method}</td>',
        f'<td class="size" data-v="{_plain(entry.parameters)}">{format_count(entry.parameters)}</td>',
        f'<td class="layers" data-v="{_plain(entry.layers)}">{_plain(entry.layers)}</td>',
    ]
    cells += [_score(row.cells.get(column), column, ranges[column]) for column in board.columns]
    return f'<tr data-kind="{entry.kind}" data-text="{escape(text)}">{"".join(cells)}</tr>\n'


def _score(cell: Cell | None, column: Column, limits: tuple[float, float]) -> str:
    kind = "score headline" if column.task is None else "score"
    suite = escape(column.suite)
    if cell is None:
        return f'<td class="{kind} none" data-suite="{suite}" data-v=""></td>'
    best = limits[1] if column.higher_is_better else limits[0]
    kind += " best" if cell.value == best else ""
    width = _bar(cell.value, column, limits)
    stderr = f'<span class="se">±{format_value(cell.stderr, column.is_fraction)}</span>' if cell.stderr else ""
    delta = _delta(cell.best_parent, cell, column) if cell.best_parent else '<span class="delta"></span>'
    return (
        f'<td class="{kind}" data-suite="{suite}" data-v="{cell.value!r}" data-tip="{escape(_tip(cell, column))}">'
        f'<span class="line"><span class="val">{format_value(cell.value, column.is_fraction)}</span>{stderr}</span>'
        f'<span class="line">{delta}</span><span class="bar"><i style="width:{width:.1f}%"></i></span></td>'
    )


def _tip(cell: Cell, column: Column) -> str:
    value = _number(cell, column) + ("%" if column.is_fraction else "")
    lines = [_label(column), value + (f" ± {format_value(cell.stderr, column.is_fraction)}" if cell.stderr else "")]
    if cell.n is not None:
        lines.append(f"{_count(cell.n, 'document')}, {cell.shots}-shot")
    for delta in cell.deltas:
        noise = "" if delta.is_clear or not delta.difference else " (within the standard error)"
        theirs = format_value(delta.parent_value, column.is_fraction)
        difference = format_delta(delta.difference, column.is_fraction, cell.value)
        lines.append(f"{arrow(delta)} {difference} vs {delta.parent} ({theirs}){noise}".strip())
    return "\n".join(lines)


def _delta(delta: Delta, cell: Cell, column: Column) -> str:
    word = {"▲": "better than", "▼": "worse than", "": "equal to"}[arrow(delta)]
    difference = format_delta(delta.difference, column.is_fraction, cell.value)
    return (
        f'<span class="delta {_tone(delta)}"><span aria-hidden="true">{arrow(delta)}</span>'
        f'<span class="sr">{word} {escape(delta.parent)} by</span> {difference}</span>'
    )


def _tone(delta: Delta) -> str:
    tone = "up" if delta.gain > 0 else "down" if delta.gain < 0 else "same"
    return tone if delta.is_clear or tone == "same" else f"{tone} faint"


def _details(board: Leaderboard, row: Row, index: int) -> str:
    entry = row.entry
    facts = [
        ("Kind", escape(entry.kind)),
        ("Method", escape(entry.method or "")),
        ("Parents", ", ".join(escape(parent) for parent in entry.parents)),
        ("Parameters", f"{entry.parameters:,}" if entry.parameters is not None else ""),
        ("Layers", _plain(entry.layers)),
        ("Fingerprint", f"<code>{escape(entry.fingerprint)}</code>" if entry.fingerprint else ""),
        ("Link", _link(entry)),
    ]
    listed = "".join(
        f'<div class="{name.lower()}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in facts if value
    )
    recipe = f"<h3>Recipe</h3><pre><code>{escape(entry.recipe.strip())}</code></pre>" if entry.recipe else ""
    description = f"<p>{escape(entry.description)}</p>" if entry.description else ""
    return (
        f'<article id="model-{index}"><h2>{escape(entry.model)}</h2>{description}<dl>{listed}</dl>'
        f"{_details_table(board, row)}{recipe}</article>\n"
    )


def _details_table(board: Leaderboard, row: Row) -> str:
    columns = [column for column in board.columns if column in row.cells]
    if not columns:
        return ""
    parents = list(dict.fromkeys(delta.parent for column in columns for delta in row.cells[column].deltas))
    heads = "".join(f'<th scope="col">Δ {escape(parent)}</th>' for parent in parents)
    lines = []
    for column in columns:
        cell = row.cells[column]
        by_parent = {delta.parent: delta for delta in cell.deltas}
        deltas = "".join(
            f"<td>{_delta(by_parent[parent], cell, column) if parent in by_parent else ''}</td>" for parent in parents
        )
        stderr = format_value(cell.stderr, column.is_fraction) if cell.stderr is not None else ""
        mark = ' class="headline"' if column.task is None else ""
        name = f"{escape(column.task or column.suite + ' average')} <small>{escape(column.metric or '')}</small>"
        lines.append(
            f'<tr{mark}><th scope="row">{name}</th><td>{_number(cell, column)}</td><td>{stderr}</td>'
            f"<td>{_plain(cell.n)}</td>{deltas}</tr>"
        )
    return (
        '<div class="scroll"><table class="plain"><thead><tr><th scope="col">Score</th><th scope="col">Value</th>'
        f'<th scope="col">±</th><th scope="col">n</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _link(entry: LeaderboardEntry) -> str:
    # Only web addresses become links: a recipe's author must not place a script into the page.
    if not entry.url or not entry.url.startswith(("https://", "http://")):
        return ""
    return f'<a href="{escape(entry.url)}" rel="noopener noreferrer">{escape(entry.url)}</a>'


def _label(column: Column) -> str:
    return f"{column.suite} average" if column.task is None else f"{column.task} {column.metric}"


def _number(cell: Cell, column: Column) -> str:
    return format_value(cell.value, column.is_fraction)


def _best_value(board: Leaderboard, column: Column) -> float:
    low, high = _range(board, column)
    return high if column.higher_is_better else low


def _range(board: Leaderboard, column: Column) -> tuple[float, float]:
    values = [row.cells[column].value for row in board.rows if column in row.cells]
    return min(values), max(values)


def _bar(value: float, column: Column, limits: tuple[float, float]) -> float:
    """Percent of the column's best: value/best where higher is better, best/value where lower is."""
    low, high = limits
    part = (value / high if high else 0.0) if column.higher_is_better else (low / value if value else 1.0)
    return 100 * min(max(part, 0.0), 1.0) if math.isfinite(part) else 0.0


def _plain(number: int | None) -> str:
    return "" if number is None else str(number)


def _breakable(text: str, after: str) -> str:
    """Escaped text that may wrap after each of the characters of ``after``."""
    return "".join(escape(char) + ("<wbr>" if char in after else "") for char in text)
