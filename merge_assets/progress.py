"""Callback types by which long work reports progress and learns that it should stop."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (done, total, label); done and total are bytes or items, as the caller's docstring says."""

ShouldStop = Callable[[], bool]
"""Polled between tiles or tensors; ``True`` makes the work raise :class:`merge_assets.errors.Stopped`."""
