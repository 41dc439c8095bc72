"""What the commands ``merge-assets store repair`` and ``store audit`` do and print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from merge_assets.api.audit import InputState, audit, is_audited
from merge_assets.api.housekeeping import inventory
from merge_assets.api.lines import choose
from merge_assets.api.repair import MadeAgain, RepairPlan, Step, plan_repair, repair
from merge_assets.cli.console import console, print_fact, print_json, print_table, progress_bar, table
from merge_assets.cli.opened import opened
from merge_assets.cli.store_text import SHORT, counted
from merge_assets.errors import StoreError
from merge_assets.store.names import short_name

_STYLES = {"same": "green", "changed": "yellow", "gone": "yellow", "damaged": "bold red", "elsewhere": "dim"}


def repair_versions(names: Sequence[str], *, sampled: bool, lost: bool, yes: bool, as_json: bool) -> int:
    """Print what is removed and made again; do it if ``yes``. 1 if something could not be made.

    Raises:
        StoreError: if something cannot be made again and ``lost`` is False; nothing was removed then.
    """
    workspace = opened()
    with progress_bar("verifying") as work:
        plan = plan_repair(workspace, names, sampled=sampled, work=work)
    if not as_json:
        _print_plan(plan)
    if yes and plan.lost and not lost:
        step = plan.lost[0]
        more = f" (and {len(plan.lost) - 1} more)" if len(plan.lost) > 1 else ""
        raise StoreError(
            f"{short_name(step.name)}{more} cannot be made again as it was: {step.lost}. Nothing was removed; add "
            "--lost to remove it with the rest"
        )
    made: list[MadeAgain] = []
    if yes and plan.steps:
        with progress_bar("making again") as work:
            _, made = repair(workspace, plan, work=work)
    failed = [one for one in made if one.error]
    if as_json:
        print_json(_as_json(plan, made, yes=yes))
        return int(bool(failed))
    for one in made:
        _print_made(one)
    _print_end(plan, made, yes=yes, lost=lost)
    return int(bool(failed))


def _print_plan(plan: RepairPlan) -> None:
    for problem in plan.problems:
        if not problem.is_damage:
            print_fact("not of it", f"{problem.where}: {problem.what}; remove this file", style="yellow")
    if not plan.steps:
        return
    rows = table("version", "", "why", "again", title="repair, in this order")
    for step in plan.steps:
        rows.add_row(escape(short_name(step.name)), "[red]remove[/]", escape(step.why), escape(_again(step)))
    print_table(rows)
    for one in plan.removal.litter:
        print_fact("remove", one.what, style="red")


def _again(step: Step) -> str:
    if not step.is_made:
        return f"not made again: {step.lost}" if step.lost else "not made again"
    return f"made anew, and comes out otherwise: {step.lost}" if step.lost else "made again"


def _print_made(one: MadeAgain) -> None:
    if one.error:
        print_fact("not made", f"{one.line}: {one.error}", style="bold red")
        return
    version = one.now or ""
    same = "as it was" if version == one.before else f"other than before, which was {one.before[:SHORT]}"
    print_fact("made", f"{short_name((one.line, version))}: {same}", style="green")


def _print_end(plan: RepairPlan, made: Sequence[MadeAgain], *, yes: bool, lost: bool) -> None:
    out = console()
    if not plan.steps:
        out.print(f"{counted(plan.verified, 'version')}: [green]nothing is damaged[/]")
    elif not yes:
        consent = " --lost" if plan.lost and not lost else ""
        out.print(
            f"Would remove {counted(len(plan.steps), 'version')} and make "
            f"{sum(step.is_made for step in plan.steps)} again. [bold]Nothing was done yet; {escape('--yes')}{consent} does "
            "it.[/]",
            soft_wrap=True,
        )
    else:
        right = sum(not one.error for one in made)
        out.print(f"Removed {counted(len(plan.steps), 'version')}, made {right} again.", soft_wrap=True)


def _as_json(plan: RepairPlan, made: Sequence[MadeAgain], *, yes: bool) -> dict[str, Any]:
    return {
        "dry_run": not yes,
        "versions": plan.verified,
        "steps": [
            {
                "line": step.name[0],
                "version": step.name[1],
                "why": step.why,
                "made_from": [{"line": line, "version": version} for line, version in step.sources],
                "lost": step.lost,
                "made_again": step.is_made,
            }
            for step in plan.steps
        ],
        "leftovers": [one.what for one in plan.removal.litter],
        "made": [{"line": one.line, "before": one.before, "now": one.now, "error": one.error} for one in made],
    }


def audit_versions(names: Sequence[str], *, as_json: bool) -> int:
    """Print what became of inputs; 1 if one in the store is damaged."""
    workspace = opened()
    found = inventory(workspace)
    targets = {one.name: one for name in names for one in choose(workspace, found, name)}
    chosen = [one for one in (targets.values() if names else found.everything) if is_audited(one)]
    with progress_bar("reading", is_bytes=False) as work:
        states = audit(workspace, found, chosen, work=work)
    damaged = [one for one in states if one.state == "damaged"]
    if as_json:
        print_json({"versions": len(chosen), "inputs": [_state_as_json(one) for one in states]})
        return int(bool(damaged))
    if states:
        rows = table("version", "made from", "fingerprint", "now", "")
        for one in states:
            state = f"[{_STYLES[one.state]}]{one.state}[/]"
            name = escape(short_name(one.stored.name))
            rows.add_row(name, escape(one.input.name), one.input.fingerprint[:SHORT], state, escape(one.what))
        print_table(rows)
    counts = [f"{number} {state}" for state in _STYLES if (number := sum(one.state == state for one in states))]
    console().print(
        f"{counted(len(chosen), 'version')}, {counted(len(states), 'input')}: {', '.join(counts) or 'none'}"
    )
    if damaged:
        print_fact("what to do", "merge-assets store repair")
    return int(bool(damaged))


def _state_as_json(one: InputState) -> dict[str, Any]:
    return {
        "line": one.stored.artifact.line,
        "version": one.stored.artifact.version,
        "input": one.input.model_dump(mode="json"),
        "state": one.state,
        "what": one.what,
    }
