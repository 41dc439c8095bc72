"""Models on the Hub: their headers, a mirror in a bucket, or a download."""

from __future__ import annotations

from pathlib import Path

from merge_assets.identity import checkpoint_line
from merge_assets.plan import PlanInput
from merge_assets.records import Input
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact
from merge_assets.work import Work
from merge_assets.workspace.workspace import Workspace


class HubModels:
    """Models on the Hub. A store in a bucket keeps mirrors of them; elsewhere they lie in the Hub's own cache.

    Attributes:
        used: what is known of the models whose weights were asked for.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._store = workspace.store
        self.used: dict[ModelReference, Input] = {}

    def headers(self, reference: ModelReference) -> PlanInput:
        """A model or an adapter from its headers; no weights are downloaded."""
        hub = self._workspace.hub
        revision = hub.resolve(reference)
        return PlanInput(reference, hub.open(revision), hub.fingerprint(revision))

    def mirror_of(self, reference: ModelReference) -> Artifact | None:
        """The mirror of a commit, for which the Hub need not be asked."""
        if not (self._store.in_bucket and reference.is_commit):
            return None
        versions = self._store.versions(checkpoint_line(reference))
        return next((v for v in versions if v.manifest.fingerprints.get(reference.path) == reference.revision), None)

    def mirrored(self, reference: ModelReference, commit: str | None, work: Work) -> Artifact:
        """The mirror of a model, which is made if it is not there."""
        from merge_assets.hub.mirror import mirror

        wanted = ModelReference(reference.path, commit) if commit else reference
        line = checkpoint_line(reference)
        found = self.mirror_of(wanted)
        if found is not None:
            self._store.set_current(line, found.version)
        else:
            hub = self._workspace.hub
            revision = hub.resolve(wanted)
            found = mirror(hub, revision, self._store, line, self._workspace.cache, work=work)
        self.used[reference] = found.manifest.inputs[0]
        return found

    def downloaded(self, reference: ModelReference, commit: str | None, work: Work) -> Path:
        """The folder that a model or an adapter was downloaded to."""
        hub = self._workspace.hub
        wanted = ModelReference(reference.path, commit) if commit else reference
        revision = hub.resolve(wanted)
        self.used[reference] = revision.as_input(revision.commit)
        return hub.download(revision, work=work)
