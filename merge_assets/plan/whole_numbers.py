"""Tensors that hold no floating point: they are carried where all models agree on them."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.architecture.anatomy import is_buffer
from merge_assets.checkpoint import TensorHeader, table_digest
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.decisions import Decisions
from merge_assets.plan.made import StoredTensor
from merge_assets.plan.problems import carrying, plan_error
from merge_assets.plan.resolver import ResolvedSlice
from merge_assets.recipe import Recipe, resolve

COMPUTABLE = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes that take part in arithmetic; others are only copied."""


class WholeNumbers:
    """Decides where a tensor comes from that no arithmetic is for."""

    def __init__(self, recipe: Recipe, inputs: Sequence[PlanInput], decisions: Decisions) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._decisions = decisions

    def source(self, name: str, headers: Sequence[TensorHeader], piece: ResolvedSlice) -> int | None:
        """Which source of a slice it is carried from; ``None`` for tensors that can be merged, or that are not alike.

        Args:
            name: of the tensor in the variant.
            headers: of the tensor in each source.
            piece: the slice.

        Raises:
            PlanError: if the models have different ones.
        """
        dtypes = {header.dtype for header in headers}
        if dtypes & COMPUTABLE or len(dtypes) > 1:
            return None
        place = piece.base or 0
        model = self._inputs[piece.sources[place].model].reference
        if is_buffer(name):
            self._decisions.add("carried", model, name, "table of the architecture, not a weight")
            return place
        if self._recipe.missing is not None and resolve(self._recipe.missing, name, 0.0) == "carry":
            self._decisions.add("carried", model, name, "as the recipe says")
            return place
        digests = [self._digest(s.model, h) for s, h in zip(piece.sources, headers, strict=True)]
        known = set(digests) - {None}
        if len(known) > 1:
            models = ", ".join(str(self._inputs[source.model].reference) for source in piece.sources)
            raise plan_error(
                self._recipe,
                piece.key,
                f"tensor {name} holds whole numbers ({headers[0].dtype}), which differ in {models} and cannot be averaged; "
                f"to take those of {model}: {carrying(name)}",
            )
        why = "whole numbers, the same in all models"
        if None in digests and len(headers) > 1:
            why = "whole numbers, if the same in all models: their bytes have not been read yet"
        self._decisions.add("carried", model, name, why)
        return place

    def _digest(self, model: int, header: TensorHeader) -> str | None:
        """Of the bytes, if it is known."""
        item = self._inputs[model]
        origin = item.made.origins.get(header.name, StoredTensor(header))
        if not isinstance(origin, StoredTensor) or origin.of_adapter or item.folded is not None:
            return None
        if item.tensor_digests is not None:
            return item.tensor_digests.get(origin.header.name)
        return table_digest(item.checkpoint, origin.header)
