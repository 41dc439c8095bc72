"""A search that has come to its end is kept with what was found, what the documents said of it, and all trials; once."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.api.conclude import TABLE
from merge_assets.api.confirm import confirm
from merge_assets.errors import Stopped
from merge_assets.records import SearchDetails
from merge_assets.work import Work
from tests.api.test_search import models, opened, project

__all__ = ["models", "project"]  # fixtures


@pytest.mark.slow
def test_what_was_found_is_kept_with_how_it_stands_beside_its_models(project: Path) -> None:
    space, seen = opened(project), list[str]()

    def at_the_end() -> bool:
        return any(label.startswith("comparing") for label in seen)

    with pytest.raises(Stopped):
        api.conclude(space, "best", work=Work(lambda done, total, label: seen.append(label), at_the_end))
    assert space.store.current("searches/best") is None
    made = api.conclude(space, "best")
    details = made.artifact.manifest.described(SearchDetails)
    (best,) = made.opened.trials.best()
    (found,) = details.found
    assert (found.name, found.number, dict(found.values)) == ("best", best.number, dict(best.values))
    assert (details.trials, details.failed) == (4, 0) and found.objectives == {"tiny": best.objectives[0]}
    assert [(one.model, one.searched, one.confirmed, one.verdict) for one in found.beside] == [
        (one.model, one.searched, one.confirmed, one.verdict.word) for one in confirm(space, made.opened, best)
    ]
    rows = list(csv.DictReader(io.StringIO(made.artifact.read_bytes(TABLE).decode())))
    assert [float(row["tiny"]) for row in rows] == [one.objectives[0] for one in made.opened.trials.all()]

    again = api.conclude(opened(project), "best")
    assert again.reused and again.artifact.version == made.artifact.version
    assert opened(project).recipe("best").digest == made.opened.candidate(best).digest
