"""How steps that may use a GPU are limited and placed.

The pool limits steps that run at once on one instance (``concurrency.pools.default_limit`` of its settings, or
``dagster instance concurrency set gpu 1``); it does not assign a device. The pod description is used by the Kubernetes
executor only; other executors ignore it.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

POOL = "gpu"
_OURS = f"merge_assets/limit_of_pool/{POOL}"
"""Under this key an instance has the limit that :func:`fix_limit` wrote, to be told from one that a person set."""

_SCRATCH_VOLUME = {
    "name": "scratch",
    "ephemeral": {
        "volume_claim_template": {
            "spec": {"access_modes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "200Gi"}}}
        }
    },
}

# A job that is killed is started again by Dagster's run retries, which keep finished steps, so Kubernetes must not
# repeat it; the grace period lets the engine stop between two tiles and remove its draft.
_POD_COMMON: dict[str, Any] = {"job_spec_config": {"ttl_seconds_after_finished": 86400, "backoff_limit": 0}}

GPU_POD: dict[str, Any] = {
    "container_config": {
        "resources": {
            "requests": {"cpu": "8", "memory": "96Gi"},
            "limits": {"memory": "96Gi", "nvidia.com/gpu": "1"},
        },
        "volume_mounts": [{"name": "scratch", "mount_path": "/scratch"}],
    },
    "pod_spec_config": {
        "termination_grace_period_seconds": 120,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [_SCRATCH_VOLUME],
    },
    **_POD_COMMON,
}

CPU_POD: dict[str, Any] = {
    "container_config": {
        "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "32Gi"}},
        "volume_mounts": [{"name": "scratch", "mount_path": "/scratch"}],
    },
    "pod_spec_config": {"termination_grace_period_seconds": 120, "volumes": [_SCRATCH_VOLUME]},
    **_POD_COMMON,
}


def wants_gpu(device: str) -> bool:
    """True for ``auto``, ``cuda`` and ``cuda:N``: ``auto`` takes a GPU where there is one, so it must be given one."""
    return device != "cpu"


def pool(device: str) -> str | None:
    """Pool of a heavy step that computes on ``device``."""
    return POOL if wants_gpu(device) else None


def op_tags(device: str) -> Mapping[str, Any]:
    """Op tags of a heavy step that computes on ``device``: its kind of accelerator and its pod."""
    if wants_gpu(device):
        return {"accelerator": "gpu", "dagster-k8s/config": GPU_POD}
    return {"accelerator": "none", "dagster-k8s/config": CPU_POD}


def fix_limit(instance: dg.DagsterInstance) -> None:
    """Write the default limit of the instance's settings down as the pool's own; one that a person set stays.

    Left to itself, Dagster makes the pool of the first step that asks for it. On Postgres that fails when two ask at once,
    and for ever once the default has changed: the insert breaks the transaction in which it would be made up for.
    """
    storage, cursors = instance.event_log_storage, instance.daemon_cursor_storage
    if not storage.supports_global_concurrency_limits:
        return
    default = storage.get_pool_config().default_pool_limit
    limit = next((pool for pool in storage.get_pool_limits() if pool.name == POOL), None)
    ours = cursors.get_cursor_values({_OURS}).get(_OURS)
    if limit is not None and not limit.from_default and str(limit.limit) != ours:
        return
    if default is None:
        if limit is not None:
            storage.delete_concurrency_limit(POOL)
    elif limit is None or limit.from_default or limit.limit != default:
        try:
            storage.set_concurrency_slots(POOL, default)
        except Exception:  # of the database, which may be any: another process may just have written it
            if all(pool.name != POOL for pool in storage.get_pool_limits()):
                raise
        cursors.set_cursor_values({_OURS: str(default)})
