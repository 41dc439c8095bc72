"""What computes an input that is no range of a file: a merge of a folded recipe, or a way to make an input.

There is a class for each; it is constructed with (tensor, host, room) and computed like an expression.
"""

from __future__ import annotations

from merge_assets.engine.operand import Computed, Host
from merge_assets.plan import OutputTensor
from merge_assets.plan.made import DEQUANTIZE, DORA, GATHER, LORA, TRANSPOSE, UNPACK


def nested_expression(tensor: OutputTensor, host: Host, room: int, *, whole_rows: bool, hold: bool) -> Computed:
    """An inner expression, ready to be computed; what few plans need is imported when it is needed.

    Args:
        tensor: what to compute.
        host: the worker.
        room: most elements that will be asked for at once.
        whole_rows: whether runs are whole rows.
        hold: whether stored inputs of a merge are kept in memory whole.
    """
    if tensor.method == GATHER.name:
        from merge_assets.engine.gather import Gather

        return Gather(tensor, host, room)
    if tensor.method == LORA.name:
        from merge_assets.engine.adapter import LowRankUpdate

        return LowRankUpdate(tensor, host, room)
    if tensor.method == DORA.name:
        from merge_assets.engine.adapter import Dora

        return Dora(tensor, host, room)
    if tensor.method == DEQUANTIZE.name:
        from merge_assets.engine.dequantize import Dequantized

        return Dequantized(tensor, host, room)
    if tensor.method == UNPACK.name:
        from merge_assets.engine.unpack import Unpacked

        return Unpacked(tensor, host, room)
    if tensor.method == TRANSPOSE.name:
        from merge_assets.engine.transpose import Transposed

        return Transposed(tensor, host, room)
    from merge_assets.engine.compute import CpuExpression

    return CpuExpression(tensor, host, room, whole_rows=whole_rows, hold=hold)
