"""Steps one after another in the process of the run."""

import time

import dagster as dg
from dagster._core.execution.plan.active import ActiveExecution

WAIT_SECONDS = 0.2


def in_process_executor() -> dg.ExecutorDefinition:
    """Dagster's own in-process executor, but for how it waits for a place in a pool.

    Dagster's loop neither sleeps meanwhile nor ends for a signal: that is noted for when the next step begins, which a
    step without a place may never do.
    """
    plain = dg.in_process_executor
    create = plain.executor_creation_fn
    assert create is not None

    def stoppable(context: dg.InitExecutorContext) -> dg.Executor:
        ActiveExecution.sleep_til_ready = _wait  # type: ignore[assignment, method-assign]  # there is no other place to say it
        return create(context)

    return dg.ExecutorDefinition(
        name=plain.name,
        config_schema=plain.config_schema,  # type: ignore[arg-type]  # which the constructor takes as well
        executor_creation_fn=stoppable,
    )


def _wait(execution: ActiveExecution) -> None:
    if execution.check_for_interrupts():
        raise dg.DagsterExecutionInterruptedError
    time.sleep(WAIT_SECONDS)
