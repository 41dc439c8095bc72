"""Candidates of a search: built on this machine, without checks, to be evaluated and dropped.

They lie in a store of their own in the cache. What two candidates share is linked, so that a candidate takes the disk and the
time of what it changes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from merge_assets.api.build import compute, reported, shard_files, written_fingerprint
from merge_assets.api.plan import device_of, fetched_inputs, planned
from merge_assets.errors import MergeAssetsError
from merge_assets.plan import Plan, Together, only
from merge_assets.recipe import Recipe
from merge_assets.records import VariantDetails
from merge_assets.store import Artifact, ArtifactStore, Origin
from merge_assets.store.building import create
from merge_assets.store.collect import carry_out, plan_removal
from merge_assets.store.inventory import survey
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace


class Candidates:
    """Where the candidates of searches are built.

    Args:
        workspace: of the models that they are made of.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._models = Models(workspace)
        self.store = ArtifactStore(str(workspace.cache / "candidates"), scratch=workspace.cache)

    def plan(self, recipe: Recipe, together: Together, work: Work = UNATTENDED) -> Plan:
        """The plan of a candidate on the bytes of its models.

        Args:
            recipe: the candidate.
            together: tells which files all candidates of the search share.
            work: asked while models are fetched and digested.
        """
        inputs = fetched_inputs(self._workspace, self._models, recipe, None, work)
        return planned(self._workspace, self._models, recipe, inputs, None, work, together)

    def build(self, recipe: Recipe, made: Plan, line: str, work: Work = UNATTENDED) -> Artifact:
        """The candidate, on this machine; what an attempt that was killed had finished is not made again.

        Args:
            recipe: the candidate.
            made: its plan.
            line: of the store of candidates.
            work: told bytes; asked throughout.
        """
        if (found := self.store.reuse(line, made.key)) is not None:
            return found
        origins = self._origins(made, line)
        verify = self._workspace.settings.verify_inputs != "off"
        with self.store.build(line, made.key, datetime.now(UTC), verify=verify, work=work) as draft:
            report = compute(self._workspace, self._models, recipe, made, draft, origins, work)
            reused = {name: origin for name, origin in origins.items() if name in draft.building.reused}
            return draft.commit(
                written_fingerprint(made, draft, work),
                key=made.key,
                inputs=[self._models.used(m.reference, m.fingerprint or "") for m in made.models if m.folded is None],
                details=VariantDetails(
                    recipe=recipe.name,
                    code="",
                    method=made.method,
                    methods=made.methods,
                    layers=made.layer_count,
                    parameters=made.parameter_count,
                    checks=(),
                    report=reported(report, made, reused, draft.building, 0),
                ),
                work=work.silent(),
            )

    def write(
        self, recipe: Recipe, made: Plan, names: Collection[str], folder: Path, work: Work = UNATTENDED
    ) -> tuple[Path, dict[str, str]]:
        """Some tensors of a candidate, in a file of their own.

        Args:
            recipe: the candidate.
            made: its plan.
            names: of the tensors.
            folder: where the file goes, which nobody looks for after a power cut.
            work: asked throughout.

        Returns:
            The file, of safetensors, and the digests of the tensors by name (:mod:`merge_assets.digests`).

        Raises:
            StoreError: there is no room.
            InputError, EngineError: as when it is built.
            Stopped: on request.
        """
        from merge_assets.engine.execute import execute

        part = only(made, names, "changed")
        (planned_file,) = shard_files(part)
        file = folder / planned_file.name
        create(file, planned_file, reserve=True)
        landing = _Digests()
        execute(
            part,
            folder,
            device=device_of(self._workspace, recipe),
            threads=self._workspace.settings.threads,
            memory=int(self._workspace.settings.memory),
            work=work.silent(),
            allow_nonfinite=recipe.allow_nonfinite,
            inputs=self._workspace.stored.inputs(self._models.local.digested_states),
            landing=landing,
            verify=self._workspace.settings.verify_inputs,
        )
        return file, landing.digests

    def drop(self, lines: Sequence[str]) -> None:
        """Remove the candidates of some lines; what another shares stays with that one."""
        if not lines:
            return
        found = survey(self.store)
        gone = [stored for line in lines for stored in found.versions.get(line, ())]
        if gone:
            carry_out(self.store, plan_removal(found, gone, pinned={}, force=True)[0])

    def _origins(self, made: Plan, line: str) -> Mapping[str, Origin]:
        by_key = self.store.origins({tensor.key for tensor in made.tensors}, line)
        return {tensor.name: by_key[tensor.key] for tensor in made.tensors if tensor.key in by_key}


class _Digests:
    """What is told of tensors that are written into a file that does not last: only their digests are kept."""

    durable = False

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.finished: frozenset[str] = frozenset()
        self.flaws: Mapping[str, int] = {}
        self._lock = threading.Lock()

    def landed(self, name: str, flaws: int, digest: str | None = None) -> None:
        assert digest is not None  # who is told of what lands gets it
        with self._lock:
            self.digests[name] = digest


def fingerprints(workspace: Workspace, recipe: Recipe, work: Work = UNATTENDED) -> dict[str, str]:
    """The fingerprint of every model that a recipe is made of, by its reference.

    Raises:
        MergeAssetsError: one cannot be had.
    """
    found = {}
    models = Models(workspace)
    for item in fetched_inputs(workspace, models, recipe, None, work):
        adapter = f"+{item.adapter.fingerprint}" if item.adapter is not None else ""
        if item.fingerprint is None:
            raise MergeAssetsError(f"{item.reference} has no fingerprint; build it first")
        found[str(item.reference)] = f"{item.fingerprint}{adapter}"
    return found
