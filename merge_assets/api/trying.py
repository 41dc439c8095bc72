"""How one worker of a search tries candidates: each stored, or made of the model that is loaded already.

The first candidate is built, and loaded by a model worker that stays for the whole search. Of the next ones only the tensors
are computed that are not what the loaded model has, and are written over these. The fingerprint is made of the digests of
tensors, so it is that of the same candidate stored, and what was answered before is known of both. Where that cannot be, the
candidate is stored, and what is told of the trial says why.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from merge_assets.api.build import shard_files
from merge_assets.api.candidates import Candidates
from merge_assets.api.score import evaluate
from merge_assets.checkpoint import fingerprint_files, fingerprint_of
from merge_assets.digests import digest_of
from merge_assets.errors import EngineError, ModelWorkerError, StoreError
from merge_assets.model_worker import Limits
from merge_assets.plan import Plan, Together, rewritten, why_not_rewritten
from merge_assets.recipe import Recipe
from merge_assets.records import VariantDetails
from merge_assets.store import Artifact, FileEntry, Piece
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Workspace

if TYPE_CHECKING:
    from merge_assets.evaluation.runner import Evaluation
    from merge_assets.evaluation.session import Session, Sitting
    from merge_assets.evaluation.suite_task import Documents

_NONE = "no model is loaded that it can be made of"


@dataclass(frozen=True)
class _Changed:
    """Tensors of a candidate in a file."""

    file: Path
    names: frozenset[str]


@dataclass
class Tried:
    """A candidate that can be evaluated.

    Attributes:
        recipe: the candidate.
        plan: of the recipe.
        line: of the store of candidates.
        fingerprint: of the checkpoint that the plan describes.
        artifact: where it is stored; ``None`` if it is made of a model that is loaded.
        stored: why it is stored; empty if it is not.
        changed: the tensors that loaded models do not have; ``None`` if it is stored, or there are none.
        digests: of the bytes of its tensors, by tensor key.
        beside: digests of the other files that the fingerprint covers, by name.
    """

    recipe: Recipe
    plan: Plan
    line: str
    fingerprint: str
    artifact: Artifact | None = None
    stored: str = ""
    changed: _Changed | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes_linked(self) -> int:
        """Bytes that it shares with other candidates that are stored."""
        return 0 if self.artifact is None else self.artifact.manifest.described(VariantDetails).report.bytes_linked


class Trying:
    """Where candidates are made and evaluated, for a ``with`` block.

    Args:
        workspace: the project.
        together: which files all candidates share.
    """

    def __init__(self, workspace: Workspace, together: Together) -> None:
        self._workspace = workspace
        self._together = together
        self._candidates = Candidates(workspace)
        self._sessions: dict[str, Session] = {}
        self._held: dict[str, Tried] = {}
        """By suite the candidate that its session's model is now, of models that can be rewritten."""
        self._roots: dict[str, str] = {}
        """By suite the line of the candidate that was loaded: what it has beside the weights is used still."""
        self._why = ""
        """Why the model that was loaded last cannot be rewritten; empty if it can."""
        self._built: list[str] = []
        self._scratch: Path | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Trying:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        self._stack.close()

    def plan(self, recipe: Recipe, work: Work = UNATTENDED) -> Plan:
        """The plan of a candidate; see :meth:`~merge_assets.api.candidates.Candidates.plan`."""
        return self._candidates.plan(recipe, self._together, work)

    def make(self, recipe: Recipe, plan: Plan, line: str, work: Work = UNATTENDED) -> Tried:
        """A candidate: of a model that is loaded where that can be, else stored. It is good until the next one is made.

        Args:
            recipe: the candidate.
            plan: of it.
            line: of the store of candidates, where it is stored.
            work: asked throughout.

        Raises:
            MergeAssetsError: it cannot be built.
        """
        self._clear()
        why = self._why_stored(plan)
        if not why:
            try:
                return self._changed(recipe, plan, line, work)
            except (EngineError, ModelWorkerError, StoreError, OSError) as error:
                why = f"what changes cannot be handed over: {error}"
                self._leave()
        return self._stored(Tried(recipe, plan, line, ""), why, work)

    def evaluate(self, tried: Tried, suite: str, documents: Documents, work: Work = UNATTENDED) -> Evaluation:
        """What :func:`merge_assets.api.score.evaluate` says of a candidate.

        Args:
            tried: the candidate. It is stored after all where the loaded model is lost.
            suite: name of the suite.
            documents: of each task.
            work: asked throughout.
        """
        from merge_assets.evaluation.session import LostModelError, Sitting

        if tried.artifact is None or self._held.get(suite) is tried:
            try:
                return self._evaluated_in_memory(tried, suite, documents, work)
            except LostModelError as error:
                if tried.artifact is None:
                    self._stored(tried, str(error), work)
        assert tried.artifact is not None
        session = self._session(suite)
        self._held.pop(suite, None)
        evaluation = self._asked(tried, suite, documents, Sitting(session, _like(tried)), work)
        if session.model == tried.fingerprint:
            self._roots[suite] = tried.line
            self._why = session.why_stored(work)
            if not self._why:
                self._held[suite] = tried
            elif session.model is not None:
                session.leave(work)
        return evaluation

    def _evaluated_in_memory(self, tried: Tried, suite: str, documents: Documents, work: Work) -> Evaluation:
        session = self._session(suite)
        sitting = self._sitting(session, tried, self._held.get(suite))
        try:
            return self._asked(tried, suite, documents, sitting, work)
        finally:
            if session.model == tried.fingerprint:
                self._held[suite] = tried

    def _sitting(self, session: Session, tried: Tried, held: Tried | None) -> Sitting:
        """The sitting of a candidate that is made of what a session has loaded.

        Raises:
            LostModelError: it cannot be made of that.
        """
        from merge_assets.evaluation.session import LostModelError, Sitting

        if held is None or session.model != held.fingerprint:
            raise LostModelError(_NONE)
        needed = rewritten(held.plan, tried.plan)
        if not needed:
            return Sitting(session, _like(tried), is_loaded=True)
        if tried.changed is None or not needed <= tried.changed.names:
            raise LostModelError(_NONE)
        return Sitting(session, _like(tried), is_loaded=True, changed=tried.changed.file)

    def _asked(self, tried: Tried, suite: str, documents: Documents, sitting: Sitting, work: Work) -> Evaluation:
        cache = Path(self._workspace.cache)
        where = (
            cache / "candidates" / tried.line
            if tried.artifact is None
            else tried.artifact.directory(cache / "artifacts")
        )
        return evaluate(
            self._workspace,
            where,
            suite,
            documents=documents,
            fingerprint=tried.fingerprint,
            sitting=sitting,
            work=work,
        )

    def _session(self, suite: str) -> Session:
        from merge_assets.evaluation.runner import open_session

        if suite not in self._sessions:
            session = open_session(Limits.of(self._workspace.settings))
            self._sessions[suite] = self._stack.enter_context(session)
        return self._sessions[suite]

    def _why_stored(self, plan: Plan) -> str:
        """Why a candidate cannot be made of the models that are loaded; empty if it can."""
        self._held = {suite: one for suite, one in self._held.items() if self._sessions[suite].model == one.fingerprint}
        if not self._held:
            return self._why or _NONE
        for one in self._held.values():
            if why := why_not_rewritten(one.plan, plan):
                return f"{why} than that of the loaded model"
        # They are in a file, which may lie in memory, and in the model, whose own may be pages of its file until then.
        names = self._needed(plan)
        need = 2 * sum(tensor.nbytes for tensor in plan.tensors if tensor.name in names)
        need += int(self._workspace.settings.memory)
        free = Limits().bytes_of_memory()
        if free is not None and free < need:
            self._leave()
            return f"{need / 1e9:.3g} GB of memory are needed beside the loaded model, and {free / 1e9:.3g} GB are free"
        return ""

    def _leave(self) -> None:
        """Forget the loaded models."""
        for suite in self._held:
            self._sessions[suite].leave()
        self._held = {}

    def _needed(self, plan: Plan) -> frozenset[str]:
        """Names of the tensors of a candidate that some loaded model does not have."""
        return frozenset[str]().union(*(rewritten(one.plan, plan) for one in self._held.values()))

    def _changed(self, recipe: Recipe, plan: Plan, line: str, work: Work) -> Tried:
        names, held = self._needed(plan), list(self._held.items())
        changed = None
        known = {key: digest for _, one in held for key, digest in one.digests.items()}
        if names:
            self._scratch = self._sessions[held[0][0]].scratch(work)
            file, found = self._candidates.write(recipe, plan, names, self._scratch, work)
            changed = _Changed(file, names)
            known |= {tensor.key: found[tensor.name] for tensor in plan.tensors if tensor.name in found}
        digests, beside = {tensor.key: known[tensor.key] for tensor in plan.tensors}, held[0][1].beside
        fingerprint = fingerprint_of_plan(plan, digests, beside)
        return Tried(recipe, plan, line, fingerprint, changed=changed, digests=digests, beside=beside)

    def _stored(self, tried: Tried, why: str, work: Work) -> Tried:
        """Build a candidate; the one before the last goes, the last one lends its files to the next."""
        artifact = self._candidates.build(tried.recipe, tried.plan, tried.line, work)
        used = {*self._built[-1:], *self._roots.values(), tried.line}
        self._candidates.drop([line for line in self._built if line not in used])
        self._built = [*(line for line in self._built if line in used and line != tried.line), tried.line]
        files, shards = artifact.manifest.files, {shard.file for shard in tried.plan.shards}
        tried.beside = {name: files[name].digest for name in fingerprint_files(files, shards) if name not in shards}
        by_name = {piece.name: piece.digest for shard in shards for piece in files[shard].pieces}
        tried.digests = {tensor.key: by_name[tensor.name] for tensor in tried.plan.tensors}
        tried.fingerprint, tried.artifact, tried.stored, tried.changed = artifact.version, artifact, why, None
        return tried

    def _clear(self) -> None:
        """Remove what was handed over."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def _like(tried: Tried) -> str:
    """Digest of all that a candidate has besides weights."""
    return digest_of(json.dumps(dict(tried.beside), sort_keys=True).encode())


def fingerprint_of_plan(plan: Plan, digests: Mapping[str, str], beside: Mapping[str, str]) -> str:
    """The fingerprint of a planned checkpoint, as it is when it is stored.

    Args:
        plan: the plan.
        digests: of the bytes of its tensors, by tensor key.
        beside: digests of the other files that the fingerprint covers, by name.
    """
    files = dict(beside)
    for file in shard_files(plan):
        front = Piece("", 0, len(file.head), digest_of(file.head))
        pieces = [Piece(one.name, one.begin, one.end, digests[one.key]) for one in file.pieces]
        files[file.name] = FileEntry(size=file.size, pieces=(front, *pieces)).digest
    return fingerprint_of(files)
