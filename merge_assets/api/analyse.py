"""SNR analyses, into a folder or into the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from merge_assets.api.extraction import Extraction
from merge_assets.checkpoint import Checkpoint, read_quantised
from merge_assets.errors import CheckpointError, ModelWorkerError
from merge_assets.extras import is_installed, require
from merge_assets.identity import analysis_line
from merge_assets.model_worker import Limits, ask, prepare
from merge_assets.plan import PlanInput
from merge_assets.plan.model import digest_of
from merge_assets.records import AnalysisDetails
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact, Turn
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace
from merge_assets.workspace.results import analysis_key

if TYPE_CHECKING:
    from merge_assets.analysis.result import Analysis

_PARAMETERS = "merge_assets.analysis.parameters"
"""The verb that is asked here."""

_NEEDED = ("safetensors", "threadpoolctl", "matplotlib", "PIL")
"""What an analysis imports, the last of it when all is computed."""


@dataclass(frozen=True)
class Analysed:
    """An analysis in the store.

    Attributes:
        artifact: the committed version.
        reused: whether it was there already, or another process made it meanwhile.
        changes: what computing it again changed, a sentence each; ``None`` if none was there, or it was not asked for.
        details: what was found now and what that took, of a version that was there already as well; ``None`` if reused.
    """

    artifact: Artifact
    reused: bool
    changes: tuple[str, ...] | None = None
    details: AnalysisDetails | None = None


def snr(
    workspace: Workspace,
    reference: ModelReference,
    out: Path | str,
    *,
    modules: Sequence[str] | None = None,
    top_percent: float = 50,
    spectrum_compat: bool = False,
    refresh: bool = False,
    work: Work = UNATTENDED,
) -> Analysis:
    """Analyse a model and write tables, exports and plots to a folder.

    Spectra that the folder already has for the same bytes are not computed again.

    Args:
        workspace: where models are found.
        reference: the model.
        out: output folder.
        modules: parts of tensor names, such as ``v_proj``; ``None`` is every matrix of the layers.
        top_percent: share of each module type in the axolotl export.
        spectrum_compat: in the exports, count a missing noise as 1, as Spectrum does.
        refresh: compute every spectrum, also those that the folder has.
        work: told bytes; asked throughout.
    """
    require(*_NEEDED)
    from merge_assets.analysis.run import analyse as run

    models = Models(workspace)
    # What is on the Hub is not mirrored into a bucket for the sake of a folder.
    item = models.fetch(reference, local=workspace.names.identify(reference).kind == "hub", work=work)
    weights = _Weights(workspace, models, item)
    target = Path(out)
    analysis = run(
        weights.checkpoint,
        modules=modules,
        workers=workspace.settings.threads,
        work=work,
        previous=target if not refresh and (target / "spectra.safetensors").is_file() else None,
        digests=weights.digests,
        title=workspace.names.identify(reference).title,
        extract=weights.extract,
    )
    parameters = weights.parameters(analysis, work)
    analysis.write(target, top_percent=top_percent, spectrum_compat=spectrum_compat, parameters=parameters)
    return analysis


def analyse(
    workspace: Workspace,
    reference: ModelReference,
    *,
    modules: Sequence[str] | None = None,
    commit: str | None = None,
    refresh: bool = False,
    work: Work = UNATTENDED,
) -> Analysed:
    """Analyse a model into the store, unless the store has this analysis of these bytes.

    Args:
        workspace: where to keep it.
        reference: the model.
        modules: parts of tensor names; ``None`` is every matrix of the layers.
        commit: Hub commit that an observation recorded.
        refresh: compute every spectrum, whatever the store has. What comes out becomes the current version; it is the same
            version if no figure is different.
        work: told bytes; asked throughout.
    """
    require(*_NEEDED)
    started = datetime.now(UTC)
    models = Models(workspace)
    item = models.fetch(reference, commit=commit, local=False, work=work)
    assert item.fingerprint is not None
    weights = _Weights(workspace, models, item)
    identity = workspace.names.identify(reference)
    line = analysis_line(identity)
    wanted = tuple(sorted(modules)) if modules is not None else None
    key = analysis_key(item.fingerprint, wanted)
    found = workspace.store.reuse(line, key) if refresh else None
    inputs = [models.used(str(reference), item.fingerprint)]

    def make(turn: Turn) -> Analysed:
        from merge_assets.analysis.run import analyse as run

        earlier = workspace.store.current(line)
        analysis = run(
            weights.checkpoint,
            modules=modules,
            workers=workspace.settings.threads,
            work=turn.work,
            previous=earlier.directory(workspace.cache / "artifacts") if earlier and not refresh else None,
            digests=weights.digests,
            title=identity.title,
            extract=weights.extract,
        )
        parameters = weights.parameters(analysis, turn.work)
        changed = None if found is None else _changes(found, analysis)
        with workspace.store.draft(line, started, turn=turn) as draft:
            analysis.write(draft.directory, parameters=parameters)
            details = AnalysisDetails(
                model=identity.title,
                fingerprint=item.fingerprint or "",
                modules=wanted,
                weights=len(analysis.rows),
                infinite=sum(bool(row["infinite"]) for row in analysis.rows),
                seconds=analysis.seconds,
                bytes_read=analysis.bytes_read,
                spectra_reused=analysis.reused,
                versions=analysis.versions,
            )
            artifact = draft.commit(digest_of([key, analysis.digest]), key=key, inputs=inputs, details=details)
        return Analysed(artifact, reused=False, changes=changed, details=details)

    def find() -> Analysed | None:
        there = None if refresh else workspace.store.reuse(line, key)
        return None if there is None else Analysed(there, reused=True)

    return workspace.store.once(line, key, find, make, task=f"analysing {identity.title}", work=work)[0]


class _Weights:
    """A model as its analysis reads it: files of this machine as they are, everything else through the engine.

    Attributes:
        checkpoint: headers of the weights.
        digests: of the bytes that are read, where they are known.
        extract: what reads tensors that are no ranges of files of this machine; ``None`` where all are.
    """

    def __init__(self, workspace: Workspace, models: Models, item: PlanInput) -> None:
        self._limits = Limits.of(workspace.settings)
        self._can_ask = is_installed("torch", "transformers")
        if self._can_ask:
            prepare(_PARAMETERS)  # while spectra are computed
        self.checkpoint, self.digests, self.extract = item.checkpoint, item.tensor_digests, None
        if "://" in item.checkpoint.location or _is_dequantised(item.checkpoint):
            found = Extraction(workspace, models, item)
            self.checkpoint, self.extract = found.checkpoint, found.one
            self.digests = None if found.is_quantised else item.tensor_digests

    def parameters(self, analysis: Analysis, work: Work) -> Mapping[str, Sequence[str]] | None:
        """What the stored tensors are called in the model that is trained; ``None`` where nobody can say."""
        if not self._can_ask:
            return None
        names = list(dict.fromkeys(row["source"] for row in analysis.rows))
        with TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(self.checkpoint.config), encoding="utf-8")
            try:
                found: Mapping[str, Sequence[str]] | None = ask(
                    _PARAMETERS,
                    "parameter_names",
                    {"directory": folder, "names": names},
                    self._limits,
                    limit="load",
                    work=work,
                )
            except ModelWorkerError:  # of a config that the library does not take
                return None
        return found


def _is_dequantised(checkpoint: Checkpoint) -> bool:
    """Whether its weights are quantised in a way that is read; of other ways, what is not quantised is scored."""
    try:
        return read_quantised(checkpoint) is not None
    except CheckpointError:
        return False


def _changes(before: Artifact, after: Analysis) -> tuple[str, ...]:
    """What computing an analysis again changed: figures, then the versions that the two were computed with."""
    from merge_assets.analysis.layers import TABLE
    from merge_assets.evaluation.circumstances import differing_versions

    was, now = (
        {row["tensor"]: row for row in json.loads(text)["weights"]}
        for text in (before.read_bytes(TABLE), after.figures())
    )
    changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    versions = before.manifest.described(AnalysisDetails).versions
    figures = (f"figures of {len(changed)} of {len(now)} weights: {', '.join(changed[:3])}",) if changed else ()
    return (*figures, *differing_versions(versions, after.versions))
