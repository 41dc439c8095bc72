"""A model whose files another library reads: what it reads is what was digested, or nothing is written down of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from merge_assets.checkpoint import digest_checkpoint, open_any
from merge_assets.engine.witness import VerifyInputs
from merge_assets.errors import InputError
from merge_assets.filestate import FileState, check_unchanged, not_as_digested
from merge_assets.plan import PlanInput
from merge_assets.work import UNATTENDED, Work


def look_through(
    item: PlanInput,
    verify: VerifyInputs,
    digested: Mapping[str, FileState],
    work: Work = UNATTENDED,
) -> Callable[[], None]:
    """Look at a model before others read its files.

    Args:
        item: the model, in a local folder, with its digests.
        verify: ``full`` reads all of it before, ``stat`` does where a file's state is not that of when it was digested, ``off``
            looks at nothing.
        digested: states of files when they were digested, by path.
        work: asked before every block.

    Returns:
        What raises an :class:`InputError` if something was written into the files since; to be called when they were read,
        before what was found is kept.

    Raises:
        InputError: the model is not what was digested.
    """
    directory = Path(item.checkpoint.location)
    states = {path: state for path, state in digested.items() if Path(path).parent == directory}
    if verify == "off" or item.tensor_digests is None:
        return lambda: None
    if verify == "full" or not states or not _are_unchanged(states):
        states = _looked_through(directory, item, work)
    return partial(check_unchanged, states)


def _looked_through(directory: Path, item: PlanInput, work: Work) -> dict[str, FileState]:
    """The states of the files, all of whose bytes are what was digested."""
    # Where links may lead was asked when the model was opened, and what they lead to is compared here.
    checkpoint = open_any(directory, [Path(directory.anchor)])
    found = digest_checkpoint(checkpoint, None, work)
    files = item.file_digests or {}
    small = {name: digest for name, digest in found.files.items() if name in files and not _holds_weights(item, name)}
    wrong = [name for name, digest in small.items() if files[name] != digest]
    wrong += [name for name, digest in (item.tensor_digests or {}).items() if found.tensors.get(name) != digest]
    if wrong or checkpoint.tensors != item.checkpoint.tensors:
        raise not_as_digested(f"{directory}: {wrong[0] if wrong else 'a header'}")
    return {str(directory / name): state for name, state in found.states.items()}


def _holds_weights(item: PlanInput, name: str) -> bool:
    return name in item.checkpoint.weight_files


def _are_unchanged(states: Mapping[str, FileState]) -> bool:
    with suppress(InputError):
        check_unchanged(states)
        return True
    return False
