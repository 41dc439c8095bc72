"""Contract: one bad recipe, suite, task or model costs itself and nothing else, whatever it is and whoever looks.

A good recipe beside a hostile neighbour is listed, planned, loaded into Dagster and its models are observed; the neighbour is
shown as broken, with words for people. `make fuzz` looks for more such neighbours.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets import regular
from merge_assets.errors import RecipeError, SettingsError, in_one_line, printable
from merge_assets.pipeline.graph import build_graph
from merge_assets.recipe import Recipe, RecipeBook
from merge_assets.settings import Settings, load_settings
from merge_assets.workspace import Workspace
from tests.fuzz.inputs import model_files, write_folder
from tests.fuzz.mutations import damaged_bytes, damaged_json
from tests.hostile import GOOD, look_beside
from tests.hostile_neighbours import NEIGHBOURS
from tests.neighbours import BODY, documents, make_special

SAID = {
    "integer of 400 digits": ("bad", "bad.yaml:3: parameters.scale: 9999"),
    "hexadecimal integer of 5000 digits": ("bad", "is a number of 5002 characters; 100 are enough"),
    "hexadecimal layers": ("bad", "is a number of 5002 characters"),
    "integer in base sixty": ("bad", "is a number of 200001 characters"),
    "model of 300 letters": ("bad", "neither a recipe, nor a local directory, nor org/name on the Hub"),
    "model of 5000 letters": ("bad", "has 5000 characters, more than a path or a name on the Hub can have"),
    "home of nobody": ("bad", "~nouser/x: there is no home folder of ~nouser; write the whole path"),
    "home of nobody as an adapter": ("bad", "there is no home folder of ~nouser"),
    "home of nobody not stored": ("bad", "there is no home folder of ~nouser"),
    "NUL in a model's folder": ("bad", "is not a model reference"),
    "keys that two models share": (None, ""),
    "a local folder of a recipe's name": (None, ""),
    "a pinned revision": (None, "base/org/model@v1.0"),
    "revisions that differ in a slash": (None, "base/org/model@a-b"),
    "Hub names that differ in a dash": (None, "base/org/a.b"),
    "model in a folder called 'my model'": (None, "base/odd/my model"),
    "folders that differ in a dash": (None, "base/good_model"),
    "5000 models": ("bad", "models: 5000 models are named; at most 256 are merged at once"),
    "diamonds of recipes that are not stored": (None, ""),
    "name with newlines": ("a_b_31m", "is not allowed"),
    "broken recipes that differ in a dash": ("a.b", "not YAML"),
    "reserved names": (None, "variants/leaderboard"),
    "long cron": ("bad", "a cron line has at most 200"),
    "hostile description": (None, ""),
    "suites of odd names": (None, ""),
    "recipe: fifo": ("bad", "cannot be read: it is a pipe, not a file"),
    "recipe: socket": ("bad", "cannot be read: it is a socket, not a file"),
    "recipe: bad.yaml": ("bad", "cannot be read: Too many levels of symbolic links"),
    "recipe: gone.yaml": ("bad", "the file does not exist"),
    "recipe: /dev/zero": ("bad", "cannot be read: it is a device, not a file"),
    "recipe: good.yaml": (None, ""),
    "name that is not UTF-8": ("bad_", "its name cannot be shown (not UTF-8, or control characters); rename it"),
    "named recipe in a folder whose name is not UTF-8": ("bad_", "its name cannot be shown"),
    "file name with newlines": ("bad_31m", "its name cannot be shown"),
    "very deep folders": ("d", "lies more than 32 folders deep; move it up"),
    "suite: fifo": ("suite-bad", "cannot be read: it is a pipe, not a file"),
    "suite: bad.yaml": ("suite-bad", "Too many levels of symbolic links"),
    "suite: hexadecimal seed": ("suite-bad", "seed: 0xff"),
    "suite: merge keys": ("suite-bad", "more than 50000 values once the aliases are expanded"),
    "suite: NUL in include_path": ("suite-bad", ""),
    "suite: include_path is everything": ("suite-bad", "name a folder with the tasks alone as include_path"),
    "task: fifo": (None, ""),
    "task: merge keys": (None, ""),
    "task: tags of all kinds": (None, ""),
    "task: data is everything": ("suite-bad", "looks through folders outside the suite's"),
    "task: data is /dev/zero": ("suite-bad", "zero: cannot be read: it is a device, not a file"),
    "task: includes a FIFO": (None, ""),
    'checkpoint: config: {"architectures": {"a": 1}}': (None, ""),
    "checkpoint: config.json is a fifo": (None, ""),
    "checkpoint: sound, with a file whose name is not UTF-8": (None, ""),
}
"""Neighbour -> what is broken and what is said of it, or an asset that there is."""

FORBIDDEN = (
    "model below a folder that may not be read",
    "model in root's folder",
    "Hub name below a folder that may not be read",
    "recipe: unreadable file",
    "unreadable folder",
    "suite: unreadable file",
    "suite: include_path may not be read",
    "suite: include_path below what may not be read",
    "task: unreadable file",
    "checkpoint: config.json is a unreadable file",
    "checkpoint: an adapter that cannot be read",
)
"""What only those see who may not read everything."""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for a project, which pytest could not remove: some neighbours lie deeper than Python can call."""
    yield tmp_path / "project"
    subprocess.run(["rm", "-rf", tmp_path / "project"], check=True)


@pytest.mark.parametrize(("neighbour", "said"), SAID.items(), ids=SAID)
def test_a_good_recipe_beside_a_hostile_neighbour(root: Path, neighbour: str, said: tuple[str | None, str]) -> None:
    seen = look_beside(root, NEIGHBOURS[neighbour])
    name, words = said
    if name is not None:
        assert words in seen.broken[name], seen.broken
    elif words:
        assert words in seen.keys, sorted(seen.keys)
    assert "\x1b" not in seen.listed + seen.complained


@pytest.mark.slow
def test_as_a_user_who_may_not_read_everything() -> None:
    """Where tests run as root, each look drops its rights first: to root, nothing is forbidden."""
    # Not among pytest's folders: they are root's alone, and every pytest that begins anywhere makes them so again.
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile", folder, *FORBIDDEN],
            env={**os.environ, "HOSTILE_SHOW": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert "let this user into its folders" in said["model below a folder that may not be read"]
    assert "cannot be listed: Permission denied" in said["unreadable folder"]


# -- neighbours that nobody thought of ---------------------------------------------------------------------------------

FULL = {
    **yaml.safe_load(GOOD),
    "base_model": "./good-model",
    "parameters": {"normalize": True, "weight": [{"filter": "mlp", "value": [0, 0.5]}, {"value": 1}]},
    "dtype": "bfloat16",
    "tokenizer": {
        "source": "union",
        "tokens": {"<s>": {"source": "./good-model", "force": True}},
        "pad_to_multiple_of": 8,
    },
    "name": "hostile",
    "description": "words",
    "group": "a/b",
    "tags": {"key": "value"},
    "owners": ["team:us", "a@example.org"],
    "seed": 1,
    "evaluate": ["sound", "bad"],
    "schedule": "0 3 * * *",
    "chat_template": "auto",
    "device": "cpu",
    "materialize": True,
}
"""A recipe with most keys that Dagster or the planner is given."""

PRUNED = {
    "merge_method": "passthrough",
    "prune_layers": {"model": "./good-model", "by": "snr", "tensor": "self_attn.v_proj", "remove": {"lowest": 1}},
}
LOADED = {
    "description": "words",
    "tasks": [{"task": "t", "metric": "acc", "shots": 0, "limit": 0.5}, {"task": "arc_easy", "metric": "acc"}],
    "include_path": "tasks",
    "seed": 1,
    "batch_size": "auto",
}
TASK = {
    "task": "t",
    "tag": ["x"],
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "include": ["common.yaml"],
    "doc_to_text": "{{x}}",
}
SOUND = {"recipes": (FULL, PRUNED), "suites": (LOADED,), "suites/tasks": (TASK,)}
NAMES = [
    "bad.yaml",
    "bad.yml",
    "a b.yaml",
    "ä.yaml",
    "x\ny.yaml",
    "-.yaml",
    "...yaml",
    "BAD.yaml",
    "d/e.yaml",
    "_x/y.yaml",
    "a.b-c_d.yaml",
]


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[str, str, bytes | str]:
    """Folder, name, and content or kind of something in a project."""
    folder = draw(st.sampled_from(["recipes", "recipes", "suites", "suites/tasks", "bad-model"]))
    if folder == "bad-model":
        files = model_files()
        name = draw(st.sampled_from(sorted(files)))
        sound = files[name]
        return folder, name, draw(damaged_json(sound) if name.endswith(".json") else damaged_bytes(sound))
    name = draw(st.sampled_from(NAMES))
    if draw(st.integers(0, 5)) == 0:
        return (
            folder,
            name,
            draw(st.sampled_from(["fifo", "folder", "/dev/zero", "..", "bad.yaml", "../good.yaml", "unreadable file"])),
        )
    sound = json.dumps(draw(st.sampled_from(SOUND[folder]))).encode()
    return folder, name, draw(damaged_json(sound) | damaged_json(sound) | damaged_bytes(sound))


@pytest.mark.slow
@settings(max_examples=50, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(neighbours(), min_size=1, max_size=3))
def test_a_good_recipe_beside_anything(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, str, bytes | str]]
) -> None:
    def put(root: Path) -> None:
        write_folder(root / "bad-model", model_files())
        (root / "recipes" / "user.yaml").write_text(BODY.replace("./good-model", "./bad-model") + "evaluate: [bad]\n")
        for folder, name, content in found:
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif not os.path.lexists(path):
                make_special(path, content)

    look_beside(tmp_path_factory.mktemp("beside") / "project", put)


# -- single rules ------------------------------------------------------------------------------------------------------


def test_what_is_replaced_by_a_pipe_while_it_is_opened_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text("x")
    os.mkfifo(pipe)
    status = file.stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: status)
    with pytest.raises(OSError, match="it is a pipe, not a file"):
        regular.open_regular(pipe)
    assert stat.S_ISREG(status.st_mode) and regular.read_regular(file, 10) == b"x"


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert regular.read_regular(tmp_path / "file", 4) == b"01234"
    assert regular.read_regular(tmp_path / "file", 10) == b"0123456789"


def test_whatever_reading_one_recipe_raises_is_an_error_of_this_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in one place: the class of every exception, and of none that ends the process."""

    def fail(raw: dict[str, object]) -> Recipe:
        if raw["name"] == "bad":
            raise KeyError("some\nkey")
        return validate(raw)

    validate = Recipe.model_validate
    monkeypatch.setattr(Recipe, "model_validate", fail)
    (tmp_path / "both.yaml").write_text(documents([f"name: bad\n{BODY}", f"name: good\n{BODY}"]))
    book = RecipeBook.load([tmp_path])
    assert list(book.recipes) == ["good"]
    assert str(book.broken[0].error) == f"{tmp_path}/both.yaml:1: cannot be read (KeyError: 'some\\nkey')"


def test_a_file_that_vanishes_between_listing_and_reading_is_a_broken_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(BODY)
    is_symlink = Path.is_symlink

    def vanish(self: Path) -> bool:
        if self.name == "a.yaml":
            self.unlink(missing_ok=True)
        return is_symlink(self)

    monkeypatch.setattr(Path, "is_symlink", vanish)
    book = RecipeBook.load([tmp_path])
    assert list(book.recipes) == ["b"] and "does not exist" in str(book.broken[0].error)


def test_an_exception_in_one_line_names_its_type_and_cannot_fail() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert in_one_line(ValueError("a\n b")) == "ValueError: a b"
    assert in_one_line(RecipeError("is wrong", file="x.yaml")) == "x.yaml: is wrong"
    assert in_one_line(KeyError()) == "KeyError"
    assert in_one_line(MuteError()) == "MuteError"
    assert len(in_one_line(ValueError("x" * 10_000))) < 400


def test_messages_hold_nothing_that_a_terminal_or_database_acts_on() -> None:
    assert printable("a\x00b\x1b[2J\ud800\u2028é\n") == "a\\x00b\\x1b[2J\\ud800\\u2028é\n"
    assert len(str(RecipeError("x" * 100_000))) < 8200


def test_a_model_keeps_its_key_and_another_of_the_same_path_gets_one_of_its_own(tmp_path: Path) -> None:
    """Inside the project, elsewhere, on the Hub, and a recipe: four models whose paths are spelled alike."""
    root = tmp_path / "project"
    (root / "recipes").mkdir(parents=True)
    (root / "recipes" / "model.yaml").write_text(BODY.replace("./good-model", "./model"))
    (root / "recipes" / "user.yaml").write_text(BODY.replace("./good-model", "model"))
    write_folder(root / "model", model_files())
    graph = build_graph(Workspace.open(Settings(root=root, default_suites=[])))
    assert [node.model.key.path for node in graph.variants] == [["variants", "model"], ["variants", "user"]]
    (base,) = graph.bases
    assert base.key.path[1].startswith("model+") and graph.broken == ()


def test_suites_that_cannot_be_read_cost_themselves_and_who_names_them(tmp_path: Path) -> None:
    seen = look_beside(tmp_path / "project", NEIGHBOURS["suite: fifo"])
    assert "scores/sound/good" in seen.keys
    assert set(seen.broken) == {"suite-bad", "user-bad"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("!fifo", "it is a pipe, not a file"),
        ("!/dev/zero", "it is a device, not a file"),
        ("!merge-assets.toml", "Too many levels"),
        (f"threads = {'9' * 5000}", "Exceeds the limit"),
        ("a = " + "[" * 100_000, "recursion"),
        ("# " + "x" * (2 << 20), "is larger than 1 MiB"),
        ('root = "~nouser/x"\nthreads = 0', "threads"),
    ],
)
def test_settings_that_cannot_be_read_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str
) -> None:
    file = tmp_path / "merge-assets.toml"
    if content.startswith("!"):
        make_special(file, content[1:])
    else:
        file.write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=says):
        load_settings()


def test_a_reference_of_the_command_line_that_is_no_path_is_one_error(tmp_path: Path) -> None:
    workspace = Workspace.open(Settings(root=tmp_path, default_suites=[]))
    for name in ("x" * 300, "a\0b", "/root/\ud800"):
        with pytest.raises(RecipeError, match="there is no recipe"):
            workspace.recipe(name)
