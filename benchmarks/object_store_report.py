"""The figures of the benchmark of builds into S3 as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

Results = Mapping[str, Any]
Round = Mapping[str, Any]
_WIDTH = 140
"""Columns at least: a log is as readable as a terminal."""


def show(results: Results) -> None:
    """Print everything that was measured."""
    console = Console()
    console.width = max(console.width, _WIDTH)
    for name, value in results["machine"].items():
        console.print(f"{name}: {value}", highlight=False)
    load = results["load_before"][0]
    console.print(
        f"models of {results['model_bytes'] / 1e6:.0f} MB; medians of {results['rounds']} rounds; load before {load:.1f}"
        + (", so the machine was not idle" if load > 1 else "")
    )
    for part, table in _TABLES.items():
        if part in results:
            console.print(table(results[part]))


def _throughput(found: Results) -> Table:
    rounds: Sequence[Round] = found["rounds"]
    table = Table("", "s", "MB/s", "of s3fs both", "of the same through a file", "CPU s", "CPU s of the machine")
    table.title = "Throughput"
    for name in rounds[0]:
        runs = [each[name] for each in rounds]
        _line(table, name, runs, rounds, lambda run: run["wall"])
        if name == "build":
            _line(table, "build, engine and transfers alone", runs, rounds, transfer_seconds)
    for name in ("build", "build with checks"):
        peak = max(each[name]["peak_memory"] - each[name]["idle_memory"] for each in rounds)
        table.add_row(f"memory of {name}", f"{peak / 1e6:.0f} MB", f"of {found['memory_setting'] / 1e6:.0f} MB")
    return table


def transfer_seconds(run: Round) -> float:
    """Seconds in which a build computed and moved bytes."""
    phases = run["phases"]
    return float(sum(phases.get(name, 0.0) for name in ("set out", "engine", "wait for transfers")))


def _line(
    table: Table, name: str, runs: Sequence[Round], rounds: Sequence[Round], seconds: Callable[[Round], float]
) -> None:
    rates = [moved(run) / seconds(run) for run in runs]
    shares = []
    for copy in ("s3fs both", "s3fs both, through a file"):
        plain = [moved(each[copy]) / each[copy]["wall"] for each in rounds]
        shares.append(median(rate / other for rate, other in zip(rates, plain, strict=True)))
    table.add_row(
        name,
        f"{median(map(seconds, runs)):.2f}",
        f"{median(rates) / 1e6:.0f}",
        *(f"{share:.2f}" for share in shares),
        f"{median(run['cpu'] for run in runs):.1f}",
        f"{median(run['machine_cpu'] for run in runs):.1f}",
    )


def moved(run: Round) -> float:
    """Bytes of weights that a step moved to and from the client."""
    return float(run["bytes"] if "bytes" in run else run["input_bytes"] + run["output_bytes"])


def _depth_upscale(found: Results) -> Table:
    table = Table("shards", "output", "to client", "from client", "share", "requests", "s", "as local", "sound, loads")
    table.title = "Depth up-scaling of a mirrored model"
    for name, run in found.items():
        built = run["build"]
        table.add_row(
            f"{built['shards']} ({name})",
            f"{built['output_bytes'] / 1e6:.0f} MB",
            f"{run['to_client'] / 1e6:.2f} MB",
            f"{run['from_client'] / 1e6:.2f} MB",
            f"{run['share']:.2%}",
            str(run["requests"]),
            f"{built['wall']:.2f}",
            "yes" if run["as_local"] else "NO",
            "yes" if run["sound_and_loads"] else "NO",
        )
    return table


def _rebuilds(found: Results, title: str) -> RenderableType:
    table = Table(
        "", "clean s", "rebuild s", "ratio", "without the Hub", "computed", "reused", "same bytes", title=title
    )
    phases = Table("", *dict.fromkeys(phase for runs in found.values() for phase in _phases(runs, "clean")))
    phases.title = "Seconds of phases"
    for name, rounds in found.items():
        report = rounds[-1]["rebuild"]["report"]
        table.add_row(
            name,
            f"{median(each['clean']['wall'] for each in rounds):.2f}",
            f"{median(each['rebuild']['wall'] for each in rounds):.2f}",
            f"{median(each['rebuild']['wall'] / each['clean']['wall'] for each in rounds):.2f}",
            f"{median(_own(each['rebuild']) / _own(each['clean']) for each in rounds):.2f}",
            str(report["tensors_computed"]),
            str(report["tensors_reused"]),
            "yes" if all(each["same"] for each in rounds) else "NO",
        )
        for kind in ("clean", "rebuild"):
            seconds = _phases(rounds, kind)
            phases.add_row(f"{name}, {kind}", *(f"{seconds.get(str(c.header), 0):.1f}" for c in phases.columns[1:]))
    return Group(table, phases)


def _phases(rounds: Sequence[Round], kind: str) -> dict[str, float]:
    """Seconds of each phase."""
    names = dict.fromkeys(phase for each in rounds for phase in each[kind]["phases"])
    return {name: median(each[kind]["phases"].get(name, 0.0) for each in rounds) for name in names}


def _own(run: Round) -> float:
    """Seconds of a build without those in which models came from the Hub."""
    return float(run["wall"] - sum(run["phases"].get(name, 0.0) for name in ("mirror", "download")))


_TABLES: dict[str, Callable[[Results], RenderableType]] = {
    "throughput": _throughput,
    "depth_upscale": _depth_upscale,
    "incremental": partial(_rebuilds, title="Incremental rebuilds in a bucket"),
    "local": partial(_rebuilds, title="Incremental rebuilds in a local store"),
}
