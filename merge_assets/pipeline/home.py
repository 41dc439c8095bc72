"""The Dagster home: the folder that holds the record of all runs, and ``dagster.yaml``, the instance's settings.

A home that we make gets the settings that lie beside this module. One that a person made is left as it is.
"""

import os
from importlib import resources
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from merge_assets.errors import SettingsError
from merge_assets.pipeline.gpu import fix_limit
from merge_assets.settings import Settings

VARIABLE = "DAGSTER_HOME"
CONFIG = "dagster.yaml"

_WANTED = {
    "run_retries": "a run that crashes is not started again",
    "run_monitoring": "a run whose process was killed keeps its state and its place in a pool",
}


def home_of(settings: Settings) -> Path:
    """The Dagster home, which may not be there yet: what ``DAGSTER_HOME`` names, else ``var/dagster`` of the project."""
    given = os.environ.get(VARIABLE)
    return Path.cwd() / Path(given).expanduser() if given else settings.path("var/dagster")


def prepare_home(settings: Settings) -> Path:
    """The Dagster home of this process and its children, made if it is missing or empty.

    Afterwards ``DAGSTER_HOME`` is the absolute path of :func:`home_of` the project, and Dagster sends no telemetry, whatever
    the home says.

    Raises:
        SettingsError: if the home is no folder, or cannot be made.
    """
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    given = os.environ.get(VARIABLE)
    home = home_of(settings)
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / CONFIG).exists() and (not given or not any(home.iterdir())):
            _write_config(home)
    except OSError as error:
        where = VARIABLE if given else "the Dagster home of this project"
        raise SettingsError(
            f"{where}: {home}: {error.strerror or error}; let {VARIABLE} name a folder that can be written"
        ) from None
    os.environ[VARIABLE] = str(home)
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The Dagster instance of :func:`prepare_home`, its pool limited as its settings say.

    Raises:
        SettingsError: if the home cannot be used, or its settings are wrong.
    """
    home = prepare_home(settings)
    try:
        # The variable stops only the sending; without this override Dagster would still write it down and say so.
        instance = dg.DagsterInstance.local_temp(str(home), overrides={"telemetry": {"enabled": False}})
        fix_limit(instance)
        return instance
    except Exception as error:  # settings of Dagster name any class, which raises what it likes
        raise SettingsError(f"{home / CONFIG}: the Dagster instance cannot be opened: {error}") from None


def open_to_read(settings: Settings) -> dg.DagsterInstance:
    """The same; where there is none yet none is made, and the answer is one that knows nothing.

    Raises:
        SettingsError: as :func:`open_instance`.
    """
    there = (home_of(settings) / CONFIG).exists()
    return open_instance(settings) if there else dg.DagsterInstance.ephemeral()


def missing_settings(home: Path) -> str | None:
    """What a person may want to add to the settings of a home of their own; ``None`` if there is nothing."""
    try:
        config: Any = yaml.safe_load((home / CONFIG).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        config = None
    found = config if isinstance(config, dict) else {}
    off = [name for name in _WANTED if not (isinstance(found.get(name), dict) and found[name].get("enabled"))]
    if not off:
        return None
    effects = "; ".join(_WANTED[name] for name in off)
    verb = "is" if len(off) == 1 else "are"
    return f"{home / CONFIG}: {' and '.join(off)} {verb} not enabled: {effects} (see {_packaged()})"


def _write_config(home: Path) -> None:
    # A second process must not read half of it.
    draft = home / f".{CONFIG}.{os.getpid()}"
    draft.write_bytes(_packaged().read_bytes())
    draft.replace(home / CONFIG)


def _packaged() -> Any:
    return resources.files(__package__) / CONFIG
