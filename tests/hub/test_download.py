"""Downloads bring what a merge needs and no more, continue after an interruption, report bytes, and stop on request."""

import threading
from pathlib import Path

import pytest

from merge_assets.checkpoint import open_checkpoint
from merge_assets.errors import HubError, Stopped
from merge_assets.hub import Hub
from merge_assets.work import Work
from tests.hub_server import HubServer
from tests.hub_support import REFERENCE, REPO, folder_files, hub, model, server

__all__ = ["hub", "model", "server"]

NOT_NEEDED = {"README.md", "training_args.bin"}


def test_the_directory_has_what_a_merge_needs(hub: Hub, model: Path) -> None:
    directory = hub.download(hub.resolve(REFERENCE))
    expected = {name: data for name, data in folder_files(model).items() if name not in NOT_NEEDED}
    assert folder_files(directory) == expected
    assert open_checkpoint(directory).tensors == open_checkpoint(model).tensors


def test_a_second_download_transfers_nothing(hub: Hub, server: HubServer) -> None:
    revision = hub.resolve(REFERENCE)
    first = hub.download(revision)
    before = len(server.served)
    assert hub.download(revision) == first
    assert len(server.served) == before


def test_a_new_commit_transfers_only_what_changed(hub: Hub, server: HubServer) -> None:
    hub.download(hub.resolve(REFERENCE))
    before = server.sent(".safetensors")
    server.commit(REPO, {"tokenizer.json": b"{}", "README.md": b"new"})
    directory = hub.download(hub.resolve(REFERENCE))
    assert (directory / "tokenizer.json").read_bytes() == b"{}"
    assert open_checkpoint(directory).layer_count == 40
    assert server.sent(".safetensors") == before > 0


def test_a_broken_transfer_goes_on_where_it_broke(
    hub: Hub, server: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # kept in steps of this size
    shard = sorted(model.glob("*.safetensors"))[0]
    server.cut[shard.name] = 100_000
    directory = hub.download(hub.resolve(REFERENCE))
    assert (directory / shard.name).read_bytes() == shard.read_bytes()
    assert [each.status for each in server.served if each.method == "GET" and each.path.endswith(shard.name)] == [
        200,
        206,
    ]
    assert server.sent(shard.name) <= shard.stat().st_size + 8192, "only bytes lost on the way are sent again"


def test_progress_ends_at_the_total(hub: Hub, model: Path) -> None:
    revision = hub.resolve(REFERENCE)
    total = sum(path.stat().st_size for path in model.iterdir() if path.name not in NOT_NEEDED)
    calls: list[tuple[int, int, str]] = []
    hub.download(revision, work=Work(lambda *call: calls.append(call)))
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert calls[-1] == (total, total, str(revision))


def test_progress_counts_what_is_cached(hub: Hub) -> None:
    revision = hub.resolve(REFERENCE)
    hub.download(revision)
    calls: list[tuple[int, int]] = []
    hub.download(revision, work=Work(lambda done, total, _: calls.append((done, total))))
    assert len(calls) == 1
    assert calls[0][0] == calls[0][1] > 0


@pytest.mark.slow
def test_stopping_mid_transfer_keeps_finished_files_only(hub: Hub, server: HubServer, tmp_path: Path) -> None:
    server.hold.clear()
    revision = hub.resolve(REFERENCE)
    asked = threading.Event()

    def small_files_are_here() -> bool:
        asked.set()
        present = {path.name for path in (tmp_path / "hub-cache").rglob("snapshots/*/*")}
        return {"config.json", "tokenizer.json"} <= present

    with pytest.raises(Stopped):
        hub.download(revision, work=Work(should_stop=small_files_are_here))
    assert asked.is_set()
    assert not list((tmp_path / "hub-cache").rglob("snapshots/*/*.safetensors"))
    server.hold.set()
    for thread in threading.enumerate():
        if thread.name.startswith("hub-download"):
            thread.join(10)
    assert not list((tmp_path / "hub-cache").rglob("snapshots/*/*.safetensors")), "transfers end when they notice"
    directory = hub.download(revision)
    assert open_checkpoint(directory).layer_count == 40
    small = [each for each in server.served if each.method == "GET" and each.path.endswith("tokenizer.json")]
    assert len(small) == 1, "finished files are not fetched again"


def test_a_cached_file_of_another_size_is_reported(hub: Hub) -> None:
    revision = hub.resolve(REFERENCE)
    config = (hub.download(revision) / "config.json").resolve()
    config.write_bytes(config.read_bytes() + b" ")
    with pytest.raises(HubError, match=r"config.json in the cache has another size than on the Hub; remove that file"):
        hub.download(revision)
