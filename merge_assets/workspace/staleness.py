"""Which variants of the store are out of date, and why: what they were made from, and what they would be made from now."""

from __future__ import annotations

from merge_assets.errors import MergeAssetsError
from merge_assets.freshness import Basis, short, stale_reason
from merge_assets.identity import variant_line
from merge_assets.recipe import Recipe
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace.models import Models
from merge_assets.workspace.results import basis_key, made_from, variant_code
from merge_assets.workspace.workspace import Workspace


class Staleness:
    """What is out of date, as one verb finds it; each model and recipe is asked once.

    Args:
        workspace: whose variants are asked for.
        thorough: whether what is not known of the models' bytes may be found out: local folders that changed since they were
            looked at are digested, and the Hub and buckets are asked. Else such bytes count as those that they were.
        work: asked while files are digested.

    Attributes:
        models: those that were looked at.
    """

    def __init__(self, workspace: Workspace, *, thorough: bool, work: Work = UNATTENDED) -> None:
        self._workspace = workspace
        self.models = Models(workspace)
        self._thorough = thorough
        self._work = work
        self._current: dict[str, Artifact | None] = {}
        self._fingerprints: dict[ModelReference, str | None] = {}
        self._reasons: dict[str, str | None] = {}

    def current(self, name: str) -> Artifact | None:
        """The current version of a recipe's variant."""
        if name not in self._current:
            self._current[name] = self._workspace.store.current(variant_line(name))
        return self._current[name]

    def fingerprint(self, reference: ModelReference) -> str | None:
        """Of a model's bytes as they are now, or of an adapter's; ``None`` if it is not known."""
        if reference not in self._fingerprints:
            try:
                self._fingerprints[reference] = self._fingerprint_now(reference)
            except MergeAssetsError:  # whoever makes something of it says so
                self._fingerprints[reference] = None
        return self._fingerprints[reference]

    def reason(self, recipe: Recipe) -> str | None:
        """Why the current version of a variant is out of date, with what changed, then and now; ``None`` if it is not, or there
        is none."""
        below = self._workspace.book.made_of(recipe, lambda one: one.name not in self._reasons)
        for one in (*below, recipe):  # one after the other: from one to the next, it would take a call inside a call
            if one.name not in self._reasons:
                self._reasons[one.name] = self._reason(one)
        return self._reasons[recipe.name]

    def _fingerprint_now(self, reference: ModelReference) -> str | None:
        kind = self._workspace.names.identify(reference).kind
        if kind == "recipe":
            current = self.current(reference.path)
            return current.version if current else None
        if kind == "hub":
            return self.models.headers(reference).fingerprint if self._thorough else None
        if kind == "url":
            return self.models.at_urls.open(reference).digested(self._work).version if self._thorough else None
        if self._workspace.settings.allow_pickle and not self._thorough:  # opening a folder may convert it first
            return None
        directory = self._workspace.names.folder(reference)
        checkpoint = self.models.local.open_any(directory)
        if self._thorough:
            return self.models.local.digest(checkpoint, self._work).fingerprint
        return self.models.local.known(reference, checkpoint).fingerprint

    def _reason(self, recipe: Recipe) -> str | None:
        artifact = self.current(recipe.name) if recipe.materialize else None
        if artifact is None:
            return None
        was = made_from(artifact.manifest)
        models = {name: ModelReference.parse(name).model for name in was.inputs}
        code = variant_code(recipe, self._workspace.book.folded(recipe))
        now = Basis(code, {name: self.fingerprint(model) for name, model in models.items()})
        reason = stale_reason(was, now, _other_code(recipe))
        if reason is not None:
            return self._compared(artifact, reason, now)
        for name, model in models.items():
            parent = self._workspace.book.resolve(model)
            if parent is not None and self._reasons.get(parent.name):
                return f"{name}, which it is made of, is out of date"
        return None

    def _compared(self, artifact: Artifact, reason: str, now: Basis) -> str | None:
        """The reason with the version that is there; ``None`` if that is what came of this basis, too, when it was built."""
        inputs = {name: key or artifact.manifest.fingerprints[name] for name, key in now.inputs.items()}
        made = self._workspace.store.find(artifact.line, basis_key(Basis(now.code, inputs)))
        if made is not None and made.version == artifact.version:
            return None
        return f"{reason}; this is version {short(artifact.version)}"


def _other_code(recipe: Recipe) -> str:
    """What other code means: the checkpoints that are averaged are a part of it."""
    template = recipe.average_checkpoints
    listed = template is not None and template.folder is not None
    return "the recipe changed, or the checkpoints that it averages" if listed else "the recipe changed"
