"""Settings of a project: environment variables ``MERGE_ASSETS_…`` over ``merge-assets.toml`` over defaults.

The folder of ``merge-assets.toml``, found from the working directory upwards, is the project root; without such a file
the working directory is. ``MERGE_ASSETS_CONFIG`` names another file. Relative paths are relative to the root. Secrets
appear as ``******`` wherever settings are printed.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic import field_validator as validates
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from merge_assets.alert_settings import Alerts
from merge_assets.endpoint_settings import BaseUrl, ServeCommand
from merge_assets.errors import SettingsError, nearest
from merge_assets.regular import read_regular
from merge_assets.setting_types import Device, Folders, Names, Options, read_json, split_list, usable_threads
from merge_assets.shown import HIDDEN, without_credentials

CONFIG_NAME = "merge-assets.toml"
PREFIX = "MERGE_ASSETS_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
MIN_TOKEN = 16
"""Characters of the UI's token; what is shorter can be guessed."""

_LARGEST_FILE = 1 << 20
_ALERTS = "alerts_"

# Only these store options are known not to be secret; s3fs, adlfs and gcsfs name their secrets in many ways.
_OPEN_OPTIONS = frozenset(
    {
        "anon",
        "endpoint_url",
        "region_name",
        "profile",
        "project",
        "account_name",
        "use_ssl",
        "version_aware",
        "requester_pays",
    }
)
_OPEN_GROUPS = frozenset({"client_kwargs", "config_kwargs"})
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")


class Settings(BaseSettings):
    """Everything that can be set. Keyword arguments win over the environment; :func:`load_settings` adds the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, validate_default=True
    )

    root: Path = Field(default_factory=Path.cwd, description="project folder; relative paths start here")
    recipes: Folders = Field(default=[Path("recipes")], description="folders of recipes")
    suites: Folders = Field(default=[Path("suites")], description="folders of suites")
    store: str = Field(default="var/store", min_length=1, description="artifact store: folder or fsspec URL")
    store_options: Options = Field(
        default={}, repr=False, description="keyword arguments of the store's fsspec filesystem"
    )
    model_options: Annotated[dict[str, dict[str, Any]], NoDecode, BeforeValidator(read_json)] = Field(
        default={},
        repr=False,
        description="the same of models at URLs, by scheme; default: those of the store, if it has it",
    )
    device: Device = Field(default="auto", description="where merges and evaluations run")
    executor: Literal["in_process", "multiprocess", "kubernetes"] = Field(
        default="multiprocess", description="where Dagster's steps run: the run's process, processes, or pods"
    )
    threads: int = Field(
        default_factory=usable_threads, ge=1, description="worker threads; default: CPUs of this process"
    )
    memory: ByteSize = Field(default=ByteSize(256_000_000), gt=0, description="bound of the engine's buffers")
    shard_size: ByteSize = Field(default=ByteSize(5_000_000_000), gt=0, description="largest shard of a variant")
    hub_endpoint: str | None = Field(default=None, description="URL of the Hub; default: huggingface.co")
    hub_token: SecretStr | None = Field(default=None, description="token for the Hub")
    hub_cache: Path | None = Field(
        default=None, description="download cache of the Hub; default: huggingface_hub's own"
    )
    searches: str = Field(
        default="var/searches.db",
        min_length=1,
        description="trials of searches: an SQLite file, or the URL of a database as SQLAlchemy writes it",
    )
    default_suites: Names = Field(default=["demo"], description="suites of recipes without `evaluate`")
    automate: Names = Field(default=["*"], description="patterns of recipe names that automation may build")
    enabled: Names = Field(default=[], description="patterns of recipe names that may download from the Hub unasked")
    cache_dir: Path = Field(default=Path("var/cache"), description="folder of digests and downloaded artifacts")
    cache_size: ByteSize = Field(
        default=ByteSize(50_000_000_000), gt=0, description="bytes of tensors of an object store kept in the cache"
    )
    verify: Literal["full", "sampled", "off"] = Field(
        default="sampled", description="how much of what a bucket's server copies is read and compared with its digest"
    )
    verify_inputs: Literal["full", "stat", "off"] = Field(
        default="full", description="how inputs, and what is reused on a local folder, are compared with their digests"
    )
    allow_pickle: bool = Field(
        default=False, description="read local checkpoints of pickled weights (*.bin), as data only"
    )
    link_targets: Names = Field(
        default=[], description="folders outside a local checkpoint that links in it may lead to"
    )
    load_seconds: float = Field(default=600, gt=0, description="seconds that loading a model to check it may take")
    answer_seconds: float = Field(default=120, gt=0, description="seconds that generating a few tokens may take")
    silence_seconds: float = Field(
        default=1800, gt=0, description="seconds without progress after which an evaluation is ended"
    )
    model_memory: ByteSize | None = Field(
        default=None, gt=0, description="memory of a process that loads a model; default: nine tenths of what is free"
    )
    endpoint: BaseUrl | None = Field(
        default=None, description="base URL of a running server that suites of backend endpoint ask"
    )
    endpoint_model: str | None = Field(
        default=None, min_length=1, description="name that the server serves a model under; {name} is the name here"
    )
    endpoint_key: SecretStr | None = Field(default=None, description="key that the server asks for")
    endpoint_serve: ServeCommand | None = Field(
        default=None, description="command that starts a server on a model's folder, with {model} and {port}"
    )
    allow_unconfined: bool = Field(
        default=False, description="load models also where a process cannot be kept off the network"
    )

    ui_token: SecretStr | None = Field(default=None, description="token that the UI asks for")
    ui_hosts: Names = Field(default=[], description="names of the UI's server, as in a browser, without the port")
    ui_read_only: bool = Field(default=False, description="whether the UI refuses whatever changes something")

    alerts: Annotated[Alerts, NoDecode] = Field(
        default=Alerts(), repr=False, description="whom to tell that a person is needed"
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @validates("root")
    @classmethod
    def _absolute_root(cls, root: Path) -> Path:
        return Path.cwd() / _expanded(root)

    @validates("recipes", "suites")
    @classmethod
    def _absolute_folders(cls, folders: list[Path], info: ValidationInfo) -> list[Path]:
        return [_under_root(folder, info) for folder in folders]

    @validates("cache_dir", "hub_cache")
    @classmethod
    def _absolute_path(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else _under_root(path, info)

    @validates("ui_token")
    @classmethod
    def _long_token(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token else ""
        if token and (len(text) < MIN_TOKEN or text.strip() != text or not (text.isascii() and text.isprintable())):
            raise ValueError(f"must be {MIN_TOKEN} or more ASCII characters; `openssl rand -hex 32` makes one")
        return token

    @validates("endpoint_serve")
    @classmethod
    def _one_server(cls, command: str | None, info: ValidationInfo) -> str | None:
        if command is not None and info.data.get("endpoint") is not None:
            raise ValueError("is set beside endpoint; a server is running or is started, so remove one of the two")
        return command

    @validates("ui_hosts")
    @classmethod
    def _bare_names(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no host name; write it without scheme, port and path: merges.example.org"
                )
        return names

    def path(self, path: Path | str) -> Path:
        """``path`` as an absolute path, relative ones under the project root."""
        return self.root / _expanded(path)

    @property
    def store_url(self) -> str:
        """The store as an absolute folder or a URL."""
        return self.store if "://" in self.store else str(self.path(self.store))

    @property
    def searches_url(self) -> str:
        """The storage of trials as Optuna takes it."""
        return self.searches if "://" in self.searches else f"sqlite:///{self.path(self.searches)}"

    def store_secrets(self) -> dict[str, Any]:
        """The store's options with their real values, for opening it; never print them."""
        return dict(self.store_options)

    def options_of(self, url: str) -> dict[str, Any]:
        """The options with which a model's URL is opened, with their real values."""
        scheme = url.partition("://")[0]
        return dict(self.model_options.get(scheme, self.store_options if self.store.startswith(f"{scheme}://") else {}))

    def is_automated(self, recipe_name: str, needs_hub: bool) -> bool:
        """Whether automation may build a recipe without being asked.

        Args:
            recipe_name: name of the recipe.
            needs_hub: whether building it downloads from the Hub; then it must also match ``enabled``.
        """
        allowed = any(fnmatchcase(recipe_name, pattern) for pattern in self.automate)
        return allowed and (not needs_hub or any(fnmatchcase(recipe_name, pattern) for pattern in self.enabled))

    def describe(self) -> list[tuple[str, str, str]]:
        """Every setting as (name, value, where it came from), secrets hidden."""
        return [(name, self._shown(name), self._origins.get(name, "default")) for name in type(self).model_fields]

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if value is None:
            return "-"
        if isinstance(value, SecretStr):
            return HIDDEN
        if isinstance(value, ByteSize):
            return value.human_readable(decimal=True)
        if isinstance(value, list):
            return ", ".join(map(str, value)) or "-"
        if isinstance(value, Alerts):
            return (
                json.dumps(value.model_dump(mode="json", exclude_defaults=True), sort_keys=True) if value.any else "-"
            )
        if isinstance(value, dict):
            return json.dumps(_hide(value), sort_keys=True) if value else "-"
        text = self.store_url if name == "store" else str(value)
        return without_credentials(text)


def load_settings(config_file: Path | None = None) -> Settings:
    """Read the settings of the project around the working directory.

    Args:
        config_file: the TOML file; left out: ``MERGE_ASSETS_CONFIG``, or the ``merge-assets.toml`` found upwards.

    Raises:
        SettingsError: a setting is unknown or has a wrong value, or the file cannot be read.
    """
    file = find_config(config_file)
    values: dict[str, Any] = {"root": file.parent} if file else {}
    origins = dict.fromkeys(values, f"folder of {file}")
    if file:
        from_file = _read_toml(file)
        values |= from_file
        origins |= dict.fromkeys(from_file, str(file))
        if "root" in from_file:
            values["root"] = file.parent / _expanded(str(from_file["root"]))
    from_environment: dict[str, Any] = dict(_read_environment(os.environ))
    if alerts := {key: from_environment.pop(key) for key in sorted(from_environment) if key.startswith(_ALERTS)}:
        told = values.get("alerts", {})
        named = {key.removeprefix(_ALERTS): value for key, value in alerts.items()}
        if "email_to" in named:
            named["email_to"] = split_list(named["email_to"])
        from_environment["alerts"] = {**told, **named} if isinstance(told, dict) else told
    values |= from_environment
    origins |= {name: PREFIX + name.upper() for name in from_environment}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from None
    settings._origins.update(origins)
    return settings


def _expanded(path: Path | str) -> Path:
    # Where Path.expanduser raises, because there is no such user, this leaves the path as it is.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def find_config(given: Path | None = None) -> Path | None:
    """The TOML file of the project around the working directory; ``None`` if it has none.

    Raises:
        SettingsError: ``given``, or what ``MERGE_ASSETS_CONFIG`` names, does not exist.
    """
    named = given or (Path(text) if (text := os.environ.get(CONFIG_VARIABLE)) else None)
    if named is not None:
        file = Path.cwd() / _expanded(named)
        if not os.path.lexists(file):
            source = "" if given else f" (from {CONFIG_VARIABLE})"
            raise SettingsError(f"{file}: the settings file{source} does not exist")
        return file
    here = Path.cwd()
    return next(
        (folder / CONFIG_NAME for folder in (here, *here.parents) if os.path.lexists(folder / CONFIG_NAME)), None
    )


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        raw = read_regular(file, _LARGEST_FILE)
        if len(raw) > _LARGEST_FILE:
            raise SettingsError(f"{file}: is larger than {_LARGEST_FILE >> 20} MiB")
        content = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # what tomllib, UTF-8 and Python's bound on digits raise
        raise SettingsError(f"{file}: {error}") from None
    for key in content:
        if key not in Settings.model_fields:
            raise SettingsError(f"{file}: {key}: unknown setting{_close(key)}")
    return content


def _read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        name = variable.removeprefix(PREFIX).lower()
        known = name in Settings.model_fields or name.removeprefix(_ALERTS) in Alerts.model_fields
        if not known or name == "alerts":
            raise SettingsError(f"{variable}: unknown setting{_close(name, PREFIX)}")
        if text:
            found[name] = text
    return found


def _close(name: str, prefix: str = "") -> str:
    known = {word: prefix + (word.upper() if prefix else word) for word in Settings.model_fields}
    close = nearest(name, known)
    return f", did you mean {known[close]!r}?" if close is not None else f"; known: {', '.join(known.values())}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name, *rest = (str(part) for part in problem["loc"])
        origin = origins.get(name, "default")
        where = origin if origin.startswith(PREFIX) else f"{origin}: {'.'.join([name, *rest])}"
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {message[:1].lower()}{message[1:]}")
    return "\n".join(lines)


def _hide(options: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in options.items():
        if key in _OPEN_GROUPS and isinstance(value, Mapping):
            shown[key] = _hide(value)
        elif key in _OPEN_OPTIONS and isinstance(value, (str, bool, int)):
            shown[key] = without_credentials(value) if isinstance(value, str) else value
        else:
            shown[key] = HIDDEN
    return shown


def _under_root(path: Path, info: ValidationInfo) -> Path:  # a wrong root is reported by itself
    return Path(info.data.get("root", Path.cwd())) / _expanded(path)
