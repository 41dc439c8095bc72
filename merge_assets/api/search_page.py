"""A search as pictures and as a page: what the trials in the storage say now."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.search import OpenSearch
from merge_assets.errors import SearchError, in_one_line

if TYPE_CHECKING:
    from merge_assets.search.figure import Picture
    from merge_assets.search.standing import Standing

_EVERY = 2.0
"""Seconds that lie between two writings of the page of a search that goes on, at least."""

_PART = 20
"""Writing takes one in so many parts of the time at most, however many trials there are."""


def standing_of(opened: OpenSearch) -> Standing:
    """How a search stands."""
    from merge_assets.search.gradients import gradients_of
    from merge_assets.search.standing import Standing, goals_of

    search = opened.search
    return Standing(
        trials=opened.trials.all(),
        space=search.space,
        goals=goals_of(search, opened.labels, opened.higher),
        gradients=gradients_of(search.space, opened.recipe.source.parsed().data),
    )


def search_pictures(opened: OpenSearch) -> tuple[Picture, ...]:
    """The pictures of a search that say something, as SVG, each with its title and how to read it."""
    from merge_assets.search.pictures import pictures_of

    return pictures_of(standing_of(opened)).pictures


def write_search_page(
    opened: OpenSearch, file: Path, *, trials: int | None = None, hours: float | None = None, is_running: bool = False
) -> None:
    """Write the page of a search; a reader has the one before, or this one whole.

    Args:
        opened: the search.
        file: of the page.
        trials: the budget, in the place of what the search says.
        hours: likewise.
        is_running: whether it will be written again; then it reloads itself.

    Raises:
        SearchError: the file cannot be written.
    """
    from merge_assets.search.page import Head, search_page

    recipe, search = opened.recipe, opened.search
    head = Head(
        name=recipe.name,
        study=opened.study,
        description=recipe.description,
        method=recipe.merge_method,
        models=list(dict.fromkeys(str(reference) for reference in recipe.references())),
        sampler=search.proposer,
        trials=search.trials if trials is None else trials,
        hours=search.hours if hours is None else hours,
        written=datetime.now().astimezone(),
        is_running=is_running,
    )
    text = search_page(standing_of(opened), head)
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise SearchError(f"the page {file} cannot be written: {in_one_line(error)}") from None


class LivePage:
    """The page of a search that goes on.

    Args:
        opened: the search.
        file: of the page.
        trials: the budget, in the place of what the search says.
        hours: likewise.
    """

    def __init__(self, opened: OpenSearch, file: Path, trials: int | None, hours: float | None) -> None:
        self._opened, self._file, self._trials, self._hours = opened, file, trials, hours
        self._next = 0.0

    def refresh(self) -> str:
        """Write it, unless that was done a moment ago.

        Returns:
            Why it cannot be written, for which a search does not end; empty if it can.
        """
        began = time.monotonic()
        if began < self._next:
            return ""
        try:
            self.write(is_running=True)
        except SearchError as error:
            return str(error)
        finally:
            self._next = time.monotonic() + max(_EVERY, _PART * (time.monotonic() - began))
        return ""

    def write(self, *, is_running: bool) -> None:
        """Write it now.

        Raises:
            SearchError: the file cannot be written.
        """
        write_search_page(self._opened, self._file, trials=self._trials, hours=self._hours, is_running=is_running)


@contextlib.contextmanager
def live_page(
    opened: OpenSearch, file: Path, *, trials: int | None = None, hours: float | None = None
) -> Iterator[LivePage]:
    """Keep the page of a search while it goes on; at its end, whatever it is, one is written that reloads itself no more.

    Args:
        opened: the search.
        file: of the page.
        trials: the budget, in the place of what the search says.
        hours: likewise.

    Raises:
        SearchError: the page cannot be written before the first trial.
    """
    page = LivePage(opened, file, trials, hours)
    page.write(is_running=True)
    try:
        yield page
    finally:
        with contextlib.suppress(SearchError):
            page.write(is_running=False)
