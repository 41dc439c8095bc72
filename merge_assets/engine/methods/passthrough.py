"""passthrough: y = x, or x·scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from merge_assets.engine.kernel import Expression, TileFunction


def passthrough(expression: Expression) -> TileFunction:
    """The only input, times ``scale`` where the recipe gives one."""
    scale = expression.optional("scale")[0]

    def tile(inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        return inputs[0] if scale is None else inputs[0].mul_(scale)

    return tile
