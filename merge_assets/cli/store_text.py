"""Tables and lines about versions of a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.markup import escape

from merge_assets.api.descent import Descendant
from merge_assets.api.housekeeping import Problem
from merge_assets.cli.console import print_fact, print_table, table
from merge_assets.plan.describe import human_bytes
from merge_assets.records import Input
from merge_assets.store.collect import RemovalPlan, describe
from merge_assets.store.inventory import Inventory, StoredVersion
from merge_assets.store.names import CURRENT, MANIFEST, short_name

SHORT = 12
"""Digits of a version that are shown."""

_NAMES = 3


def print_plan(plan: RemovalPlan, *, title: str, needs: Mapping[tuple[str, str], Sequence[str]] | None = None) -> None:
    """What goes and what stays, with why."""
    found = plan.inventory
    doomed = {stored.name for stored in plan.doomed}
    shown = [one for one in found.everything if one.name in doomed or one.name in plan.kept]
    if shown:
        heads = ("version", "age", "size", "frees", "", "why")
        rows = table(*heads, title=escape(f"{title}: {found.place.url('')}"), numbers=("size", "frees"))
        for line in dict.fromkeys(stored.artifact.line for stored in shown):
            rows.add_section()
            rows.add_row(f"[bold]{escape(line)}[/]")
            for stored in [one for one in reversed(shown) if one.artifact.line == line]:
                goes = stored.name in doomed
                why = _why_it_goes(plan, stored, needs or {}) if goes else plan.kept[stored.name]
                rows.add_row(
                    f"  {stored.artifact.version[:SHORT]}",
                    shown_age(found.now, stored.changed),
                    human_bytes(stored.taken),
                    human_bytes(found.occupied(stored.files)) if goes else "",
                    "[red]remove[/]" if goes else "[green]keep[/]",
                    escape(joined(why, "; ")) or "[dim]nobody needs it[/]",
                )
        print_table(rows)
    for litter in plan.litter:
        size = f", {human_bytes(found.occupied(litter.files))}" if litter.files and not litter.pointer else ""
        uploads = f", {counted(len(litter.uploads), 'upload')}" if litter.uploads else ""
        print_fact("remove", f"{litter.what}{size}{uploads}", style="red")


def _why_it_goes(
    plan: RemovalPlan, stored: StoredVersion, needs: Mapping[tuple[str, str], Sequence[str]]
) -> Sequence[str]:
    why = plan.goes.get(stored.name)
    return needs.get(stored.name, ()) if why is None else [f"goes: {why}"]


def print_leases(found: Inventory) -> None:
    """Who works on what at this moment."""
    for _, holder in found.leases:
        print_fact("at work", holder.shown, style="green")


def print_unfinished(found: Inventory) -> None:
    """What is being built, or was left behind."""
    if not found.unfinished and not found.uploads:
        return
    rows = table("unfinished", "begun", "last change", "size", "uploads", "state", numbers=("size", "uploads"))
    for build in found.unfinished:
        state = "left behind"
        if build.alive:
            state = "[green]seems to run[/]"
        elif build.resumable:
            state = "[yellow]waits for the next build[/]"
        rows.add_row(
            escape(describe(build).removeprefix("unfinished ")),
            shown_age(found.now, build.begun),
            shown_age(found.now, build.changed),
            human_bytes(build.size),
            str(len(build.uploads) or ""),
            state,
        )
    for upload in found.uploads:
        rows.add_row(escape(upload.path), shown_age(found.now, upload.begun), "", "", "1", "left behind")
    print_table(rows)


def print_damaged(found: Inventory) -> None:
    """What cannot be read, and what to do about it."""
    for path in found.damaged:
        line, _, version = path.rpartition("/")
        remedy = "" if path.endswith(".json") else f"; merge-assets store rm '{line}@{version}' --yes"
        file = path if path.endswith(".json") else f"{path}/{MANIFEST}"
        print_fact("damaged", f"{found.place.url(file)}: cannot be read{remedy}", style="bold red")


def listing(found: Inventory, lines: Iterable[str], pinned: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Versions by line and what is unfinished, as JSON."""
    shown_lines = {
        line: [
            {
                "version": one.artifact.version,
                "created": one.artifact.manifest.created.isoformat(),
                "bytes": one.size,
                "current": found.is_current(one),
                "pinned": pinned.get(one.name, ""),
                "inputs": one.artifact.manifest.fingerprints,
            }
            for one in found.versions[line]
        ]
        for line in lines
    }
    shown = [one for line in shown_lines for one in found.versions[line]]
    unfinished = [
        {
            "line": one.line,
            "name": one.name,
            "begun": one.begun.isoformat(),
            "changed": one.changed.isoformat(),
            "bytes": one.size,
            "uploads": len(one.uploads),
            "running": one.alive,
            "resumable": one.resumable,
        }
        for one in found.unfinished
    ]
    return {
        "url": found.place.url(""),
        "lines": shown_lines,
        "unfinished": unfinished,
        "leases": [
            {"line": line, **one.model_dump(mode="json", include={"host", "pid", "since", "task"})}
            for line, one in found.leases
        ],
        "uploads": [{"path": one.path, "begun": one.begun.isoformat()} for one in found.uploads],
        "damaged": list(found.damaged),
        "versions": len(shown),
        "bytes": sum(one.size for one in shown),
        "bytes_taken": found.occupied(entry for one in shown for entry in one.files),
    }


def unreadable(damaged: Iterable[str]) -> list[tuple[str, str]]:
    """Line and version of manifests that cannot be read, out of what cannot be read."""
    folders = (path.rpartition("/") for path in damaged if not path.endswith(f"/{CURRENT}"))
    return [(line, version) for line, _, version in folders]


def remedies(problems: Iterable[Problem], wrong: Sequence[tuple[str, str]]) -> list[str]:
    """What to do about what is wrong in a store."""
    strange = [f"remove {problem.where}" for problem in problems if not problem.is_damage]
    names = " ".join(f"'{short_name(name)}'" for name in wrong)
    again = "removes this and what is in doubt, and makes it again; without --yes, it says so only"
    return [*dict.fromkeys(strange), *([f"merge-assets store repair {names} --yes: {again}"] if wrong else [])]


def verification(
    found: Inventory,
    chosen: Sequence[StoredVersion],
    problems: Sequence[Problem],
    damaged: Sequence[str],
    below: Sequence[Descendant],
    *,
    sampled: bool,
) -> dict[str, Any]:
    """What `store verify` found, as JSON; what is in doubt is in the order in which it is made again."""
    wrong = [{"where": one.where, "what": one.what, "damage": one.is_damage, **_named(one.stored)} for one in problems]
    wrong += [{"where": found.place.url(path), "what": "cannot be read", "damage": True} for path in damaged]
    doubt = [
        _named(one.stored) | {"made_from": [{"line": line, "version": version} for line, version in one.sources]}
        for one in below
    ]
    names = [*(one.stored.name for one in problems if one.is_damage), *unreadable(damaged)]
    return {
        "versions": len(chosen),
        "bytes": sum(stored.size for stored in chosen),
        "sampled": sampled,
        "problems": wrong,
        "in_doubt": doubt,
        "remedies": remedies(problems, list(dict.fromkeys(names))),
    }


def _named(stored: StoredVersion) -> dict[str, Any]:
    return {"line": stored.artifact.line, "version": stored.artifact.version}


def shown_marks(found: Inventory, stored: StoredVersion, pinned: Mapping[tuple[str, str], str]) -> str:
    """Whether a version is current and pinned."""
    marks = ["[green]current[/]"] if found.is_current(stored) else []
    return " ".join([*marks, *(["[cyan]pinned[/]"] if stored.name in pinned else [])])


def shown_inputs(inputs: Mapping[str, str]) -> str:
    """Names of inputs; of local folders the last part."""
    return joined([title.rpartition("/")[2] if title.startswith("/") else title for title in inputs], ", ")


def shown_input(item: Input) -> str:
    """One input with what is known of it."""
    facts = [
        f"commit {item.revision[:SHORT]}" if item.revision else "",
        f"license {item.license}" if item.license else "",
        "gated" if item.gated else "",
        f"made from {', '.join(item.base_models)}" if item.base_models else "",
    ]
    known = ", ".join(fact for fact in facts if fact)
    return f"{item.name}  {item.fingerprint[:SHORT]}{f'  ({known})' if known else ''}"


def joined(texts: Sequence[str], separator: str) -> str:
    """The first few of some texts, and how many more there are."""
    shown = separator.join(texts[:_NAMES])
    return f"{shown}{separator}{len(texts) - _NAMES} more" if len(texts) > _NAMES else shown


def shown_figures(report: Mapping[str, Any], prefix: str, show: Any) -> str:
    """The figures of a report whose names begin alike, without those that are zero."""
    figures = {name.removeprefix(prefix): value for name, value in report.items() if name.startswith(prefix)}
    return ", ".join(f"{show(value)} {name.replace('_', ' ')}" for name, value in figures.items() if value) or "none"


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a list out of a manifest's details."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def counted(number: int, word: str) -> str:
    """``1 version``, ``2 versions``."""
    return f"{number} {word}{'s'[: number != 1]}"


def shown_age(now: datetime, then: datetime) -> str:
    """``5 min`` and the like."""
    seconds = max((now - then).total_seconds(), 0.0)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
