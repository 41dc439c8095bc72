"""Observe a base checkpoint or an adapter: which bytes it has now."""

from __future__ import annotations

from dataclasses import dataclass

from merge_assets.errors import CheckpointError
from merge_assets.progress import ShouldStop
from merge_assets.reference import ModelReference
from merge_assets.sources import Workspace


@dataclass(frozen=True)
class Observation:
    """The state of a base checkpoint.

    Attributes:
        fingerprint: content digest; its data version.
        revision: Hub commit, ``None`` for a local directory.
        tensors: number of tensors.
        bytes: bytes of all tensors.
        layers: layers of the main stack.
        architecture: ``architectures[0]`` of the config, or what kind of adapter it is.
    """

    fingerprint: str
    revision: str | None
    tensors: int
    bytes: int
    layers: int
    architecture: str


def observe(workspace: Workspace, reference: ModelReference, *, should_stop: ShouldStop | None = None) -> Observation:
    """Fingerprint a base checkpoint without downloading weights.

    A local directory is read once whenever one of its files changed; a Hub repository answers with its file digests.

    Raises:
        CheckpointError, HubError: if it cannot be read.
    """
    identity = workspace.identify(reference)
    revision = None
    if identity.kind == "recipe":
        raise CheckpointError(f"{reference} is a recipe, not a base checkpoint")
    if identity.kind == "local":
        directory = workspace.local_path(reference)
        assert directory is not None
        checkpoint = workspace.open_any(directory)
        fingerprint = workspace.digest(checkpoint, should_stop).fingerprint
    else:
        resolved = workspace.hub.resolve(reference)
        checkpoint = workspace.hub.open(resolved)
        fingerprint, revision = workspace.hub.fingerprint(resolved), resolved.commit
    kind = checkpoint.config.get("peft_type")
    architectures = checkpoint.config.get("architectures") or [f"{kind} adapter" if kind else "unknown"]
    return Observation(
        fingerprint=fingerprint,
        revision=revision,
        tensors=len(checkpoint.tensors),
        bytes=checkpoint.nbytes,
        layers=checkpoint.layer_count,
        architecture=str(architectures[0]),
    )
