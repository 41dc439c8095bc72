"""Which executor runs the steps, as the setting ``executor`` says."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver

import dagster as dg
from dagster._core.execution.retries import RetryMode

from merge_assets.errors import SettingsError
from merge_assets.pipeline.in_process import in_process_executor
from merge_assets.pipeline.local import LocalExecutor
from merge_assets.pipeline.repeated import Retrying
from merge_assets.settings import Settings

PRELOAD_MODULE = "merge_assets.pipeline.preload"
_PRELOADED = ("dagster._core.executor.multiprocess", PRELOAD_MODULE)
"""What the process that forks steps imports first; Dagster would put its own module before ours."""

ANOTHER = "set executor to multiprocess or in_process"


def steps_at_once() -> int:
    """How many steps run at once in one run on this machine: 2 up to 8 cores, 4 above."""
    return 2 if (os.cpu_count() or 1) <= 8 else 4


def choose_executor(settings: Settings) -> dg.ExecutorDefinition:
    """The executor of every run.

    The environment is not looked at: ``KUBERNETES_SERVICE_HOST`` is set in every pod, whatever launched it.

    Raises:
        SettingsError: if it needs a package that is not installed.
    """
    if settings.executor == "kubernetes":
        return _kubernetes_executor()
    if settings.executor == "in_process":
        return in_process_executor()
    return _local_executor()


def require_launcher(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Refuse an instance whose runs the chosen executor cannot work in.

    Raises:
        SettingsError: if steps are to be pods, and the instance does not launch runs as pods.
    """
    if settings.executor == "kubernetes":
        _require_pods(instance)


def start_ahead(settings: Settings) -> None:
    """Start the process from which steps are forked, without waiting for it: its imports take seconds, in which the process of
    a run loads the definitions. A step's process has one already, and other executors need none."""
    if settings.executor == "multiprocess" and _forks() and PRELOAD_MODULE not in sys.modules:
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
        forkserver.ensure_running()


def _forks() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


def _local_executor() -> dg.ExecutorDefinition:
    """Steps as processes forked from one that has imported what they need already.

    A fresh process per step spends 4 to 5 seconds on these imports, more than a small merge takes.
    """

    def local(_: dg.InitExecutorContext) -> dg.Executor:
        return Retrying(
            LocalExecutor(
                RetryMode.ENABLED,
                steps_at_once(),
                start_method="forkserver" if _forks() else "spawn",
                explicit_forkserver_preload=_PRELOADED,
            )
        )

    return dg.ExecutorDefinition(
        name="local", requirements=dg.multiple_process_executor_requirements(), executor_creation_fn=local
    )


def _kubernetes_executor() -> dg.ExecutorDefinition:
    try:
        from dagster_k8s import k8s_job_executor
    except ImportError as error:
        raise SettingsError(
            f"executor: kubernetes needs the package dagster-k8s ({error}): pip install 'merge-assets[deploy]', "
            f"or {ANOTHER}"
        ) from None

    create = k8s_job_executor.executor_creation_fn
    assert create is not None

    def pods(context: dg.InitExecutorContext) -> dg.Executor:
        # Also for runs that the UI and the daemon make: with another launcher each step would fail for an attribute.
        _require_pods(context.instance)
        return create(context)

    return dg.ExecutorDefinition(
        name=k8s_job_executor.name,
        config_schema=k8s_job_executor.config_schema,  # type: ignore[arg-type]  # which the constructor takes as well
        requirements=dg.multiple_process_executor_requirements(),
        executor_creation_fn=pods,
    )


def _require_pods(instance: dg.DagsterInstance) -> None:
    from dagster_k8s import K8sRunLauncher

    try:
        launcher = instance.run_launcher
    except Exception as error:  # it asks the cluster for its configuration; many things can go wrong there
        raise SettingsError(
            f"executor: kubernetes works in a pod of a cluster only; this instance's run launcher cannot be made here "
            f"({error}); run it there, or {ANOTHER}"
        ) from None
    if not isinstance(launcher, K8sRunLauncher):
        raise SettingsError(
            f"executor: kubernetes needs an instance whose run launcher is K8sRunLauncher, not "
            f"{type(launcher).__name__}: give DAGSTER_HOME the dagster.yaml of the Helm release, or {ANOTHER}"
        )
