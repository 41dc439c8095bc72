"""Which files tell the code of a plugin: those that are imported and those that come with them, not what pip makes of them."""

from __future__ import annotations

import os
import py_compile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from merge_assets.errors import PlanError
from merge_assets.methods.plugin import drop_stale_bytecode, source_digest, source_files
from tests.plugin_support import install


def write(site: Path, *names: str) -> None:
    for name in names:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(f"# {name}\n")


def test_of_a_package_in_a_folder_that_several_share_only_the_package_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "sharedspace/plug/__init__.py", "sharedspace/plug/deep/kernel.py", "sharedspace/other/__init__.py")
    found = source_files("sharedspace.plug.deep.kernel", None)
    assert set(found) == {"sharedspace/plug/__init__.py", "sharedspace/plug/deep/kernel.py"}


def test_other_modules_of_the_distribution_count_and_what_pip_makes_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "lonely.py", "helper.py", "stranger.py", "__editable__.lonely.pth", "__editable___lonely_finder.py")
    info = tmp_path / "lonely-1.0.dist-info"
    info.mkdir()
    (info / "top_level.txt").write_text("lonely\nhelper\n")
    recorded = ["lonely.py", "table.json", "__pycache__/lonely.pyc", "../bin/lonely", "__editable__.lonely.pth"]
    write(tmp_path, "table.json", "__pycache__/lonely.pyc")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in recorded))
    found = source_files("lonely", Distribution.at(info))
    assert set(found) == {"lonely.py", "helper.py", "table.json"}


def test_the_digest_is_that_of_contents_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for place in ("one", "two"):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(install(tmp_path / place)))
            info = next((tmp_path / place).glob("*.dist-info"))
            digests.add(source_digest("shifted.method:METHOD", source_files("shifted.method", Distribution.at(info))))
    assert len(digests) == 1
    files = {"shifted/share.py": tmp_path / "one" / "shifted" / "share.py"}
    before = source_digest("shifted.method:METHOD", files)
    assert source_digest("shifted.method:OTHER", files) != before
    assert source_digest("shifted.method:METHOD", {"shifted/other.py": files["shifted/share.py"]}) != before
    files["shifted/share.py"].write_text("SHARE = 0.5\n")
    assert source_digest("shifted.method:METHOD", files) != before


def test_a_file_that_cannot_be_read_is_an_error_of_the_plugin(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="a file of a merge method's plugin cannot be read"):
        source_digest("gone:METHOD", {"gone.py": tmp_path / "gone.py"})


@pytest.mark.parametrize(
    ("source", "same_second", "stays"),
    [("SHARE = 1\n", True, True), ("SHARE = 2\n", True, False), ("SHARE = 2\n", False, True)],
    ids=["of this source", "of an earlier one of the same size and second", "which Python does not run"],
)
def test_bytecode_that_would_be_run_for_another_source_goes(
    tmp_path: Path, source: str, same_second: bool, stays: bool
) -> None:
    file = tmp_path / "share.py"
    file.write_text("SHARE = 1\n")
    then = file.stat()
    cached = Path(str(py_compile.compile(str(file), doraise=True)))
    file.write_text(source)
    later = 0 if same_second else 10_000_000_000
    os.utime(file, ns=(then.st_atime_ns + later, then.st_mtime_ns + later))
    drop_stale_bytecode([file])
    assert cached.exists() == stays
