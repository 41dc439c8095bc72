"""Tensors of a model in files of their own, a few at a time: dequantised, and fetched from a bucket one by one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from merge_assets.architecture import LayerStack
from merge_assets.checkpoint import TensorHeader
from merge_assets.errors import AnalysisError
from merge_assets.plan import Plan, PlanInput, build_plan, only, planned_checkpoint
from merge_assets.recipe import Recipe
from merge_assets.recipe.load import read_recipes
from merge_assets.variant.surroundings import write_surroundings
from merge_assets.work import UNATTENDED, Work
from merge_assets.workspace import Models, Workspace


class Extraction:
    """A model whose tensors are read through the engine.

    Attributes:
        plan: the model as it is, its tensors in float32 where it is quantised.
        is_quantised: whether stored bytes are not the values of the weights.
        checkpoint: what the plan describes: tensors and config without quantisation.
    """

    def __init__(self, workspace: Workspace, models: Models, item: PlanInput) -> None:
        """Plan it.

        Raises:
            PlanError: it is quantised in a way that is not read.
        """
        self._workspace = workspace
        self._models = models
        self._recipe = _as_it_is(item, quantised=False)
        self.plan: Plan = build_plan(self._recipe, [item])
        self.is_quantised = any(part.nested is not None for tensor in self.plan.tensors for part in tensor.inputs)
        if self.is_quantised:
            self._recipe = _as_it_is(item, quantised=True)
            self.plan = build_plan(self._recipe, [item])
        self.checkpoint = planned_checkpoint(self.plan, workspace.stored.read)
        self._item = item
        self._scratch = workspace.cache / "extracted"
        self._scratch.mkdir(parents=True, exist_ok=True)

    @property
    def stack(self) -> LayerStack:
        """The decoder layers.

        Raises:
            AnalysisError: the model has no numbered layers.
        """
        parts = self._item.checkpoint.parts
        if not parts or not parts[0].stacks:
            raise AnalysisError(f"{self._item.reference}: has no numbered layers")
        return parts[0].stacks[0]

    def write_surroundings(self, directory: Path) -> None:
        """Config and tokenizer, without weights."""
        write_surroundings(self.plan, self._recipe, directory, self._workspace.stored.read)

    def of_layer(self, layer: int | None) -> list[str]:
        """Names of the tensors of a layer; of those around the layers for ``None``, without layers of other parts."""
        if layer is not None:
            return [t.name for t in self.plan.tensors if (found := self.stack.split(t.name)) and found[0] == layer]
        others = [stack for part in self._item.checkpoint.parts[1:] for stack in part.stacks]
        stacks = (self.stack, *others)
        return [t.name for t in self.plan.tensors if not any(s.split(t.name) or s.split_tail(t.name) for s in stacks)]

    @contextmanager
    def one(self, name: str) -> Iterator[TensorHeader]:
        """A tensor in a file of its own, which goes at the end of the ``with`` block; from any thread."""
        with TemporaryDirectory(dir=self._scratch, prefix="tensor-") as folder:
            file = self.write([name], Path(folder), "one", threads=1)
            (shard,) = only(self.plan, [name], "one").tensors
            yield TensorHeader(name, shard.dtype, shard.shape, str(file), shard.begin, shard.end)

    def write(
        self,
        names: Collection[str],
        folder: Path,
        stem: str,
        work: Work = UNATTENDED,
        *,
        threads: int | None = None,
    ) -> Path:
        """Tensors into the file ``stem.safetensors`` of a folder, which replaces one that is there.

        Args:
            names: of the tensors.
            folder: where the file goes.
            stem: its name.
            work: asked throughout.
            threads: default: the setting.

        Raises:
            InputError: what is read is not what was digested.
            EngineError: something cannot be read or written.
            Stopped: on request.
        """
        from merge_assets.engine.execute import execute

        settings = self._workspace.settings
        part = only(self.plan, names, stem)
        file = folder / part.shards[0].file
        file.unlink(missing_ok=True)
        execute(
            part,
            folder,
            device="cpu",
            threads=threads or settings.threads,
            memory=int(settings.memory),
            work=work.silent(),
            allow_nonfinite=True,
            inputs=self._workspace.stored.inputs(self._models.local.digested_states),
            verify=settings.verify_inputs,
        )
        return file


def _as_it_is(item: PlanInput, *, quantised: bool) -> Recipe:
    dtype = "dtype: float32\n" if quantised else ""
    text = f"merge_method: passthrough\n{dtype}models: [{{model: {json.dumps(str(item.reference))}}}]\n"
    read = read_recipes(text, Path("analysis.yaml"), "analysis")[0]
    assert isinstance(read, Recipe)
    return read
