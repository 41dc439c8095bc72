"""Which tests are of which tier, in which order they run, and what is said of those that were not run.

A test that asks for a server's fixture is marked ``server``, one that asks for the browser ``browser``; a file may mark itself.
Files of many tests that each take tenths of a second are marked ``long`` here. ``make quick`` leaves out these three, and
``slow`` and ``peer``. See docs/testing.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

FIXTURES = {"rgw": "server", "postgres": "server", "s3_endpoint": "server", "chromium": "browser"}
"""What asks for one of these fixtures has this mark."""

_MINUTES = (
    *(
        "pipeline/test_bucket",
        "pipeline/test_daemon",
        "pipeline/test_lifeline",
        "pipeline/test_planned",
        "pipeline/test_run",
    ),
    *("engine/test_faults", "api/test_build_crashes", "hub/test_failures", "cli/test_store"),
    *("evaluation/test_open_llm_leaderboards", "evaluation/test_answers", "evaluation/test_draws"),
)
"""Files that take minutes, most of which wait for a daemon or for processes that are killed: they begin first."""

_LONG = (
    *("api/test_averaged", "api/test_build", "api/test_models_at_urls", "api/test_rank", "api/test_verified_builds"),
    *("api/test_search", "api/test_search_page", "api/test_sweep"),
    *("search/test_page", "search/test_pictures", "search/test_trials"),
    *("engine/test_edges", "engine/test_golden", "engine/test_methods", "engine/test_properties"),
    *("engine/test_verified_inputs", "plan/test_correspondence", "store/test_format", "store/test_parts"),
    *("api/test_asked_otherwise", "api/test_repair", "checkpoint/test_formats", "cli/test_findings", "cli/test_status"),
    *(
        "engine/test_devices",
        "engine/test_gpu",
        "importing/test_config",
        "plan/test_adapters",
        "plan/test_text_and_towers",
    ),
    *("plan/test_vocabulary", "plan/test_vocabulary_files", "plan/test_vocabulary_merges", "store/test_places"),
    *("test_cases", "test_hostile_projects", "test_linear", "test_reference", "test_search_examples", "test_semantics"),
)
"""Files that together take as long as all other quick ones; mutants are looked for by them, too."""

_WEIGHTS = {"slow": 20, "peer": 20, "browser": 20, "server": 5}
"""How many plain tests a test of this mark counts as."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests, and put the long files first, so that workers end together."""
    weights: defaultdict[str, int] = defaultdict(int)
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in FIXTURES:
                item.add_marker(FIXTURES[fixture])
        if _file(item).removeprefix("tests/").removesuffix(".py") in _LONG:
            item.add_marker("long")
        marks = {mark.name for mark in item.iter_markers()}
        weights[_file(item)] += max((weight for mark, weight in _WEIGHTS.items() if mark in marks), default=1)
    first = {f"tests/{name}.py" for name in _MINUTES}
    # The sort is stable: tests of a file stay together and in order.
    items.sort(key=lambda item: (_file(item) not in first, -weights[_file(item)]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests were not run, and why."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if reasons:
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"{reasons.total()} tests or files of tests were not run: {listing}")


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
