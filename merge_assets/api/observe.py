"""Observe a base checkpoint or an adapter: which bytes it has now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_assets.checkpoint import Checkpoint
from merge_assets.errors import CheckpointError, printable
from merge_assets.reference import ModelReference
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace

if TYPE_CHECKING:
    from merge_assets.hub import Hub, HubRevision


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


def observe(workspace: Workspace, reference: ModelReference, *, work: Work = UNATTENDED) -> Observation:
    """Fingerprint a base checkpoint without downloading weights.

    A local directory, or one at a URL, is read once whenever one of its files changed; a Hub repository answers with its file
    digests.

    Raises:
        CheckpointError, HubError: if it cannot be read.
    """
    identity = workspace.names.identify(reference)
    if identity.kind == "recipe":
        raise CheckpointError(f"{reference} is a recipe, not a base checkpoint")
    if identity.kind == "hub":
        return observe_revision(workspace.hub, workspace.hub.resolve(reference))
    if identity.kind == "url":
        model = Models(workspace).at_urls.open(reference)
        return _observation(model.checkpoint, model.digested(work).version, None)
    directory = workspace.names.folder(reference)
    local = Models(workspace).local
    checkpoint = local.open_any(directory)
    return _observation(checkpoint, local.digest(checkpoint, work).fingerprint, None)


def observe_revision(hub: Hub, revision: HubRevision) -> Observation:
    """Fingerprint a commit without downloading weights.

    Raises:
        CheckpointError, HubError: if it cannot be read.
    """
    return _observation(hub.open(revision), hub.fingerprint(revision), revision.commit)


def _observation(checkpoint: Checkpoint, fingerprint: str, revision: str | None) -> Observation:
    kind = checkpoint.config.get("peft_type")
    architectures = checkpoint.config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        architectures = [f"{kind} adapter" if kind else "unknown"]
    return Observation(
        fingerprint=fingerprint,
        revision=revision,
        tensors=len(checkpoint.tensors),
        bytes=checkpoint.nbytes,
        layers=checkpoint.layer_count,
        architecture=printable(str(architectures[0])[:100]),
    )
