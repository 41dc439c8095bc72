"""Every error that a user's input can cause, in one tree.

``str(error)`` is the whole message a person reads: where (file, key path or tensor), what was found,
and what to do. The command line prints it without a traceback and exits with code 2.
"""

from pathlib import Path


class MergeAssetsError(Exception):
    """Base of every error caused by input, environment or a damaged file, not by a defect of ours."""

    def __init__(self, *arguments: object) -> None:
        # Names out of hostile files may hold halves of surrogate pairs, which no terminal or file takes.
        super().__init__(*(_printable(item) if isinstance(item, str) else item for item in arguments))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class SettingsError(MergeAssetsError):
    """A setting in the environment or in merge-assets.toml is unknown or has a wrong value."""


class RecipeError(MergeAssetsError):
    """A recipe file is wrong. Names the file, the key path and what to do.

    Args:
        message: what was found and what to do, starting lower case.
        file: the recipe file, if known.
        key: dotted path inside the document, such as ``slices[0].sources[1].layer_range``.
    """

    def __init__(self, message: str, *, file: Path | str | None = None, key: str | None = None) -> None:
        self.message = message
        self.file = file
        self.key = key
        super().__init__(": ".join(str(part) for part in (file, key, message) if part))


class CheckpointError(MergeAssetsError):
    """A checkpoint is missing, damaged, hostile, or in a format that is not read."""


class PlanError(RecipeError):
    """A recipe does not fit the headers of its inputs."""


class EngineError(MergeAssetsError):
    """Reading, computing or writing a tensor failed; nothing visible was written."""


class StoreError(MergeAssetsError):
    """The artifact store cannot be reached, or an artifact in it is incomplete or damaged."""


class DamageError(StoreError):
    """Bytes of the store are not those that a manifest records."""


class HubError(MergeAssetsError):
    """The Hub does not have what was asked for, or refuses it."""


class AnalysisError(MergeAssetsError):
    """An analysis cannot be computed or read."""


class EvaluationError(MergeAssetsError):
    """A suite is wrong, or an evaluation failed."""


class Stopped(Exception):
    """Work was stopped on request through ``should_stop``; not an error of the input."""
