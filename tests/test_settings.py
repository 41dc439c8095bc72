"""Contract: environment over merge-assets.toml over defaults; wrong settings name where they stand; secrets stay hidden."""

from pathlib import Path

import pytest

from merge_assets.errors import SettingsError
from merge_assets.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project folder as working directory, and no settings of the machine."""
    import os

    for name in list(os.environ):
        if name.startswith("MERGE_ASSETS_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(folder: Path, text: str, name: str = "merge-assets.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def test_defaults(project):
    settings = load_settings()
    assert settings.root == project
    assert settings.recipes == [project / "recipes"] and settings.suites == [project / "suites"]
    assert settings.store_url == str(project / "var/store")
    assert settings.cache_dir == project / "var/cache"
    assert settings.executor == "multiprocess"
    assert (settings.device, settings.hub_endpoint, settings.hub_token) == ("auto", None, None)
    assert (settings.memory, settings.shard_size) == (256_000_000, 5_000_000_000)
    assert settings.threads >= 1
    assert (settings.default_suites, settings.automate, settings.enabled) == (["demo"], ["*"], [])


def test_the_file_is_found_upwards_and_its_folder_is_the_root(project, monkeypatch):
    file = toml(project, 'recipes = ["mine", "/abs"]\nthreads = 3\nmemory = "1GiB"\n[store_options]\nanon = true\n')
    below = project / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    settings = load_settings()
    assert settings.root == project
    assert settings.recipes == [project / "mine", Path("/abs")]
    assert (settings.threads, settings.memory, settings.store_options) == (3, 1 << 30, {"anon": True})
    origins = {name: origin for name, _, origin in settings.describe()}
    assert origins["threads"] == str(file) and origins["device"] == "default"
    assert origins["root"] == f"folder of {file}"


def test_environment_wins_over_the_file(project, monkeypatch):
    toml(project, 'threads = 3\ndevice = "cuda"\n')
    monkeypatch.setenv("MERGE_ASSETS_THREADS", "5")
    settings = load_settings()
    assert (settings.threads, settings.device) == (5, "cuda")
    assert ("threads", "5", "MERGE_ASSETS_THREADS") in settings.describe()


def test_keyword_arguments_win_over_the_environment(project, monkeypatch):
    monkeypatch.setenv("MERGE_ASSETS_THREADS", "5")
    assert Settings(threads=2).threads == 2
    assert Settings().threads == 5


def test_another_file_can_be_named(project, monkeypatch):
    toml(project, "threads = 3\n")
    other = toml(project / "etc", "threads = 4\n", "other.toml")
    monkeypatch.setenv("MERGE_ASSETS_CONFIG", str(other))
    assert (load_settings().threads, load_settings().root) == (4, other.parent)
    assert load_settings(project / "merge-assets.toml").threads == 3


def test_the_root_can_be_set(project, monkeypatch):
    toml(project / "etc", 'root = ".."\nsuites = ["s"]\n')
    settings = load_settings(project / "etc" / "merge-assets.toml")
    assert settings.suites[0].resolve() == project / "s"
    monkeypatch.setenv("MERGE_ASSETS_ROOT", "/srv/merges")
    assert load_settings().path("var") == Path("/srv/merges/var")


@pytest.mark.parametrize("text", ["a,b", "a, b,", '["a", "b"]'])
def test_lists_in_the_environment_are_json_or_separated_by_commas(monkeypatch, text):
    monkeypatch.setenv("MERGE_ASSETS_DEFAULT_SUITES", text)
    assert load_settings().default_suites == ["a", "b"]


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("MERGE_ASSETS_HUB_ENDPOINT", "")
    assert load_settings().hub_endpoint is None


def test_a_store_url_is_kept_and_a_folder_is_made_absolute(project, monkeypatch):
    monkeypatch.setenv("MERGE_ASSETS_STORE", "s3://bucket/prefix")
    assert load_settings().store_url == "s3://bucket/prefix"
    monkeypatch.setenv("MERGE_ASSETS_STORE", "elsewhere")
    assert load_settings().store_url == str(project / "elsewhere")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("thraeds = 3\n", "thraeds: unknown setting, did you mean 'threads'?"),
        ("zzz = 3\n", "zzz: unknown setting; known: root, recipes"),
        ("threads = 0\n", "threads: input should be greater than or equal to 1"),
        ('device = "gpu"\n', "device: 'gpu' is not one of 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ('executor = "k8s"\n', "executor: input should be 'in_process', 'multiprocess' or 'kubernetes'"),
        ('memory = "lots"\n', "memory: could not parse value and unit"),
        ("recipes = 3\n", "recipes: "),
        ("threads =\n", "line 1"),
    ],
)
def test_wrong_values_in_the_file(project, text, expected):
    file = toml(project, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{file}: ") and expected in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("MERGE_ASSETS_THRAEDS", "3", "MERGE_ASSETS_THRAEDS: unknown setting, did you mean 'MERGE_ASSETS_THREADS'?"),
        ("MERGE_ASSETS_THREADS", "many", "MERGE_ASSETS_THREADS: input should be a valid integer"),
        ("MERGE_ASSETS_STORE_OPTIONS", "{key", "MERGE_ASSETS_STORE_OPTIONS: not JSON"),
        ("MERGE_ASSETS_RECIPES", "[1", "MERGE_ASSETS_RECIPES: not JSON"),
        (
            "MERGE_ASSETS_CONFIG",
            "/none.toml",
            "/none.toml: the settings file (from MERGE_ASSETS_CONFIG) does not exist",
        ),
    ],
)
def test_wrong_values_in_the_environment(monkeypatch, variable, text, expected):
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(expected)


def test_secrets_are_never_shown(monkeypatch):
    secrets = ["hf_secret", "AKIA-secret", "shh-secret", "user:pw-secret", "deep-secret", "token-secret"]
    monkeypatch.setenv("MERGE_ASSETS_HUB_TOKEN", secrets[0])
    monkeypatch.setenv("MERGE_ASSETS_HUB_ENDPOINT", f"https://{secrets[3]}@hub.example")
    monkeypatch.setenv(
        "MERGE_ASSETS_STORE_OPTIONS",
        f'{{"key": "{secrets[1]}", "secret": "{secrets[2]}", "token": ["{secrets[5]}"], "anon": false,'
        f' "client_kwargs": {{"endpoint_url": "http://{secrets[3]}@rgw:7480", "aws_session_token": "{secrets[4]}"}}}}',
    )
    settings = load_settings()
    shown = str(settings.describe()) + repr(settings) + str(settings)
    assert not any(secret in shown for secret in secrets[:3] + secrets[4:])
    described = {name: value for name, value, _ in settings.describe()}
    assert secrets[3] not in str(described) and "rgw:7480" in described["store_options"]
    assert described["hub_token"] == "******"
    assert settings.store_secrets()["key"] == secrets[1]
    assert settings.hub_token is not None and settings.hub_token.get_secret_value() == secrets[0]


def test_a_wrong_secret_is_not_repeated_in_the_error(monkeypatch):
    monkeypatch.setenv("MERGE_ASSETS_STORE_OPTIONS", '["AKIA-secret"]')
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "AKIA-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("automate", "enabled", "name", "needs_hub", "expected"),
    [
        ("*", "", "slerp", False, True),
        ("*", "", "solar", True, False),
        ("*", "solar", "solar", True, True),
        ("*", "sol*", "solar", True, True),
        ("s*", "", "slerp", False, True),
        ("s*", "", "ties", False, False),
        ("s*", "ties", "ties", True, False),
    ],
)
def test_what_automation_may_build(monkeypatch, automate, enabled, name, needs_hub, expected):
    settings = Settings(automate=automate.split(), enabled=enabled.split())
    assert settings.is_automated(name, needs_hub) is expected


def test_every_setting_is_described_once():
    assert [name for name, _, _ in load_settings().describe()] == list(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("token", ["short", " " * 20, "a token with a\ttab", "schlüssel-mit-umlaut"])
def test_a_token_of_the_ui_that_could_be_guessed_or_not_be_sent_is_refused_and_not_repeated(monkeypatch, token):
    monkeypatch.setenv("MERGE_ASSETS_UI_TOKEN", token)
    with pytest.raises(SettingsError, match="MERGE_ASSETS_UI_TOKEN: must be 16 or more ASCII characters") as raised:
        load_settings()
    assert token not in str(raised.value)


@pytest.mark.parametrize("name", ["https://merges.example.org", "merges.example.org:8443", "a/b", "*.example.org"])
def test_names_of_the_ui_are_bare(monkeypatch, name):
    monkeypatch.setenv("MERGE_ASSETS_UI_HOSTS", f"localhost,{name}")
    with pytest.raises(SettingsError, match=r"MERGE_ASSETS_UI_HOSTS: .* is no host name"):
        load_settings()
    monkeypatch.setenv("MERGE_ASSETS_UI_HOSTS", "merges.example.org,2001:db8::1")
    assert load_settings().ui_hosts == ["merges.example.org", "2001:db8::1"]
