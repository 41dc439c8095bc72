"""A version says from which bytes it was made, and that is true: whatever happens to inputs and to the store meanwhile."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.checkpoint import digest_checkpoint, open_checkpoint
from merge_assets.errors import CheckpointError, InputError
from merge_assets.settings import Settings
from merge_assets.work import Work
from tests.synthetic import read_tensors, write_project

SLERP = "merge_method: slerp\nmodels: [{model: b}]\nbase_model: a\nparameters: {t: 0.25}\n"
LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
CHILD = "merge_method: linear\nmodels: [{model: parent}, {model: b}]\nparameters: {weight: 1}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


def build(root: Path, name: str, text: str | None = None, work: Work | None = None, **settings: object) -> api.Built:
    if text is not None:
        (root / "recipes" / f"{name}.yaml").write_text(text)
    space = api.Workspace.open(Settings(root=root, **settings))  # type: ignore[arg-type]
    return api.build(space, space.recipe(name), work=work or Work())


def shard(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def spoil(file: Path, *, step: int = 1) -> None:
    """Flip the signs of the last elements; the time of modification stays."""
    before = file.stat()
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    for at in range(len(data) - 1, len(data) - 4000, -2 * step):
        data[at] ^= 0x80
    with file.open("r+b") as opened:  # the file stays the same one
        opened.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def at_byte(done_from: int, action: Callable[[], None]) -> Work:
    """Work that does something once, when so many bytes were read."""
    once: Iterator[Callable[[], None]] = iter([action])

    def report(done: int, total: int, label: str) -> None:
        if done >= done_from and total > done_from:
            next(once, lambda: None)()

    return Work(report)


def recorded(built: api.Built, name: str) -> str:
    return built.artifact.manifest.fingerprints[name]


def fingerprint(folder: Path) -> str:
    return digest_checkpoint(open_checkpoint(folder)).fingerprint


def test_other_bytes_with_the_size_and_the_times_of_the_old_ones_are_other_bytes(project: Path) -> None:
    """As `cp -p` and `rsync -t` leave them; the inode is the same, too."""
    first, old = build(project, "mean", LINEAR), shard(project / "a")
    times = old.stat()
    shutil.copyfile(shard(project / "c"), old)
    os.utime(old, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (old.stat().st_ino, old.stat().st_size, old.stat().st_mtime_ns) == (
        times.st_ino,
        times.st_size,
        times.st_mtime_ns,
    )
    second = build(project, "mean")
    assert not second.reused
    assert recorded(second, "a") == fingerprint(project / "a") == fingerprint(project / "c") != recorded(first, "a")


@pytest.mark.parametrize("at", range(1, 13))
def test_a_shard_that_is_replaced_at_any_moment_counts_as_what_was_read_of_it(at: int, project: Path) -> None:
    """What is published was computed from what is recorded, whether the new file came before or after it was opened."""
    states = {}
    for name in "ac":
        shutil.copytree(project / "a", project / f"with-{name}")
        shutil.copyfile(shard(project / name), shard(project / f"with-{name}"))
        states[fingerprint(project / f"with-{name}")] = project / f"with-{name}"
    new = project / "new.safetensors"
    shutil.copyfile(shard(project / "c"), new)
    asked = itertools.count(1)

    def replaced() -> bool:
        if next(asked) == at:
            new.replace(shard(project / "a"))
        return False

    try:
        built = build(project, "mean", LINEAR, Work(should_stop=replaced))
    except (InputError, CheckpointError) as error:
        assert str(project / "a") in str(error)
        built = build(project, "mean")
    shutil.rmtree(project / "var")
    shutil.rmtree(project / "a")
    states[recorded(built, "a")].rename(project / "a")
    assert build(project, "mean").artifact.version == built.artifact.version


@pytest.mark.parametrize("recipe", [LINEAR, SLERP])
def test_what_is_published_while_an_input_is_written_over_is_made_of_what_is_recorded(
    recipe: str, project: Path
) -> None:
    """Either nothing is published, or what was read before the change is what is recorded, and gives the same version."""
    target = shard(project / "a")
    shutil.copytree(project / "a", project / "before")
    outcomes = set()
    for begin in (1, 100_000, 200_000, 300_000, 400_000, 500_000):
        shutil.copyfile(project / "before" / target.name, target)
        try:
            built = build(project, "mean", recipe, at_byte(begin, lambda: spoil(target)))
        except (InputError, CheckpointError) as error:
            assert str(target) in str(error)
            outcomes.add("refused")
        else:
            outcomes.add("published")
            assert recorded(built, "a") == fingerprint(project / "before")
            shutil.rmtree(project / "var")
            shutil.copyfile(project / "before" / target.name, target)
            assert build(project, "mean").artifact.version == built.artifact.version
        shutil.rmtree(project / "var", ignore_errors=True)
    assert "refused" in outcomes


def test_nothing_is_made_of_a_damaged_version(project: Path) -> None:
    parent = build(project, "parent", LINEAR)
    damaged = shard(Path(parent.artifact.url))
    spoil(damaged)
    with pytest.raises(InputError, match=rf"{damaged}: tensor .* store verify") as caught:
        build(project, "child", CHILD)
    assert caught.value.kind == "input.changed"
    assert api.Workspace.open(Settings(root=project)).store.lines("variants") == ["variants/parent"]


@pytest.mark.parametrize("copied", ["one tensor differs", "the whole file is the same"])
def test_what_is_damaged_is_computed_and_not_reused(copied: str, project: Path) -> None:
    """Whatever the setting for buckets says, and however little of the file is wrong."""
    text = "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: [{filter: FILTER, value: 2}, {value: 3}]}}]\n"
    first = build(project, "first", text.replace("FILTER", "model.norm"))
    spoil(shard(Path(first.artifact.url)), step=1000)
    second_text = text.replace("FILTER", "model.norm" if copied == "the whole file is the same" else "lm_head")
    second = build(project, "second", second_text)
    shutil.rmtree(project / "var")
    fresh = build(project, "second")
    assert second.artifact.version == fresh.artifact.version
    assert read_tensors(Path(fresh.artifact.url)).keys() == read_tensors(project / "a").keys()
    assert second.report.tensors_reused < len(second.plan.tensors)


def test_files_of_versions_are_read_only(project: Path) -> None:
    """A version may share its files with others."""
    built = build(project, "mean", LINEAR)
    files = [path for path in Path(built.artifact.url).rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o444}
    assert files


@pytest.mark.parametrize("at", range(0, 700, 7))
def test_a_digit_that_changed_in_the_cache_of_digests_is_not_believed(at: int, project: Path) -> None:
    checkpoint = open_checkpoint(project / "a")
    expected = digest_checkpoint(checkpoint, project / "cache")
    for entry in (project / "cache" / "digests").iterdir():
        data = bytearray(entry.read_bytes())
        data[at % len(data)] ^= 1
        entry.write_bytes(data)
    assert digest_checkpoint(checkpoint, project / "cache") == expected


def test_a_config_that_changes_after_it_was_read_is_not_merged(project: Path) -> None:
    """What is planned with is what was digested: the headers, the config and the tokenizer's files."""
    config = project / "a" / "config.json"
    text = config.read_text()

    def other(done: int, total: int, label: str) -> None:
        config.write_text(text.replace('"silu"', '"gelu"') if '"silu"' in text else text + " ")

    try:
        built = build(project, "mean", LINEAR, Work(other))
    except (InputError, CheckpointError) as error:
        assert "config.json" in str(error) or "a: changed" in str(error)
        built = build(project, "mean")
    assert recorded(built, "a") in {fingerprint(project / "a"), _with(project, text)}


def _with(project: Path, config: str) -> str:
    shutil.copytree(project / "a", project / "other")
    (project / "other" / "config.json").write_text(config)
    return fingerprint(project / "other")
