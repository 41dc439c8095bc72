"""How versions come into being and go; it differs with what the place can do."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from merge_assets.store.building import Building
from merge_assets.store.manifest import Manifest
from merge_assets.work import Work


class Publishing(abc.ABC):
    """Versions appear whole or not at all, whoever is killed at whatever moment.

    Attributes:
        reuses: whether pieces of versions can be taken into new ones.
    """

    reuses: bool

    @abc.abstractmethod
    def draft(self) -> AbstractContextManager[Path]:
        """A fresh local folder from which :meth:`publish` is cheapest; removed at the end."""

    @abc.abstractmethod
    def kept_draft(self, name: str) -> AbstractContextManager[Path]:
        """The local folder of this name, as a builder that was killed or stopped has left it, or a fresh one."""

    @abc.abstractmethod
    def keeps(self, error: BaseException) -> bool:
        """Whether a build that ended with this error can be gone on with."""

    @abc.abstractmethod
    def settle(self, name: str, manifest: Manifest) -> None:
        """Clear what builders of the :meth:`kept_draft` of this name have left who were killed when the version was there.

        Args:
            name: of the draft.
            manifest: of the version.
        """

    @abc.abstractmethod
    def building(
        self, folder: Path, line: str, key: str, work: Work, *, verify: bool, alone: bool
    ) -> tuple[Building, Callable[..., Manifest]]:
        """Files of pieces in a draft, and what publishes the draft with its manifest.

        ``verify`` asks to hash what is taken from other versions, where it comes by here; ``alone`` says that nobody else
        works on a version of this key.
        """

    @abc.abstractmethod
    def publish(self, folder: Path, manifest: Manifest, *, work: Work) -> Manifest:
        """Make the files of ``folder`` a version, unless another builder has; returns the manifest in force."""

    @abc.abstractmethod
    def withdraw(self, manifest: Manifest) -> str | None:
        """Make a version stop existing at once; its files stay for :meth:`restore` or :meth:`erase`.

        Returns:
            The folder of its files; ``None`` if it is its line's current version, or is gone or another by now, and
            nothing happened.
        """

    @abc.abstractmethod
    def restore(self, manifest: Manifest, folder: str) -> None:
        """Let a version that was withdrawn exist again, unless another builder has made it since."""

    @abc.abstractmethod
    def erase(self, manifest: Manifest, folder: str) -> None:
        """Remove the files of a version that was withdrawn."""
