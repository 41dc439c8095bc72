"""Output heads that are stored beside the embedding that they are tied to: one tensor, computed once and written twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from merge_assets.architecture.anatomy import is_head
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.decisions import Decisions
from merge_assets.plan.inputs import as_input, lifted
from merge_assets.plan.model import OutputTensor


class TiedHeads:
    """Keeps the donor's tied heads equal to its embedding, or finds that they cannot be.

    Attributes:
        torn: whether a head is not what the embedding is, so that the config must not say so.
    """

    def __init__(self, inputs: Sequence[PlanInput], donor: int, decisions: Decisions) -> None:
        self._inputs = inputs
        self._donor = donor
        self._decisions = decisions
        self.torn = False

    def joined(self, drafts: Sequence[OutputTensor]) -> list[OutputTensor]:
        """The outputs with every head that is tied in the donor as the embedding is.

        Where the head has other parameters than the embedding, or a model has a head of its own, both are merged as what they
        are, and are tied no more.
        """
        checkpoint = self._inputs[self._donor].checkpoint
        shared = checkpoint.shared_embedding
        embedding = next((draft for draft in drafts if shared is not None and draft.name == shared.name), None)
        if embedding is None:
            return list(drafts)
        return [
            self._joined(draft, embedding)
            if is_head(draft.name) and draft.name in checkpoint.tensors and draft.shape == embedding.shape
            else draft
            for draft in drafts
        ]

    def _joined(self, head: OutputTensor, embedding: OutputTensor) -> OutputTensor:
        if head.is_copy and embedding.is_copy and head.inputs[0].model == embedding.inputs[0].model:
            return head
        model = self._inputs[self._donor].reference
        if not self._alike(head, embedding):
            self.torn = True
            why = f"it is merged otherwise than {embedding.name}, or a model has one of its own"
            self._decisions.add("untied", model, head.name, why)
            return head
        same = as_input(head.inputs[0].model, embedding, None, {})
        return lifted(replace(head, method="passthrough", parameters={}, inputs=(same,), base=None))

    def _alike(self, head: OutputTensor, embedding: OutputTensor) -> bool:
        pairs = list(zip(head.inputs, embedding.inputs, strict=False))
        known = len(self._inputs)
        return (
            (head.method, head.parameters, head.base) == (embedding.method, embedding.parameters, embedding.base)
            and len(head.inputs) == len(embedding.inputs)
            and all((one.model, one.parameters) == (other.model, other.parameters) for one, other in pairs)
            and all(one.model < known and self._inputs[one.model].checkpoint.tied for one in head.inputs)
        )
