"""A retry works with the recipes of the run that it repeats, not with those of now."""

from collections.abc import Iterator
from functools import cached_property

import dagster as dg
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster._core.storage.tags import ASSET_RESUME_RETRY_TAG, RESUME_RETRY_TAG, RETRY_NUMBER_TAG

_OF_RETRIES = (RESUME_RETRY_TAG, ASSET_RESUME_RETRY_TAG, RETRY_NUMBER_TAG)
"""Tags of a run that goes on with another, by itself or by "Re-execute from failure"; one of "Re-execute all" has none."""


class Retrying(dg.Executor):
    """An executor of steps in processes of their own, which for a retry get what the first run was planned with."""

    def __init__(self, plain: dg.Executor) -> None:
        self._plain = plain

    @property
    def retries(self) -> RetryMode:
        return self._plain.retries

    @cached_property
    def step_dependency_config(self) -> StepDependencyConfig:
        return self._plain.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        planned = first_planned(plan_context.instance, plan_context.dagster_run)
        if planned is not None:
            execution_plan = execution_plan._replace(repository_load_data=planned)
            job = plan_context.reconstructable_job.with_repository_load_data(planned)
            plan_context = PlanOrchestrationContext(
                plan_context.plan_data._replace(job=job, execution_plan=execution_plan),
                plan_context.log,
                plan_context.executor,
                plan_context.output_capture,
                plan_context.resume_from_failure,
            )
        yield from self._plain.execute(plan_context, execution_plan)


def first_planned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> RepositoryLoadData | None:
    """What the run was planned with that ``run`` repeats, directly or as the retry of a retry; ``None`` if it repeats none."""
    first = run
    while first.parent_run_id is not None and any(tag in first.tags for tag in _OF_RETRIES):
        parent = instance.get_run_by_id(first.parent_run_id)
        if parent is None:  # it was deleted
            break
        first = parent
    if first is run or first.execution_plan_snapshot_id is None:
        return None
    return instance.get_execution_plan_snapshot(first.execution_plan_snapshot_id).repository_load_data
