"""What the layers of a model are worth on a text: measured into a folder or into the store."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.api.extraction import Extraction
from merge_assets.extras import require
from merge_assets.identity import importance_line
from merge_assets.model_worker import Limits
from merge_assets.plan import PlanInput
from merge_assets.plan.describe import human_bytes
from merge_assets.plan.model import digest_of
from merge_assets.recipe import ImportanceKind, TextSample
from merge_assets.records import ImportanceDetails
from merge_assets.reference import ModelReference
from merge_assets.store import Artifact, Turn
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace
from merge_assets.workspace.results import importance_key
from merge_assets.workspace.texts import read_sample

if TYPE_CHECKING:
    from merge_assets.analysis.importance_run import Importance

_NEEDED = ("safetensors", "torch", "transformers", "pyarrow", "matplotlib", "PIL")
_WIDTHS = {"float32": 4, "float64": 8, "bfloat16": 2}


@dataclass(frozen=True)
class ImportanceCost:
    """What a measurement takes at most; a text that is shorter takes less.

    Attributes:
        layers: of the model.
        tokens: that are used.
        passes: of a layer over all tokens: as many as the model has layers where the whole model is run once.
        operations: multiplications and additions in the layers' weights.
        scratch: bytes of the cache folder that hold hidden states, at the end of the work.
        memory: bytes of the largest layer, of what lies around the layers, and of the hidden states of one piece.
    """

    layers: int
    tokens: int
    passes: int
    operations: float
    scratch: int
    memory: int

    def __str__(self) -> str:
        times = self.passes / self.layers
        return (
            f"{self.layers} layers, at most {self.tokens} tokens: {self.passes} passes of a layer, {times:.3g} times those of "
            f"the model itself ({self.operations:.2g} operations); {human_bytes(self.scratch)} of hidden states in the cache "
            f"folder, {human_bytes(self.memory)} of memory"
        )


@dataclass(frozen=True)
class Measured:
    """A measurement in the store.

    Attributes:
        artifact: the committed version.
        reused: whether it was there already, or another process made it meanwhile.
        changes: what measuring it again changed, a sentence each; ``None`` if none was there, or it was not asked for.
    """

    artifact: Artifact
    reused: bool
    changes: tuple[str, ...] | None = None


def importance_cost(
    workspace: Workspace, reference: ModelReference, kind: ImportanceKind, sample: TextSample
) -> ImportanceCost:
    """What a measurement would take, from headers alone.

    Raises:
        MergeAssetsError: if the model or its layers cannot be found.
    """
    models = Models(workspace)
    item = models.headers(reference)
    return _cost(Extraction(workspace, models, item), item, kind, sample)


def _cost(found: Extraction, item: PlanInput, kind: ImportanceKind, sample: TextSample) -> ImportanceCost:
    from merge_assets.analysis.importance_run import LENGTH

    width, count = _WIDTHS[sample.dtype], found.stack.count
    sizes = {tensor.name: math.prod(tensor.shape) for tensor in found.plan.tensors}
    layers = [sum(sizes[name] for name in found.of_layer(layer)) for layer in range(count)]
    length = sample.length or min(LENGTH, _context(item) or LENGTH)
    hidden = next((v for _, v in _values(item, "hidden_size", "n_embd", "d_model")), 0)
    models = count + 1 if kind == "perplexity" else 1
    passes = [layer + 1 if kind == "perplexity" else 1 for layer in range(count)]
    return ImportanceCost(
        layers=count,
        tokens=sample.tokens,
        passes=sum(passes),
        operations=2.0 * sample.tokens * sum(size * times for size, times in zip(layers, passes, strict=True)),
        scratch=models * sample.tokens * hidden * width,
        memory=width * (max(layers) + sum(sizes[name] for name in found.of_layer(None)) + 2 * models * length * hidden),
    )


def _values(item: PlanInput, *keys: str) -> Iterable[tuple[str, int]]:
    config = item.checkpoint.config
    text = config.get("text_config")
    for level in (config, text if isinstance(text, dict) else {}):
        yield from ((key, level[key]) for key in keys if isinstance(level.get(key), int))


def _context(item: PlanInput) -> int | None:
    return next((value for _, value in _values(item, "max_position_embeddings", "n_positions")), None)


def importance(
    workspace: Workspace,
    reference: ModelReference,
    out: Path | str,
    kind: ImportanceKind,
    sample: TextSample,
    *,
    work: Work = UNATTENDED,
) -> Importance:
    """Measure what the layers of a model are worth, and write tables and plots to a folder.

    Args:
        workspace: where models are found.
        reference: the model.
        out: output folder.
        kind: ``activations`` (block influence and angular distances) or ``perplexity`` (every layer left out once).
        sample: the text; its file is relative to the project's folder.
        work: told passes; asked throughout.
    """
    require(*_NEEDED)
    from merge_assets.analysis.importance_files import write

    models = Models(workspace)
    # What is on the Hub is not mirrored into a bucket for the sake of a folder.
    item = models.fetch(reference, local=workspace.names.identify(reference).kind == "hub", work=work.silent())
    measured = _measured(workspace, models, item, reference, kind, sample, work)
    write(measured.record, Path(out))
    return measured


def measure_importance(
    workspace: Workspace,
    reference: ModelReference,
    kind: ImportanceKind,
    sample: TextSample,
    *,
    commit: str | None = None,
    refresh: bool = False,
    work: Work = UNATTENDED,
) -> Measured:
    """Measure what the layers of a model are worth into the store, unless the store has this measurement of these bytes.

    Args:
        workspace: where to keep it.
        reference: the model.
        kind: as :func:`importance` takes it.
        sample: the text.
        commit: Hub commit that an observation recorded.
        refresh: measure again, whatever the store has.
        work: told passes; asked throughout.
    """
    require(*_NEEDED)
    from merge_assets.analysis.importance_files import write

    started = datetime.now(UTC)
    models = Models(workspace)
    item = models.fetch(reference, commit=commit, local=False, work=work.silent())
    assert item.fingerprint is not None
    identity, text = workspace.names.identify(reference), read_sample(workspace.settings, sample)
    line = importance_line(identity, kind, sample.label)
    digest = sha256(text).hexdigest()
    key = importance_key(item.fingerprint, kind, sample, digest)
    found = workspace.store.reuse(line, key) if refresh else None
    inputs = [models.used(str(reference), item.fingerprint)]

    def make(turn: Turn) -> Measured:
        measured = _measured(workspace, models, item, reference, kind, sample, turn.work)
        with workspace.store.draft(line, started, turn=turn) as draft:
            write(measured.record, draft.directory)
            details = ImportanceDetails(
                model=identity.title,
                fingerprint=item.fingerprint or "",
                kind=kind,
                text=sample.model_dump(),
                text_digest=digest,
                tokens=measured.record.text.tokens,
                pieces=measured.record.text.pieces,
                seconds=measured.seconds,
                layers_in_memory=measured.most_loaded,
                layers_resumed=measured.resumed,
                versions=measured.versions,
                device=measured.device,
            )
            artifact = draft.commit(digest_of([key, measured.digest]), key=key, inputs=inputs, details=details)
        return Measured(artifact, reused=False, changes=None if found is None else _changes(found, measured))

    def find() -> Measured | None:
        there = None if refresh else workspace.store.reuse(line, key)
        return None if there is None else Measured(there, reused=True)

    return workspace.store.once(line, key, find, make, task=f"measuring {identity.title}", work=work)[0]


def _changes(before: Artifact, after: Importance) -> tuple[str, ...]:
    """What measuring again changed: figures, then the versions that the two were computed with."""
    from merge_assets.analysis.importance import TABLE
    from merge_assets.evaluation.circumstances import differing_versions

    was, now = (json.loads(text)["figures"] for text in (before.read_bytes(TABLE), after.figures()))
    changed = sum(one != other for one, other in zip(was, now, strict=True))
    figures = (f"{changed} of {len(now)} figures",) if changed else ()
    versions = before.manifest.described(ImportanceDetails).versions
    return (*figures, *differing_versions(versions, after.versions))


def _measured(
    workspace: Workspace,
    models: Models,
    item: PlanInput,
    reference: ModelReference,
    kind: ImportanceKind,
    sample: TextSample,
    work: Work,
) -> Importance:
    from merge_assets.analysis.importance_run import measure

    text = read_sample(workspace.settings, sample)
    found = Extraction(workspace, models, item)
    key = importance_key(item.fingerprint, kind, sample, sha256(text).hexdigest())
    # Hidden states of other versions of the libraries are not gone on with.
    own = digest_of([key, version("torch"), version("transformers"), workspace.settings.device])
    scratch = workspace.cache / "importance" / own[:32]
    model = scratch / "model"
    model.mkdir(parents=True, exist_ok=True)
    found.write_surroundings(model)

    def extract(layer: int | None, folder: Path) -> Path:
        return found.write(found.of_layer(layer), folder, "around" if layer is None else f"layer-{layer}", work)

    measured = measure(
        model,
        extract,
        title=workspace.names.identify(reference).title,
        kind=kind,
        sample=sample,
        text=text,
        context=_context(item),
        scratch=scratch,
        device=workspace.settings.device,
        limits=Limits.of(workspace.settings),
        work=work,
    )
    shutil.rmtree(scratch)
    return measured
