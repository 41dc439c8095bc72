"""The files in ``deploy/`` fit the tools that read them, the project, and each other.

Docker is not needed: compose files are held against the compose specification, ``dagster.yaml`` against Dagster's
own schemas, and the names that one file uses against the file that defines them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.config_schema import process_workspace_config

from merge_assets.settings import Settings
from tests import needs
from tests.postgres import free_port

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"
COMPOSE = DEPLOY / "docker-compose.yaml"
GPU = DEPLOY / "docker-compose.gpu.yaml"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_yaml(COMPOSE)["services"]
    return found


def stages() -> dict[str, list[list[str]]]:
    """The Dockerfile's instructions by stage, each as words, continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, list[list[str]]] = {"": []}
    stage = ""
    for words in lines:
        if words[0] == "FROM":
            stage = words[3]
            found[stage] = []
        found[stage].append(words)
    return found


def extras_of(stage: str) -> set[str]:
    (command,) = [" ".join(words) for words in stages()[stage] if "install" in words]
    return set(re.findall(r'"\.\[([\w,]+)\]"', command)[0].split(","))


# Compose


def compose_errors(path: Path) -> str:
    needs.module("check_jsonschema")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(check, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", [COMPOSE, GPU], ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path, tmp_path: Path) -> None:
    assert compose_errors(path) == "ok -- validation done\n"

    wrong = tmp_path / "docker-compose.yaml"
    content = read_yaml(path)
    next(iter(content["services"].values()))["comand"] = "typo"
    wrong.write_text(yaml.safe_dump(content))
    assert "comand" in compose_errors(wrong)


def test_the_gpu_file_adds_to_a_service_that_exists() -> None:
    assert set(read_yaml(GPU)["services"]) <= set(services())


def test_every_image_is_built_here_from_a_stage_that_exists_or_is_pinned() -> None:
    images: dict[str, str] = {}
    for name, service in services().items():
        if "build" not in service:
            assert re.fullmatch(r"[\w/.-]+:[\w.-]+", service["image"]), name
            continue
        build = service["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == PROJECT
        assert (PROJECT / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert build["target"] in stages(), name
        assert images.setdefault(service["image"], build["target"]) == build["target"]
        declared = {words[1].split("=")[0] for words in stages()[f"build-{build['target']}"] if words[0] == "ARG"}
        assert set(build.get("args", {})) <= declared


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert not any("network_mode" in service for service in services().values())


def test_the_ui_is_served_behind_its_gate_and_only_with_a_token() -> None:
    (command,) = [yaml.safe_load(" ".join(words[1:])) for words in stages()["web"] if words[0] == "CMD"]
    assert command[:2] == ["merge-assets", "ui"] and "--no-login" not in command
    assert services()["webserver"]["environment"]["MERGE_ASSETS_UI_TOKEN"].startswith("${MERGE_ASSETS_UI_TOKEN:?")
    assert not any("dagster-webserver" in str(part) for part in (services(), stages()))


def test_there_is_exactly_one_daemon_and_it_and_the_webserver_wait_for_the_others() -> None:
    daemons = [service for service in services().values() if "dagster-daemon" in service.get("command", [])]
    assert len(daemons) == 1 and daemons[0].get("deploy", {}).get("replicas", 1) == 1
    for service in services().values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"} and "healthcheck" in services()[other]
    assert set(services()["webserver"]["depends_on"]) == {"postgres", "code"}
    assert set(daemons[0]["depends_on"]) == {"postgres", "code", "webserver"}  # which sets the limits of pools


def test_volumes_are_declared_and_mounted_folders_exist() -> None:
    declared = set(read_yaml(COMPOSE)["volumes"])
    used = set()
    for service in services().values():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                assert (COMPOSE.parent / source).is_dir(), volume
                assert volume.endswith(":ro"), volume
            else:
                used.add(source)
            assert target.startswith("/")
    assert used == declared


def test_what_must_outlive_a_container_lies_on_a_volume() -> None:
    settings = dict(word.split("=", 1) for words in stages()["code"] if words[0] == "ENV" for word in words[1:])
    mounted = {volume.split(":")[1] for volume in services()["code"]["volumes"]}
    for name in ("MERGE_ASSETS_STORE", "MERGE_ASSETS_CACHE_DIR", "HF_HOME"):
        assert any(settings[name].startswith(f"{folder}/") for folder in mounted), name
    logs = read_yaml(DEPLOY / "dagster.yaml")["compute_logs"]["config"]["base_dir"]
    for name in ("code", "webserver"):
        assert any(volume.split(":")[1] == logs for volume in services()[name]["volumes"]), name


def test_variables_are_documented_known_and_not_given_here() -> None:
    text = COMPOSE.read_text()
    example = (DEPLOY / ".env.example").read_text()
    offered = set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == offered
    assert (
        re.findall(r"^(?:POSTGRES_PASSWORD|MERGE_ASSETS_\w+_(?:TOKEN|KEY)|AWS_\w+)=(.+)$", example, re.MULTILINE) == []
    )

    dockerfile = (DEPLOY / "Dockerfile").read_text()
    ours = set(re.findall(r"\bMERGE_ASSETS_([A-Z_]+)", text + example + dockerfile))
    assert {name.lower() for name in ours} <= set(Settings.model_fields)


def test_secrets_of_the_clone_are_neither_committed_nor_sent_to_the_builder() -> None:
    assert ".env" in (PROJECT / ".gitignore").read_text().split()
    rules = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n") if line[:1] not in ("#", "")]
    assert rules[0] == "*" and "!deploy" not in rules and not any(".env" in rule for rule in rules)


# Dockerfile


def test_the_dockerfile_copies_what_exists_and_what_the_ignore_file_lets_through() -> None:
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied = set()
    for instructions in stages().values():
        for words in instructions:
            if words[0] != "COPY":
                continue
            if words[1].startswith("--from="):
                assert words[1].removeprefix("--from=") in stages()
            else:
                copied.update(words[1:-1])
    assert {path for path in copied if not (PROJECT / path).exists()} == set()
    assert copied == allowed


def test_stages_build_on_stages_that_exist() -> None:
    for name, instructions in stages().items():
        if name:
            parent = instructions[0][1]
            assert parent in stages() or parent.startswith("python:"), name


def test_python_is_one_that_the_package_takes() -> None:
    (version,) = [words[1].split("=")[1] for words in stages()[""] if words[1].startswith("PYTHON=")]
    required = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert required == f">={version}"


def test_images_install_extras_that_exist_and_the_web_image_no_torch() -> None:
    extras: dict[str, list[str]] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for stage in ("build-web", "build-code"):
        assert extras_of(stage) <= set(extras)
        assert any("dagster-postgres" in wanted for extra in extras_of(stage) for wanted in extras[extra])
    web = " ".join(wanted for extra in extras_of("build-web") for wanted in extras[extra])
    assert "dagster-webserver" in web
    assert not re.search(r"torch|transformers|lm_eval|merge-assets\[", web)
    assert {"engine", "evaluation", "s3"} <= extras_of("build-code")


@pytest.mark.slow
def test_what_the_web_image_runs_imports_nothing_of_the_engine() -> None:
    absent = [
        "torch",
        "transformers",
        "safetensors",
        "tokenizers",
        "matplotlib",
        "PIL",
        "threadpoolctl",
        "lm_eval",
        "s3fs",
    ]
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport merge_assets.cli.app\n"
    code += "import merge_assets.cli.pipeline, merge_assets.pipeline.front.serve"
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_constraints_fit_any_build_of_torch() -> None:
    """``torch==X`` allows the CPU build and the CUDA build; ``torch==X+cpu`` would forbid the second."""
    pins = re.findall(r"^torch==(.*)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pins) == 1 and "+" not in pins[0]


def test_containers_do_not_run_as_root() -> None:
    for stage in ("web", "code"):
        assert ["USER", "merge"] in stages()[stage]


# Dagster


@pytest.fixture
def instance_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://dagster:x@127.0.0.1:1/dagster")
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    return tmp_path


def test_dagster_takes_the_instance_settings(instance_folder: Path) -> None:
    config, _ = dagster_instance_config(str(instance_folder))
    assert config["run_monitoring"]["enabled"] is True

    reference = InstanceRef.from_dir(str(instance_folder))
    checked = set()
    for name in dir(reference):
        data = getattr(reference, name) if name.endswith("_data") else None
        if data is not None and hasattr(data, "class_name"):
            loaded = getattr(__import__(data.module_name, fromlist=[data.class_name]), data.class_name)
            result = process_config(resolve_to_config_type(loaded.config_type()), data.config_dict)
            assert result.success, (name, result.errors)
            checked.add(data.class_name)
    assert {"HeldPostgresStorage", "LocalComputeLogManager", "QueuedRunCoordinator"} <= checked


def test_a_typo_in_the_instance_settings_would_be_found(instance_folder: Path) -> None:
    path = instance_folder / "dagster.yaml"
    path.write_text(path.read_text().replace("start_timeout_seconds", "start_timeout_secons"))

    with pytest.raises(Exception, match="start_timeout_secons"):
        dagster_instance_config(str(instance_folder))


def test_the_database_url_names_the_driver_that_is_installed() -> None:
    (url,) = {service["environment"]["DAGSTER_POSTGRES_URL"] for service in services().values() if "build" in service}
    postgres = services()["postgres"]["environment"]
    user, database = postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]
    assert url.startswith(f"postgresql+psycopg2://{user}:${{POSTGRES_PASSWORD:")
    assert url.endswith(f"}}@postgres:5432/{database}")


def test_webserver_and_daemon_find_the_code_server() -> None:
    workspace = read_yaml(DEPLOY / "workspace.yaml")
    assert process_workspace_config(workspace).success
    server = workspace["load_from"][0]["grpc_server"]
    assert server["host"] in services()

    (start,) = [" ".join(words) for words in stages()["code"] if words[0] == "CMD"]
    assert f'"--port", "{server["port"]}"' in start and '"--host", "0.0.0.0"' in start
    assert str(server["port"]) in services()[server["host"]]["healthcheck"]["test"]
    assert '"merge-assets", "code-server"' in start


# The commands, for real, on a Postgres of this machine


@pytest.mark.slow
def test_the_services_work_together(postgres: str, tmp_path: Path) -> None:
    """Code server, webserver and daemon with the shipped commands and settings; only addresses and paths differ."""
    home = tmp_path / "home"
    home.mkdir()
    settings = (DEPLOY / "dagster.yaml").read_text().replace("/opt/dagster/logs", str(home / "logs"))
    (home / "dagster.yaml").write_text(settings)
    code_port, web_port = free_port(), free_port()
    token = secrets.token_hex()
    workspace = (DEPLOY / "workspace.yaml").read_text()
    workspace = workspace.replace("host: code", "host: 127.0.0.1").replace("4000", str(code_port))
    (tmp_path / "workspace.yaml").write_text(workspace)
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "DAGSTER_POSTGRES_URL": postgres,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "MERGE_ASSETS_ROOT": str(PROJECT),
        "MERGE_ASSETS_AUTOMATE": "no-recipe-has-this-name",
        "MERGE_ASSETS_STORE": str(tmp_path / "store"),
        "MERGE_ASSETS_CACHE_DIR": str(tmp_path / "cache"),
        "MERGE_ASSETS_UI_TOKEN": token,
    }
    commands = {
        "code": yaml.safe_load(" ".join(stages()["code"][-1][1:])),
        "webserver": yaml.safe_load(" ".join(stages()["web"][-1][1:])),
        "daemon": services()["daemon"]["command"],
    }
    local = {"4000": str(code_port), "3000": str(web_port)}
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> None:
        command = [local.get(word, word) for word in commands[name]]
        with (tmp_path / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    # Dagster's services stop on SIGTERM only if SIGINT is not ignored, as it is in background jobs.
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                )
            )

    def wait(name: str, check: list[str]) -> None:
        deadline = time.monotonic() + 180
        while subprocess.run(check, env=environment, cwd=tmp_path, capture_output=True, check=False).returncode:
            assert all(one.poll() is None for one in processes), (tmp_path / f"{name}.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (tmp_path / f"{name}.log").read_text()[-3000:]
            time.sleep(0.5)

    def health(name: str) -> list[str]:
        return [
            word.replace("4000", str(code_port)).replace(":3000", f":{web_port}")
            for word in services()[name]["healthcheck"]["test"][1:]
        ]

    try:
        start("code")
        wait("code", health("code"))
        start("webserver")
        start("daemon")
        wait("webserver", health("webserver"))
        wait("daemon", health("daemon"))
        query = b'{"query": "{ assetNodes { assetKey { path } } workspaceOrError { ... on Workspace { locationEntries '
        query += b'{ loadStatus locationOrLoadError { __typename } } } } }"}'
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{web_port}/graphql", query, headers)
        answer = yaml.safe_load(urllib.request.urlopen(request, timeout=60).read())["data"]
        (entry,) = answer["workspaceOrError"]["locationEntries"]
        assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
        assert ["leaderboard"] in [node["assetKey"]["path"] for node in answer["assetNodes"]]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
