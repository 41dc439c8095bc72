"""Which executor runs the steps: a pod per step in Kubernetes, else a few forked processes."""

import multiprocessing
import os

import dagster as dg

PRELOAD_MODULE = "merge_assets.pipeline.preload"


def steps_at_once() -> int:
    """How many steps run at once in one run on this machine: 2 up to 8 cores, 4 above."""
    return 2 if (os.cpu_count() or 1) <= 8 else 4


def local_executor() -> dg.ExecutorDefinition:
    """Steps as processes forked from one that has imported torch, transformers and lm-eval already.

    A fresh process per step spends 4 to 5 seconds on these imports, more than a small merge takes.
    """
    start_method: dict[str, object] = {"spawn": {}}
    if "forkserver" in multiprocessing.get_all_start_methods():
        start_method = {"forkserver": {"preload_modules": [PRELOAD_MODULE]}}
    return dg.multiprocess_executor.configured(
        {"max_concurrent": steps_at_once(), "start_method": start_method}, name="local"
    )


def choose_executor() -> dg.ExecutorDefinition:
    """The Kubernetes executor inside a cluster, else the local one."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    return local_executor()
