"""The command `status`: what goes on, what does not, and whether a person is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape

from merge_assets.cli.console import console, print_json, print_table, table
from merge_assets.errors import printable
from merge_assets.pipeline import location
from merge_assets.pipeline.selection import select
from merge_assets.pipeline.status import Status, StatusLine, ago, read_status
from merge_assets.recipe.choosing import choose

_STYLES = {"failed": "bold red", "refused": "bold red", "late": "bold red", "cancelled": "yellow", "running": "green"}


def show_status(words: Sequence[str] = (), *, as_json: bool) -> int:
    """Print the status of the project, or of some recipes with what they need; 1 if a person is needed."""
    workspace, graph = location.workspace(), location.graph()
    chosen = select(graph, choose(workspace.book, words)) if words else None
    status = read_status(workspace, graph, chosen)
    if as_json:
        print_json(_as_object(status))
        return int(status.needs_person)
    if status.lines:
        listed = table("asset", "state", "why", "since", "run", "next try")
        for line in status.lines:
            style = _STYLES.get(line.state)
            state = f"[{style}]{line.state}[/]" if style else line.state
            if line.late:
                state += f" [{_STYLES['late']}]late[/]"
            listed.add_row(escape(printable(line.key)), state, escape(printable(_why(line))), *_when(line, status.at))
        print_table(listed)
    for node in status.broken:
        text = f"[bold red]broken:[/] {escape(printable(node.message))}"
        console().print(text, soft_wrap=True, highlight=False)
    console().print(escape(_summary(status)), soft_wrap=True, highlight=False)
    return int(status.needs_person)


def _why(line: StatusLine) -> str:
    if line.state in ("running", "queued"):
        return line.now or f"{line.trigger} asked for it"
    tries = f" (tried {line.tries} times)" if line.tries and line.tries > 1 else ""
    return line.reason + tries


def _when(line: StatusLine, now: float) -> tuple[str, str, str]:
    later = f"in {ago(line.next_try, now)}" if line.next_try is not None else ""
    return ago(line.since, now), (line.run or "")[:8], later


def _summary(status: Status) -> str:
    parts = [f"{status.current} up to date"]
    for state in dict.fromkeys(line.state for line in status.lines):
        parts.append(f"{sum(line.state == state for line in status.lines)} {state}")
    if status.by_hand:
        parts.append(f"{status.by_hand} out of date and built by hand")
    if status.broken:
        parts.append(f"{len(status.broken)} broken")
    text = f"{', '.join(parts)}; automation: {status.automation}"
    needed = sum(line.needs_person for line in status.lines) + len(status.broken) + status.stands_still
    if needed:
        return f"{text}\na person is needed for {needed}: {'; '.join(_needed(status))}"
    return text


def _needed(status: Status) -> list[str]:
    names = [line.key for line in status.lines if line.needs_person] + [node.name for node in status.broken]
    shown = [printable(name) for name in names[:10]] + ([f"{len(names) - 10} more"] if len(names) > 10 else [])
    return [*shown, *([status.automation] if status.stands_still else [])]


def _as_object(status: Status) -> dict[str, object]:
    return {
        "needs_person": status.needs_person,
        "automation": status.automation,
        "current": status.current,
        "by_hand": status.by_hand,
        "assets": [asdict(line) for line in status.lines],
        "broken": [
            {"name": node.name, "file": str(node.file), "kind": node.kind, "error": node.message}
            for node in status.broken
        ],
    }
