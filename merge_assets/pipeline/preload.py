"""What the process that forks step processes does before the first step, so that steps need not: import what is slow.

Nothing here touches a GPU: a CUDA context does not survive a fork.
"""

import os
from importlib import import_module

from merge_assets.extras import is_installed
from merge_assets.methods.registry import built_in_methods
from merge_assets.model_worker import prepare
from merge_assets.pipeline.executor import steps_at_once

# Steps that run side by side share the cores. OpenMP threads without a core of their own spin at every barrier, which
# made evaluations of small models a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // steps_at_once())))
# The steps report their progress themselves.
os.environ.setdefault("TQDM_DISABLE", "1")

# What every step imports: the definitions' own code, where Dagster keeps its events, and what it opens an instance and a plan
# with, which it imports when a step asks for it.
_DAGSTER = (
    *("instance.factory", "storage.event_log", "storage.local_compute_log_manager", "storage.root"),
    *("storage.sqlite_storage", "system_config.composite_descent", "workspace.autodiscovery"),
)
# What steps do, and what they say of it.
_OURS = (
    *("pipeline.location", "api", "evaluation.circumstances", "evaluation.judge"),
    *("evaluation.leaderboard", "evaluation.preflight", "evaluation.runner", "evaluation.task_index"),
)
for module in (*(f"dagster._core.{name}" for name in _DAGSTER), *(f"merge_assets.{name}" for name in _OURS), "jinja2"):
    import_module(module)
built_in_methods()
if is_installed("dagster_postgres"):
    import_module("dagster_postgres")

# Models are loaded in processes of their own, which are forked from one that the steps of a run share.
if is_installed("torch", "transformers"):
    prepare("merge_assets.variant.loading")
    if is_installed("lm_eval"):
        prepare("merge_assets.evaluation.harness")
