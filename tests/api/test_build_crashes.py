"""Contract of builds that are killed: whatever they leave, the next build gives the right bytes at once, and clears it.

Processes are really killed, at steps of builds into a local store and into a bucket: at those in which a version is
published always, at the others at one of sixty, or at all of them in ``make thorough``. See
:mod:`tests.faults.build_steps` for what a step is, and ``python -m tests.faults.every_build_step`` for a count.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.build_steps import Builds, Scenario, outcomes, write_project
from tests.s3.rgw import Rgw


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.thorough), 60], ids=["all", "sample"])
@pytest.mark.parametrize("kind", ["first", "resumed"])
@pytest.mark.parametrize("where", ["local", pytest.param("bucket", marks=pytest.mark.server)])
def test_after_a_kill_at_any_step_the_next_build_gives_the_right_bytes_and_leaves_no_draft(
    where: str, kind: str, every: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    scenario = Scenario(write_project(tmp_path / "project"))
    if where == "bucket":
        server: Rgw = request.getfixturevalue("rgw")
        scenario = replace(scenario, bucket=request.getfixturevalue("bucket"), options=server.options())
    whole = Builds(scenario, tmp_path / "first").whole
    if kind == "resumed":  # the first was killed when some was computed, but not all
        scenario = replace(scenario, first=whole.commit * 3 // 4)
        whole = Builds(scenario, tmp_path / "resumed").whole
    place = tmp_path / "kills"
    place.mkdir()
    seen = list(outcomes(scenario, place, whole.sample(every)))
    assert {(one.step, one.what): one.problems for one in seen if one.problems} == {}
    assert len(seen) >= len(whole.publishing)
