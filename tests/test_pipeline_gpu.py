"""Contract of GPU steps: they are in the pool ``gpu``, and the pod that Kubernetes is asked for is valid and has a GPU.

Dagster accepts any ``dagster-k8s/config`` when definitions load and fails only at launch, so the pod is made here as
the Kubernetes executor makes it, and held against the API's own schema.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
from dagster_k8s import DagsterK8sJobConfig, construct_dagster_k8s_job
from dagster_k8s.job import get_user_defined_k8s_config
from kubernetes.client import ApiClient

from merge_assets.pipeline import executor
from tests.pipeline_support import MEAN, Project, project

__all__ = ["project"]  # fixture

pytestmark = pytest.mark.filterwarnings("ignore")


def pod_of(tags: Any) -> dict[str, Any]:
    job = construct_dagster_k8s_job(
        job_config=DagsterK8sJobConfig(job_image="merge-assets:test", dagster_home="/dagster"),
        args=["dagster", "api", "execute_step"],
        job_name="dagster-step-test",
        user_defined_k8s_config=get_user_defined_k8s_config(tags),
        pod_name="dagster-step-test",
        component="step_worker",
    )
    return ApiClient().sanitize_for_serialization(job)


def op_of(definitions: dg.Definitions, key: list[str]) -> dg.OpDefinition:
    return definitions.resolve_assets_def(dg.AssetKey(key)).op


@pytest.mark.parametrize("key", [["variants", "mean"], ["scores", "quick", "mean"]])
def test_merges_and_evaluations_ask_for_a_gpu(project: Project, key: list[str]) -> None:
    project.recipe("mean", f"device: cuda\n{MEAN}")
    op = op_of(project.definitions(), key) if key[0] == "variants" else op_of(_on_gpu(project), key)
    assert op.pool == "gpu"
    job = pod_of(op.tags)
    kubernetes_validate.validate(job, "1.32", strict=True)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert job["spec"]["backoffLimit"] == 0
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}


def test_a_recipe_for_the_cpu_asks_for_none(project: Project) -> None:
    project.recipe("mean", f"device: cpu\n{MEAN}")
    op = op_of(_on_gpu(project), ["variants", "mean"])
    assert op.pool is None
    job = pod_of(op.tags)
    kubernetes_validate.validate(job, "1.32", strict=True)
    assert "nvidia.com/gpu" not in job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_schema_refuses_a_misspelt_field() -> None:
    job = pod_of({})
    job["spec"]["template"]["spec"]["tolerations"] = [{"kee": "x"}]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.32", strict=True)


def test_the_executor_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert executor.choose_executor().name == "local"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert executor.choose_executor().name == "k8s"


def _on_gpu(project: Project) -> dg.Definitions:
    from merge_assets.pipeline.assemble import build_definitions
    from merge_assets.settings import Settings
    from merge_assets.sources import Workspace

    settings = Settings(root=project.root, default_suites=["quick"], device="auto")
    return build_definitions(Workspace.open(settings))
