"""What becomes of a tensor that not every model of its slice has."""

from __future__ import annotations

from collections.abc import Sequence

from merge_assets.architecture.anatomy import is_buffer, is_leftover, is_prediction, is_task_head
from merge_assets.checkpoint import TensorHeader
from merge_assets.errors import PlanError, nearest
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.decisions import Decisions
from merge_assets.plan.problems import carrying, plan_error
from merge_assets.plan.regroup import why_not_apart
from merge_assets.plan.resolver import ResolvedSlice
from merge_assets.recipe import Recipe, resolve


class Missing:
    """Decides by the recipe's ``missing``, or else by what a tensor is.

    Heads, and tables that the architecture fixes, are carried where the donor has them, and dropped where it has not: its class
    does not use them. What adapters left behind is dropped. All else is an error.
    """

    def __init__(self, recipe: Recipe, inputs: Sequence[PlanInput], donor: int, decisions: Decisions) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._donor = donor
        self._decisions = decisions
        self.has_dropped_predictions = False

    def source(
        self,
        name: str,
        read: Sequence[str],
        headers: Sequence[TensorHeader | None],
        piece: ResolvedSlice,
        *,
        beyond: bool = False,
    ) -> int | None:
        """Which source of a slice a tensor is carried from; ``None`` if it is dropped.

        Args:
            name: of the tensor in the variant.
            read: its name in each source, as that would spell it.
            headers: of the tensor in each source, ``None`` where it is not there; it is there in one at least.
            piece: the slice.
            beyond: whether it is of a layer beyond the last, which predicts further tokens.

        Raises:
            PlanError: neither is right.
        """
        place = self._place(headers, piece)
        at_donor = name in self._inputs[self._donor].checkpoint.tensors or any(
            source.model == self._donor and header is not None
            for source, header in zip(piece.sources, headers, strict=True)
        )
        is_prediction_head = beyond or is_prediction(name)
        what, choice = PREDICTION if is_prediction_head else _kind(name), None
        if self._recipe.missing is not None:
            choice = resolve(self._recipe.missing, name, 0.0)
        if choice is None and what is not None:
            choice = "carry" if at_donor and what != LEFTOVER else "drop"
        model = self._inputs[piece.sources[place].model].reference
        if choice == "carry":
            self._decisions.add("carried", model, name, f"{what or 'tensor'} that other models lack")
            return place
        if choice == "drop":
            self.has_dropped_predictions |= is_prediction_head
            self._decisions.add("dropped", model, name, f"{what or 'tensor'} that other models lack")
            return None
        raise self._lacking(read, headers, piece)

    def _place(self, headers: Sequence[TensorHeader | None], piece: ResolvedSlice) -> int:
        """The base, the donor, or the first source that has the tensor."""
        there = [place for place, header in enumerate(headers) if header is not None]
        wanted = [piece.base, *(place for place in there if piece.sources[place].model == self._donor)]
        return next((place for place in wanted if place in there), there[0])

    def _lacking(self, read: Sequence[str], headers: Sequence[TensorHeader | None], piece: ResolvedSlice) -> PlanError:
        lacking = next(place for place, header in enumerate(headers) if header is None)
        item, name = self._inputs[piece.sources[lacking].model], read[lacking]
        having = [self._inputs[s.model].reference for s, h in zip(piece.sources, headers, strict=True) if h is not None]
        others = ", ".join(map(str, dict.fromkeys(having)))
        if why := why_not_apart(item.checkpoint, name):
            message = (
                f"{item.reference} has no tensor {name}, which {others} has: it has {why}; merge models of one layout"
            )
            return plan_error(self._recipe, piece.key, message)
        close = nearest(name, item.checkpoint.tensors)
        hint = f" (closest there: {close})" if close is not None else ""
        return plan_error(
            self._recipe,
            piece.key,
            f"{item.reference} has no tensor {name}, which {others} has{hint}; list only models with the same tensors, or say "
            f"what becomes of it: {carrying(name)}, or drop",
        )


LEFTOVER = "leftover of an adapter"
PREDICTION = "head for further tokens"


def _kind(name: str) -> str | None:
    """What a tensor is of which models of one family may lack it, in words; ``None`` for all others."""
    if is_leftover(name):
        return LEFTOVER
    if is_buffer(name):
        return "table of the architecture"
    return "head" if is_task_head(name) else None
