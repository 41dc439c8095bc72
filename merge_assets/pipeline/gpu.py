"""How steps that may use a GPU are limited and placed.

The pool limits steps that run at once on one instance (``dagster instance concurrency set gpu 1``); it does not assign
a device. The pod description is used by the Kubernetes executor only; other executors ignore it.
"""

from collections.abc import Mapping
from typing import Any

POOL = "gpu"

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
