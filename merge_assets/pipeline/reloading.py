"""Whether recipes, suites or settings have changed, and the code server told to read them again.

Folders are looked at again and again rather than watched: that works on network file systems, too. A file that is being
written, or that cannot be read yet, is waited for. A reload starts a new code server beside the old one, which ends with
its last run.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dagster._grpc.client import DagsterGrpcClient

from merge_assets.errors import MergeAssetsError, SettingsError, StoreError
from merge_assets.evaluation.suite import load_suite
from merge_assets.evaluation.suite_files import suite_files
from merge_assets.identity import search_line
from merge_assets.recipe import Recipe
from merge_assets.recipe.files import recipe_files
from merge_assets.recipe.load import read_file
from merge_assets.regular import is_folder
from merge_assets.settings import Settings, find_config, load_settings
from merge_assets.workspace import open_store
from merge_assets.workspace.checkpoint_folders import CheckpointFolders

LOOK_SECONDS = 2.0
"""From one look to the next, and how long nothing may have changed before a reload."""

UNREADABLE_SECONDS = 15.0
"""How long a file may be wrong, as one that is half written, before it is shown as broken."""

LONGEST_SECONDS = 30.0
"""How long changes that do not end are waited for."""

AGAIN_SECONDS = 10.0
"""After a reload that failed."""

RELOAD_SECONDS = 300
"""How long the new code server may take to start."""

_MAX_TASK_FILES = 20_000

_log = logging.getLogger("dagster.merge_assets")

SEARCHES_SECONDS = 30.0
"""From one look to the next at what searches found in a store that is not a folder of this machine."""

State = tuple[int, int] | bool | str
"""Size and time of modification (ns) of a file; whether a folder is there; the version of what a search found."""


@dataclass(frozen=True)
class _Content:
    """What a file said in one state.

    Attributes:
        state: of the file.
        is_whole: whether it can be read as what it is to be.
        models: folders that would be models if they were there.
        tasks: folder of a suite's own tasks.
        texts: files that models are run on.
        averaged: folders of training runs, each with how many of its checkpoints are averaged.
        searches: lines of the store in which what searches found will lie.
    """

    state: State
    is_whole: bool
    models: frozenset[Path] = frozenset()
    tasks: Path | None = None
    texts: frozenset[Path] = frozenset()
    averaged: frozenset[tuple[str, int | None]] = frozenset()
    searches: frozenset[str] = frozenset()


class Changes:
    """What decides what there is to build, as it was when the code server read it, and now."""

    def __init__(self, settings: Settings) -> None:
        """Look at the files; to be made before the code server reads them."""
        self._settings = settings
        self._folders = CheckpointFolders(settings)
        self._contents: dict[Path, _Content] = {}
        self._store = open_store(settings)
        self._found: dict[str, tuple[float, str]] = {}
        self._read = self._files()
        self._is_first = True

    def look(self) -> dict[Path, State]:
        """Files of recipes, suites, tasks and settings, whether folders of models are there, which checkpoints are averaged,
        what searches found."""
        files = self._files()
        around: dict[Path, State] = {}
        for file, state in files.items():
            content = self._contents.get(file)
            if content is None or content.state != state:
                self._contents[file] = content = self._looked_into(file, state)
            around |= {path: is_folder(path) for path in content.models - around.keys()}
            around |= {path: found for path in content.texts if (found := _state(path)) is not None}
            for folder, last in content.averaged:
                taken = self._folders.listing(folder, last).checkpoints
                around |= {self._settings.path(reference.path): True for reference in taken}
            around |= {Path(line): found for line in content.searches if (found := self._found_by(line)) is not None}
            if content.tasks is not None:
                around |= _files_below(content.tasks)
        if self._is_first:
            self._read |= around
            self._is_first = False
        return files | around

    def changed(self, now: Mapping[Path, State]) -> list[Path]:
        """What is not as it was read, sorted."""
        return sorted(path for path in self._read.keys() | now.keys() if self._read.get(path) != now.get(path))

    def is_whole(self, path: Path) -> bool:
        """Whether what a file says can be read; one that went is."""
        content = self._contents.get(path)
        return content is None or content.is_whole or not path.exists()

    def has_read(self, now: Mapping[Path, State]) -> None:
        """The code server has read what a look found."""
        self._read = dict(now)

    def _files(self) -> dict[Path, State]:
        found = [*recipe_files(self._settings.recipes), *suite_files(self._settings.suites)]
        with suppress(SettingsError):
            config = find_config()
            found += [] if config is None else [config]
        return {path: state for path in found if (state := _state(path)) is not None}

    def _found_by(self, line: str) -> State | None:
        """What a search found, or found when it was looked at last; elsewhere than on this machine not at each look."""
        at, found = self._found.get(line, (-SEARCHES_SECONDS, ""))
        with suppress(StoreError):  # what cannot be read now is as it was
            if self._store.place.tree is not None or time.monotonic() - at >= SEARCHES_SECONDS:
                current = self._store.current(line)
                at, found = time.monotonic(), "" if current is None else current.version
        self._found[line] = at, found
        return found or None

    def _looked_into(self, file: Path, state: State) -> _Content:
        try:
            if file.suffix == ".toml":
                self._settings = load_settings()
                self._folders = CheckpointFolders(self._settings)
                self._store = open_store(self._settings)
                return _Content(state, is_whole=True)
            if file.parent in self._settings.suites:
                return _Content(state, is_whole=True, tasks=load_suite(file).tasks_dir)
        except MergeAssetsError:
            return _Content(state, is_whole=False)
        entries = read_file(file)
        recipes = [entry for entry in entries if isinstance(entry, Recipe)]
        wholes = [whole for recipe in recipes for whole in recipe.references()]
        named = {part.path for whole in wholes for part in (whole.model, whole.lora) if part is not None}
        pruned = [recipe.prune_layers for recipe in recipes if recipe.prune_layers is not None]
        texts = {template.text.file for template in pruned if template.text is not None}
        averages = [recipe.average_checkpoints for recipe in recipes if recipe.average_checkpoints is not None]
        return _Content(
            state,
            is_whole=len(recipes) == len(entries),
            models=frozenset(map(self._settings.path, named)),
            texts=frozenset(map(self._settings.path, texts)),
            averaged=frozenset((one.folder, one.last) for one in averages if one.folder is not None),
            searches=frozenset(search_line(recipe.name) for recipe in recipes if recipe.search is not None),
        )


def keep_up(changes: Changes, reload: Callable[[], None], stop: Callable[[float], bool]) -> None:
    """Reload whenever something has changed and is written out, until told to stop.

    Args:
        changes: made before the code server read the folders.
        reload: makes the code server read them again; what it raises is logged, and it is called again.
        stop: waits so many seconds; whether to stop.
    """
    last = changes.look()
    first = quiet_since = time.monotonic()
    not_before = 0.0
    while not stop(LOOK_SECONDS):
        now, at = changes.look(), time.monotonic()
        if now != last:
            last, quiet_since = now, at
        changed = changes.changed(now)
        if not changed:
            first = at
            continue
        quiet = at - quiet_since
        settled = quiet >= LOOK_SECONDS and (quiet >= UNREADABLE_SECONDS or all(map(changes.is_whole, changed)))
        if at < not_before or not (settled or at - first >= LONGEST_SECONDS):
            continue
        wrong = next((path for path in changed if path.suffix == ".toml" and not changes.is_whole(path)), None)
        if wrong is not None:
            _log.warning(f"{wrong} is wrong; what was read before stays until it is not")
            not_before = at + AGAIN_SECONDS
            continue
        try:
            reload()
        except Exception as error:  # of gRPC, of many kinds
            _log.warning(f"the code server could not be told that files have changed ({error}); it will be told again")
            not_before = at + AGAIN_SECONDS
            continue
        changes.has_read(now)
        first = at
        names = ", ".join(path.name for path in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        _log.info(f"{names}{more} changed; read again")


def reload_at(*, host: str = "localhost", port: int | None = None, socket: str | None = None) -> None:
    """Make a code server read the folders again."""
    DagsterGrpcClient(host=host, port=port, socket=socket).reload_code(timeout=RELOAD_SECONDS)


def _files_below(folder: Path) -> dict[Path, State]:
    """The files of a folder of tasks, at any depth."""
    found: dict[Path, State] = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names if not parent.endswith("__pycache__")):
            state = _state(path)
            if state is not None:
                found[path] = state
        if len(found) > _MAX_TASK_FILES:
            break
    return found


def _state(path: Path) -> State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def main(host: str, port: int) -> None:
    """Keep the code server that this process is a child of up to date, as long as it lives."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    server = os.getppid()

    def is_over(seconds: float) -> bool:
        time.sleep(seconds)
        return os.getppid() != server

    keep_up(Changes(load_settings()), lambda: reload_at(host=host, port=port), is_over)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
