"""What was seen of evaluations before they are made, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from merge_assets.cli.console import print_fact
from merge_assets.errors import printable

if TYPE_CHECKING:
    from merge_assets.evaluation.preflight import Finding

Findings = Mapping[str, Sequence["Finding"]]
"""By the name of the suite."""


def print_findings(findings: Findings, *, out: Console, with_good: bool = False) -> None:
    """A line for each finding, after the suite's name.

    Args:
        findings: what was seen.
        out: where to.
        with_good: also a line for suites of which nothing is to be said.
    """
    for suite, found in findings.items():
        if not found and with_good:
            print_fact(f"scores on {suite}", "nothing seen that would fail", out=out)
        for one in found:
            style = "bold red" if one.fails else "yellow"
            text = f"[{style}]scores on {escape(suite)}: {one.what}:[/] {escape(printable(one.text))}"
            out.print(text, soft_wrap=True, highlight=False)


def as_rows(findings: Findings) -> dict[str, list[dict[str, object]]]:
    """As JSON holds it."""
    return {
        suite: [{"kind": one.kind, "fails": one.fails, "text": one.text} for one in found]
        for suite, found in findings.items()
    }
