"""What a transfer tells of itself, and how it learns that it is to end."""

from __future__ import annotations

from fsspec.callbacks import Callback

from merge_assets.work import Work


class Watch(Callback):  # type: ignore[misc]  # fsspec has no types
    """Counts the bytes of one file's transfer and ends it when the whole batch is stopped.

    It is an fsspec callback, so that a transfer inside fsspec can be counted and ended as well.

    Args:
        work: asked at every count.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self._check()

    def absolute_update(self, value: int) -> None:
        super().absolute_update(value)
        self._check()

    def quiet(self) -> Watch:
        """A watch that is stopped with this one but counts for itself, for reading again what was counted."""
        return Watch(self._work)

    def branched(self, path_1: object, path_2: object, **kwargs: object) -> Watch:
        return self

    def _check(self) -> None:
        self._work.check("reading and writing files")
