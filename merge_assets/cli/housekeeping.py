"""What the commands ``merge-assets store …`` do and print."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from rich.markup import escape

from merge_assets.api import Workspace
from merge_assets.api import housekeeping as api
from merge_assets.api.descent import descendants
from merge_assets.api.joined import out_of_date
from merge_assets.api.lines import choose, choose_one, lines_below
from merge_assets.cli.console import console, err, print_fact, print_json, print_table, progress_bar, table
from merge_assets.cli.opened import opened
from merge_assets.cli.store_text import (
    SHORT,
    counted,
    listing,
    mappings,
    print_damaged,
    print_leases,
    print_plan,
    print_unfinished,
    remedies,
    shown_figures,
    shown_input,
    shown_inputs,
    shown_marks,
    unreadable,
    verification,
)
from merge_assets.errors import SettingsError, StoreError
from merge_assets.plan.describe import geometry_summary, human_bytes
from merge_assets.shown import without_credentials
from merge_assets.store.collect import RemovalPlan, lifecycle_rule
from merge_assets.store.inventory import StoredVersion
from merge_assets.store.names import short_name, short_names

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def list_store(names: Sequence[str], *, as_json: bool) -> None:
    """Print versions by line."""
    workspace = opened()
    with _looking(workspace):
        found = api.inventory(workspace)
    pinned = api.pins(workspace, found)
    lines = lines_below(workspace, found, names)
    if as_json:
        print_json(listing(found, lines, pinned))
        return
    out = console()
    if lines:
        heads = ("version", "created (UTC)", "size", "", "made from")
        rows = table(*heads, title=escape(workspace.store.url), numbers=("size",))
        for line in lines:
            versions = found.versions[line]
            rows.add_section()
            rows.add_row(f"[bold]{escape(line)}[/]", "", "", f"[dim]{counted(len(versions), 'version')}[/]", "")
            for stored in reversed(versions):
                manifest = stored.artifact.manifest
                rows.add_row(
                    f"  {stored.artifact.version[:SHORT]}",
                    f"{manifest.created:%Y-%m-%d %H:%M}",
                    human_bytes(stored.size),
                    shown_marks(found, stored, pinned),
                    escape(shown_inputs(manifest.fingerprints)),
                )
        print_table(rows)
    print_leases(found)
    print_unfinished(found)
    shown = [stored for line in lines for stored in found.versions[line]]
    size, taken = sum(one.taken for one in shown), found.occupied(entry for one in shown for entry in one.files)
    text = f"{counted(len(shown), 'version')} of {counted(len(lines), 'line')}, {human_bytes(size)}"
    if taken < size:
        text += f" ({human_bytes(taken)} on the disk: versions share files)"
    out.print(text if shown else f"{escape(found.place.url(''))}: nothing is stored here yet", soft_wrap=True)
    print_damaged(found)


def show_version(name: str, *, as_json: bool) -> None:
    """Print the manifest of a version, and who uses it."""
    workspace = opened()
    with _looking(workspace):
        found = api.inventory(workspace)
    stored = choose_one(workspace, found, name)
    uses = api.uses(workspace, found, stored)
    manifest = stored.artifact.manifest
    made = manifest.provenance
    users = {
        "current": [short_name(one.name) for one in uses.current],
        "others": [short_name(one.name) for one in uses.others],
    }
    stale = out_of_date(workspace, stored.artifact)
    if as_json:
        fields = json.loads(manifest.encode()) | {"url": stored.artifact.url, "size": stored.size, "stale": stale}
        used = users | {"recipes": list(uses.recipes), "pinned": uses.pinned}
        print_json(fields | {"current": found.is_current(stored), "used_by": used})
        return
    out = console()
    mark = " [green]current[/]" if found.is_current(stored) else ""
    out.print(f"[bold]{escape(manifest.line)}[/]@{manifest.version}{mark}", highlight=False, soft_wrap=True)
    facts = {
        "url": stored.artifact.url,
        "created": f"{manifest.created:%Y-%m-%d %H:%M:%S} UTC, in {(made.ended - made.started).total_seconds():.1f} s",
        "by": f"merge_assets {made.merge_assets}{f' ({made.commit[:SHORT]})' if made.commit else ''} on {made.host}",
        "command": made.command,
        "size": f"{human_bytes(stored.size)} in {counted(len(manifest.files), 'file')}",
        "input key": manifest.key,
    }
    facts |= {name: str(value) for name, value in manifest.details.items() if isinstance(value, (str, int, float))}
    for label, value in facts.items():
        print_fact(label, value)
    if stale is not None:
        print_fact("out of date", stale, style="bold yellow")
    for check in mappings(manifest.details.get("checks")):
        passed = "[green]passed[/]" if check.get("passed") else "[red]failed[/]"
        out.print(
            f"[bold]{'check':>12}[/]  {passed} {escape(str(check.get('name')))}: "
            f"{escape(str(check.get('description')))}",
            soft_wrap=True,
        )
    report = manifest.details.get("report")
    if isinstance(report, Mapping):
        print_fact("tensors", shown_figures(report, "tensors_", str))
        print_fact("bytes", shown_figures(report, "bytes_", human_bytes))
    for item in manifest.inputs:
        print_fact("made from", shown_input(item))
    if geometry := geometry_summary(manifest.common.geometry):
        print_fact("its inputs", geometry)
    for text in users["current"]:
        print_fact("used by", f"{text} (current)")
    for text in users["others"]:
        print_fact("used by", text)
    if uses.recipes:
        print_fact("recipes", ", ".join(uses.recipes))
    if uses.pinned:
        print_fact("pinned", uses.pinned)
    files = table("file", "size", "pieces", "digest", numbers=("size", "pieces"))
    for file, entry in manifest.files.items():
        pieces = str(len(entry.pieces)) if entry.pieces else ""
        files.add_row(escape(file), human_bytes(entry.size), pieces, f"{entry.digest[:16]}…")
    print_table(files)


def verify_versions(names: Sequence[str], *, sampled: bool, as_json: bool) -> int:
    """Check versions; 1 if something is wrong."""
    workspace = opened()
    with _looking(workspace):
        found = api.inventory(workspace)
    targets = {one.name: one for name in names for one in choose(workspace, found, name)}
    chosen = list(targets.values()) if names else found.everything
    with progress_bar("verifying") as work:
        problems = api.verify(workspace, chosen, sampled=sampled, work=work)
        problems += api.verify_relatives(
            workspace, found, problems, () if sampled else {one.name for one in chosen}, work=work
        )
    damaged = [] if names else list(found.damaged)
    wrong = list(dict.fromkeys([*(one.stored.name for one in problems if one.is_damage), *unreadable(damaged)]))
    below = [one for one in descendants(found, wrong) if one.stored.name not in wrong]
    if as_json:
        print_json(verification(found, chosen, problems, damaged, below, sampled=sampled))
        return int(bool(problems or damaged))
    for problem in problems:
        print_fact("wrong", f"{problem.where}: {problem.what}", style="bold red")
    if damaged:
        print_damaged(found)
    for one in below:
        print_fact("in doubt", f"{short_name(one.stored.name)}: made from {short_names(one.sources)}", style="yellow")
    for remedy in remedies(problems, wrong):
        print_fact("what to do", remedy)
    how = "a sample of " if sampled else ""
    state = "[green]all is well[/]"
    if problems or damaged:
        state = f"[red]{counted(len(problems) + len(damaged), 'problem')}[/]"
        state += f", [yellow]{counted(len(below), 'version')} in doubt[/]" if below else ""
    size = sum(stored.size for stored in chosen)
    console().print(f"{counted(len(chosen), 'version')}, {how}{human_bytes(size)}: {state}")
    return int(bool(problems or damaged))


def collect_garbage(keep: int, older_than: str | None, names: Sequence[str] = (), *, yes: bool, as_json: bool) -> None:
    """Print what is removed, of some lines or of all, and why the rest stays; remove it if ``yes``."""
    workspace = opened()
    age = parse_age(older_than)
    with _looking(workspace):
        plan = api.collect(workspace, names, keep=keep, older_than=age)
    rule = lifecycle_rule(workspace.store, _endpoint(workspace.settings.store_secrets()))
    if not as_json:
        print_plan(plan, title=f"gc --keep {keep}")
    fields = _carry_out(workspace, plan, yes=yes, as_json=as_json)
    if as_json:
        kept = [{"line": line, "version": version, "why": list(why)} for (line, version), why in plan.kept.items()]
        print_json(fields | {"kept": kept, "lifecycle": rule[0] if rule else None})
    elif rule:
        out = console()
        out.print(
            "\n[bold]Lifecycle rule[/] so that the server drops stale uploads by itself; it is not set by this command, and "
            "setting it replaces the bucket's other rules:",
            soft_wrap=True,
        )
        out.print(json.dumps(rule[0], indent=1), soft_wrap=True, markup=False)
        out.print(rule[1], soft_wrap=True, markup=False, highlight=False)


def remove_versions(names: Sequence[str], *, force: bool, yes: bool, as_json: bool) -> None:
    """Print what is removed, and remove it if ``yes``.

    Raises:
        StoreError: if others need it and ``force`` is False.
    """
    workspace = opened()
    with _looking(workspace):
        plan, needs = api.remove(workspace, names, force=force)
    if needs and not force:
        name, why = next(iter(needs.items()))
        more = f" (and {counted(len(needs) - 1, 'other version')})" if len(needs) > 1 else ""
        raise StoreError(f"{short_name(name)}{more} is needed: {'; '.join(why)}. Remove that first, or add --force")
    if not as_json:
        print_plan(plan, title="rm", needs=needs)
        for line, successor in (plan.currents or {}).items():
            after = f"becomes {successor[:SHORT]}" if successor else "there is none any more"
            print_fact("current", f"{line}: {after}")
    fields = _carry_out(workspace, plan, yes=yes, as_json=as_json)
    if as_json:
        print_json(fields | {"currents": plan.currents})


def parse_age(text: str | None) -> timedelta | None:
    """``90m``, ``12h``, ``3d`` or ``0``.

    Raises:
        SettingsError: if it is none of these.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw]?)", text)
    if match is None or not (match[2] or float(match[1]) == 0):
        raise SettingsError(f"--older-than: {text!r} is not an age; write for example 90m, 12h or 3d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2] or "s"])


def _carry_out(workspace: Workspace, plan: RemovalPlan, *, yes: bool, as_json: bool) -> dict[str, Any]:
    """Remove if wanted, say what became of it; returns that for JSON."""
    doomed, litter = plan.doomed, plan.litter
    freed = plan.inventory.occupied(plan.files)
    spared: Sequence[StoredVersion] = ()
    if yes and (doomed or litter):
        with progress_bar("removing", is_bytes=False) as work:
            done = api.carry_out_plan(workspace, plan, work=work)
        doomed, litter, freed, spared = done.removed, done.litter, done.freed, done.spared
    fields = {
        "dry_run": not yes,
        "removed": [
            {"line": one.name[0], "version": one.name[1], "bytes": one.size, "why": plan.goes.get(one.name, "")}
            for one in doomed
        ],
        "spared": [{"line": one.name[0], "version": one.name[1]} for one in spared],
        "leftovers": [one.what for one in litter],
        "bytes_freed": freed,
    }
    if as_json:
        return fields
    out = console()
    if spared:
        print_fact(
            "spared",
            f"{', '.join(short_name(one.name) for one in spared)}: taken up by a build or removed in the meantime",
        )
    what = [counted(len(doomed), "version")] if doomed else []
    what += [counted(len(litter), "leftover")] if litter else []
    if not what:
        out.print("[green]Nothing to remove.[/]")
        return fields
    size = sum(stored.taken for stored in doomed)
    shared = f" of {human_bytes(size)} (the rest is shared with other versions)" if freed < size else ""
    sent = sum(len(one.uploads) for one in litter)
    if sent:
        shared += f" and what was sent of {counted(sent, 'upload')}"
    verb = "Removed" if yes else "Would remove"
    out.print(
        f"{verb} {' and '.join(what)}, which {'freed' if yes else 'frees'} {human_bytes(freed)}{shared}."
        + ("" if yes else " [bold]Nothing was removed yet; --yes does.[/]"),
        soft_wrap=True,
    )
    return fields


def _looking(workspace: Workspace) -> AbstractContextManager[object]:
    """Says on a terminal what is waited for: a server that does not answer is asked again for a while."""
    return err().status(f"looking at {escape(workspace.store.url)}")


def _endpoint(options: Mapping[str, Any]) -> str | None:
    """Address of the server, if the store's options name one that holds no credentials."""
    inner = options.get("client_kwargs")
    found = options.get("endpoint_url") or (inner.get("endpoint_url") if isinstance(inner, Mapping) else None)
    return found if isinstance(found, str) and without_credentials(found) == found else None
