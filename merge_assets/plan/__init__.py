"""A recipe resolved against the headers of its inputs: what will be computed, from what, into what."""

from merge_assets.plan.alone import check_alone
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.build import build_plan
from merge_assets.plan.checkpoint import planned_checkpoint
from merge_assets.plan.layout import index_json, index_name
from merge_assets.plan.model import NUMERICS_VERSION, OutputTensor, Plan, Shard, TensorInput
from merge_assets.plan.part import only
from merge_assets.plan.rewritten import rewritten, why_not_rewritten
from merge_assets.plan.sharing import Together

__all__ = [
    "NUMERICS_VERSION",
    "OutputTensor",
    "Plan",
    "PlanInput",
    "Shard",
    "TensorInput",
    "Together",
    "build_plan",
    "check_alone",
    "index_json",
    "index_name",
    "only",
    "planned_checkpoint",
    "rewritten",
    "why_not_rewritten",
]
