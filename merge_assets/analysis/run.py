"""Score the weights of a checkpoint.

Each worker thread reads one matrix at a time and computes its spectrum with one BLAS thread: LAPACK releases the
interpreter lock, and more BLAS threads than cores make every worker slower. Peak memory per worker is the stored
bytes of the largest matrix, 64 MiB of float64 block, and two Gram matrices of its short side.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from merge_assets.analysis.matrices import Matrix, select
from merge_assets.analysis.reading import OpenTensor
from merge_assets.analysis.result import Analysis
from merge_assets.analysis.snr import score
from merge_assets.analysis.spectra import singular_values
from merge_assets.analysis.storage import Spectra, identity
from merge_assets.analysis.tables import make_row
from merge_assets.checkpoint import Checkpoint, TensorHeader
from merge_assets.errors import AnalysisError
from merge_assets.filestate import not_as_digested
from merge_assets.work import UNATTENDED, Work

_POLL_SECONDS = 0.1

Extract = Callable[[str], AbstractContextManager[TensorHeader]]
"""Makes a tensor a file of its own for the length of a ``with`` block. The header's ``file`` is the absolute path."""


def analyse(
    checkpoint: Checkpoint,
    *,
    modules: Sequence[str] | None = None,
    workers: int | None = None,
    work: Work = UNATTENDED,
    previous: Path | None = None,
    digests: Mapping[str, str] | None = None,
    title: str | None = None,
    extract: Extract | None = None,
) -> Analysis:
    """Spectra and scores of a checkpoint's two-dimensional weights.

    Args:
        checkpoint: an opened checkpoint; in a local directory, unless there is ``extract``.
        modules: substrings of tensor names, such as ``v_proj``; ``None``: every matrix of every layer stack, without
            embeddings and output head.
        workers: threads; ``None``: one per CPU.
        work: told bytes done, bytes in all, and the weight just finished; asked ten times a second; both in the calling
            thread. On a stop, workers finish the matrix in hand in the background; nothing is kept.
        previous: an earlier analysis (directory, or its ``spectra.safetensors``): spectra of weights whose stored bytes
            are the same are taken from it.
        digests: tensor -> digest of its stored bytes, where known; what is read has to be that.
        title: the model's name in tables and plots; ``None``: the directory's name.
        extract: what tensors are read through whose stored bytes are not at hand, or not the weight's values.

    Raises:
        AnalysisError: no weight to score, weights with NaN or infinity, or a file that cannot be read.
        InputError: a tensor is not what ``digests`` say, or changed while it was read.
        Stopped: on request.
    """
    started = time.monotonic()
    directory = Path(checkpoint.location)
    if extract is None and not directory.is_dir():
        raise AnalysisError(f"{checkpoint.location}: not a local directory; download the checkpoint to analyse it")
    selection = select(checkpoint, modules)
    groups = [list(matrices) for _, matrices in groupby(selection.matrices, key=lambda matrix: matrix.source.name)]
    job = _Job(directory, digests or {}, Spectra(previous) if previous else None, extract)
    for group in groups:
        job.tasks.put(group)
    results: dict[str, _Result] = {}
    total, done = sum(matrix.nbytes for matrix in selection.matrices), 0
    count = max(1, min(workers or os.cpu_count() or 1, len(groups)))
    with threadpool_limits(1):
        try:
            for _ in range(count):
                threading.Thread(target=job.work, name="snr", daemon=True).start()
            while len(results) < len(selection.matrices):
                work.check(f"analysing, after {len(results)} of {len(selection.matrices)} weights")
                try:
                    result = job.results.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(result, BaseException):
                    raise result
                results[result.matrix.name] = result
                done += result.matrix.nbytes
                work.report(done, total, result.matrix.name)
        finally:
            job.stopped.set()
    ordered = [results[matrix.name] for matrix in selection.matrices]
    return Analysis(
        title=title or directory.name,
        layers=checkpoint.layer_count,
        rows=[make_row(r.matrix, score(r.spectrum, r.matrix.shape), r.identity["digest"]) for r in ordered],
        spectra={r.matrix.name: r.spectrum for r in ordered},
        identities={r.matrix.name: r.identity for r in ordered},
        notes=selection.notes,
        reused=sum(r.reused for r in ordered),
        bytes_read=sum(r.bytes_read for r in ordered),
        seconds=time.monotonic() - started,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """Of what computes singular values, which may differ in their last digits with it."""
    libraries = {
        str(library["internal_api"]): f"{library.get('version')} {library.get('architecture') or ''}".rstrip()
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return {"numpy": np.__version__, **libraries}


@dataclass(frozen=True)
class _Result:
    matrix: Matrix
    spectrum: npt.NDArray[np.float64]
    identity: Mapping[str, Any]
    reused: bool
    bytes_read: int


@dataclass
class _Job:
    """What the workers share. A task is the matrices of one stored tensor."""

    directory: Path
    digests: Mapping[str, str]
    previous: Spectra | None
    extract: Extract | None = None
    tasks: queue.SimpleQueue[list[Matrix]] = field(default_factory=queue.SimpleQueue)
    results: queue.SimpleQueue[_Result | BaseException] = field(default_factory=queue.SimpleQueue)
    stopped: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Take tasks until there are none left or the job is stopped."""
        try:
            while not self.stopped.is_set():
                self._score(self.tasks.get_nowait())
        except queue.Empty:
            return
        except BaseException as error:
            self.results.put(error)

    def _score(self, matrices: list[Matrix]) -> None:
        source = matrices[0].source
        digest = self.digests.get(source.name)
        if self.extract is None:
            self._score_stored(nullcontext(source), matrices, digest)
            return
        if digest is not None and self.previous is not None:
            identities = {matrix.name: identity(matrix, digest) for matrix in matrices}
            known = self.previous.matching(identities)
            if len(known) == len(matrices):  # nothing has to be fetched
                for matrix in matrices:
                    self.results.put(_Result(matrix, known[matrix.name], identities[matrix.name], True, 0))
                return
        self._score_stored(self.extract(source.name), matrices, digest)

    def _score_stored(
        self, stored: AbstractContextManager[TensorHeader], matrices: list[Matrix], digest: str | None
    ) -> None:
        hashed = 0
        with stored as source, OpenTensor(self.directory, source) as tensor:
            matrices = [replace(matrix, source=source) for matrix in matrices]
            if digest is None:
                digest, hashed = self._digest(tensor), source.nbytes
            identities = {matrix.name: identity(matrix, digest) for matrix in matrices}
            known = self.previous.matching(identities) if self.previous else {}
            if len(known) < len(matrices) and not hashed:
                hashed = source.nbytes
                if (found := self._digest(tensor)) != digest:
                    raise not_as_digested(f"{tensor.path}: tensor {source.name!r}", digest, found)
            found_now = []
            for matrix in matrices:
                if self.stopped.is_set():
                    return
                spectrum, read = known.get(matrix.name), 0
                if spectrum is None:
                    try:
                        spectrum, read = singular_values(tensor.matrix(matrix)), matrix.nbytes
                    except AnalysisError as error:
                        error.prefix(f"{tensor.path}: tensor {matrix.name}: ")
                        raise
                reused = matrix.name in known
                found_now.append(_Result(matrix, spectrum, identities[matrix.name], reused, hashed + read))
                hashed = 0
            tensor.check_unchanged()
        for result in found_now:
            self.results.put(result)

    def _digest(self, tensor: OpenTensor) -> str:
        return tensor.digest(Work(should_stop=self.stopped.is_set))
