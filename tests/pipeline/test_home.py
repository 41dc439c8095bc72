"""Contract of the Dagster home: made with our settings where there is none, left alone where a person made one."""

from __future__ import annotations

import os
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import yaml

from merge_assets.errors import SettingsError
from merge_assets.pipeline.home import missing_settings, open_instance, prepare_home
from merge_assets.settings import Settings
from tests.commands import run_command

REPOSITORY = Path(__file__).parents[2]
PACKAGED = resources.files("merge_assets.pipeline") / "dagster.yaml"


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a project below the working directory; what is set in the environment is put back afterwards."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "")
    monkeypatch.chdir(tmp_path)
    return Settings(root=tmp_path / "project")


def test_a_project_gets_a_home_of_its_own_with_the_packaged_settings(settings: Settings) -> None:
    home = prepare_home(settings)
    assert home == settings.root / "var" / "dagster"
    assert (home / "dagster.yaml").read_bytes() == PACKAGED.read_bytes()
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert missing_settings(home) is None
    with open_instance(settings) as instance:
        assert instance.run_retries_enabled and instance.run_monitoring_enabled and not instance.telemetry_enabled


@pytest.mark.parametrize("is_there", [False, True])
def test_a_home_that_is_missing_or_empty_is_made(
    is_there: bool, settings: Settings, tmp_path: Path, monkeypatch
) -> None:
    if is_there:
        (tmp_path / "homes" / "mine").mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", "homes/mine")
    home = prepare_home(settings)
    assert home == tmp_path / "homes" / "mine" and os.environ["DAGSTER_HOME"] == str(home)
    assert [file.name for file in home.iterdir()] == ["dagster.yaml"]
    (home / "dagster.yaml").write_text("nux: {enabled: false}\n")
    prepare_home(settings)
    assert (home / "dagster.yaml").read_text() == "nux: {enabled: false}\n"


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, "", "telemetry: {enabled: true}\nrun_retries: {enabled: false}\n"])
def test_a_home_that_a_person_made_is_left_alone_with_a_hint_and_sends_nothing(
    text: str | None, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "mine"
    (home / "history").mkdir(parents=True)
    if text is not None:
        (home / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert prepare_home(settings) == home
    assert (home / "dagster.yaml").exists() == (text is not None)
    assert text is None or (home / "dagster.yaml").read_text() == text
    hint = missing_settings(home)
    assert hint is not None and "\n" not in hint
    assert hint.startswith(f"{home / 'dagster.yaml'}: run_retries and run_monitoring are not enabled")
    assert Path(hint.rpartition(" ")[2].rstrip(")")).read_bytes() == PACKAGED.read_bytes()
    assert os.environ["DAGSTER_DISABLE_TELEMETRY"]
    with open_instance(settings) as instance:
        assert not instance.telemetry_enabled


def test_a_home_with_retries_but_no_monitoring_is_told_of_the_latter_only(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("run_retries: {enabled: true}\n")
    hint = missing_settings(tmp_path)
    assert hint is not None and ": run_monitoring is not enabled: " in hint and "run_retries" not in hint


@pytest.mark.slow
def test_a_build_works_in_a_home_by_relative_path_and_gives_the_hint_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dagster.yaml").write_text("")
    done = run_command("build", root=tmp_path, environment={"DAGSTER_HOME": "mine"})
    assert done.code == 0 and "Nothing to do" in done.stdout
    (hint,) = done.stderr.splitlines()
    assert hint.startswith(
        f"hint: {tmp_path / 'mine' / 'dagster.yaml'}: run_retries and run_monitoring are not enabled"
    )
    assert not (tmp_path / "var" / "dagster").exists()


def test_a_home_that_is_a_file_is_one_message(settings: Settings, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", "file")
    with pytest.raises(SettingsError, match=r"DAGSTER_HOME: .*/file: File exists; let DAGSTER_HOME name a folder"):
        prepare_home(settings)


@pytest.mark.parametrize("text", ["run_retries: {enabeld: true}\n", "run_retries: [\n", "storage: {postgres: {}}\n"])
def test_wrong_settings_of_a_home_name_their_file(text: str, settings: Settings, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        open_instance(settings)
    assert str(caught.value).startswith(f"{tmp_path / 'dagster.yaml'}: the Dagster instance cannot be opened: ")


def test_the_settings_are_one_file_that_wheels_contain_and_dagster_dev_finds_in_the_clone() -> None:
    packaged = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert packaged["merge_assets.pipeline"] == ["dagster.yaml"]
    assert (REPOSITORY / "dagster.yaml").resolve() == REPOSITORY / "merge_assets" / "pipeline" / "dagster.yaml"
    assert yaml.safe_load(PACKAGED.read_text())["telemetry"] == {"enabled": False}
