"""Contract of GPU steps: they are in the pool ``gpu``, and the pod that Kubernetes is asked for is valid and has a GPU.

Dagster accepts any ``dagster-k8s/config`` when definitions load and fails only at launch, so the pod is made here as
the Kubernetes executor makes it, and held against the API's own schema.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from merge_assets.errors import SettingsError
from merge_assets.pipeline import executor
from merge_assets.settings import Settings
from tests import needs
from tests.commands import run_command
from tests.pipeline_support import MEAN, Project, project

__all__ = ["project"]  # fixture

dagster_k8s = needs.module("dagster_k8s.job")
kubernetes = needs.module("kubernetes.client")
kubernetes_validate = needs.module("kubernetes_validate")

pytestmark = pytest.mark.filterwarnings("ignore")


def pod_of(tags: Any) -> dict[str, Any]:
    job = dagster_k8s.construct_dagster_k8s_job(
        job_config=dagster_k8s.DagsterK8sJobConfig(job_image="merge-assets:test", dagster_home="/dagster"),
        args=["dagster", "api", "execute_step"],
        job_name="dagster-step-test",
        user_defined_k8s_config=dagster_k8s.get_user_defined_k8s_config(tags),
        pod_name="dagster-step-test",
        component="step_worker",
    )
    return kubernetes.ApiClient().sanitize_for_serialization(job)


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


def test_the_executor_is_a_setting_whatever_runs_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("", "10.0.0.1"):  # that of a pod
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", variable)
        assert executor.choose_executor(Settings()).name == "local"
        assert executor.choose_executor(Settings(executor="in_process")).name == "in_process"
        assert executor.choose_executor(Settings(executor="kubernetes")).name == "k8s"


def test_steps_cannot_be_pods_of_runs_that_are_none() -> None:
    """Said to whoever starts the run, here or in the UI, and not by each step."""
    settings = Settings(executor="kubernetes")
    create = executor.choose_executor(settings).executor_creation_fn
    assert create is not None
    with dg.DagsterInstance.ephemeral() as instance:
        for ask in (
            lambda: executor.require_launcher(settings, instance),
            lambda: create(SimpleNamespace(instance=instance)),  # type: ignore[arg-type]
        ):
            with pytest.raises(
                SettingsError, match="whose run launcher is K8sRunLauncher, not SyncInMemoryRunLauncher"
            ):
                ask()
        executor.require_launcher(Settings(), instance)


@pytest.mark.slow
def test_without_its_package_the_kubernetes_executor_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "dagster_k8s.py").write_text("raise ModuleNotFoundError(\"No module named 'dagster_k8s'\")\n")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mean.yaml").write_text(MEAN)
    done = run_command(
        "build", root=tmp_path, environment={"MERGE_ASSETS_EXECUTOR": "kubernetes", "PYTHONPATH": str(tmp_path)}
    )
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == (
        "error: executor: kubernetes needs the package dagster-k8s (No module named 'dagster_k8s'): "
        "pip install 'merge-assets[deploy]', or set executor to multiprocess or in_process\n"
    )
    assert not list(tmp_path.glob("var/dagster/history/runs*"))


def _on_gpu(project: Project) -> dg.Definitions:
    from merge_assets.pipeline.assemble import build_definitions
    from merge_assets.workspace import Workspace

    settings = Settings(root=project.root, default_suites=["quick"], device="auto")
    return build_definitions(Workspace.open(settings))
