"""The tensors of one layer of every source of a slice, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from merge_assets.architecture import LayerStack
from merge_assets.checkpoint import TensorHeader
from merge_assets.errors import PlanError
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.model import LayerSpan, SourceSpan
from merge_assets.plan.problems import plan_error
from merge_assets.plan.resolver import Assembly, ResolvedPart, ResolvedSlice
from merge_assets.recipe import Recipe

Layer = Mapping[str, TensorHeader]
"""The tensors of a layer by suffix, in file order."""


class InputLayers:
    """The layers of a plan's inputs."""

    def __init__(self, recipe: Recipe, inputs: Sequence[PlanInput], assembly: Assembly) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._assembly = assembly
        self._known: dict[tuple[int, str], list[dict[str, TensorHeader]]] = {}

    def stacks(self, model: int, part: ResolvedPart) -> tuple[LayerStack, ...]:
        """The stacks of a part of an input; a model of a single part may give layers to the main part of another."""
        checkpoint = self._inputs[model].checkpoint
        found = checkpoint.part(part.name)
        if found is None and part is self._assembly.parts[0] and checkpoint.parts:
            found = checkpoint.parts[0]
        return found.stacks if found is not None else ()

    def of(
        self, part: ResolvedPart, piece: ResolvedSlice, number: int, offset: int
    ) -> Iterator[tuple[str, list[TensorHeader | None], list[str]]]:
        """Every suffix of a layer with its tensor in each source, ``None`` where it is not there, and its name there.

        Args:
            part: of the variant.
            piece: one of its slices.
            number: which of the part's stacks.
            offset: which layer of the slice.

        Raises:
            PlanError: if a source has other stacks than the donor.
        """
        layers = [self._layer(source.model, part, piece, number, source.start + offset) for source in piece.sources]
        for suffix in dict.fromkeys(name for _, layer in layers for name in layer):
            yield suffix, [layer.get(suffix) for _, layer in layers], [prefix + suffix for prefix, _ in layers]

    def _layer(
        self, model: int, part: ResolvedPart, piece: ResolvedSlice, number: int, layer: int
    ) -> tuple[str, Layer]:
        """``(prefix, tensors)`` of one layer of an input."""
        stacks, donor = self.stacks(model, part), self.stacks(self._assembly.donor, part)
        if len(stacks) != len(donor):
            own, other = (", ".join(f"{s.prefix}*" for s in found) or "no layers" for found in (stacks, donor))
            raise self._fail(
                piece.key,
                f"{self._inputs[model].reference} has {own}, {self._inputs[self._assembly.donor].reference} has {other}; "
                "merge models of one architecture",
            )
        stack = stacks[number]
        if (model, stack.prefix) not in self._known:
            found: list[dict[str, TensorHeader]] = [{} for _ in range(stack.count)]
            for name, header in self._inputs[model].checkpoint.tensors.items():
                split = stack.split(name)
                if split is not None:
                    found[split[0]][split[1]] = header
            self._known[model, stack.prefix] = found
        return f"{stack.prefix}{layer}.", self._known[model, stack.prefix][layer]

    def _fail(self, key: str, message: str) -> PlanError:
        return plan_error(self._recipe, key, message)


def layer_spans(slices: Sequence[ResolvedSlice]) -> tuple[LayerSpan, ...]:
    """The layer map of a variant whose main part is made of these slices."""
    spans, start = [], 0
    for piece in slices:
        if piece.layers:
            sources = tuple(SourceSpan(source.model, source.start, source.end) for source in piece.sources)
            spans.append(LayerSpan(start, start + piece.layers, sources))
            start += piece.layers
    return tuple(spans)
