"""Whatever the Hub refuses is one line that names the model and says what to do, and never shows a token."""

import socket
from pathlib import Path

import pytest

from merge_assets.errors import HubError
from merge_assets.hub import Hub
from merge_assets.reference import ModelReference
from tests.hub_server import HubServer
from tests.hub_support import REFERENCE, REPO, hub, model, server

__all__ = ["hub", "model", "server"]


def refusal(hub: Hub, reference: ModelReference) -> str:
    with pytest.raises(HubError) as caught:
        hub.open(reference)
    message = str(caught.value)
    assert message.startswith(str(reference)), message
    assert ";" in message, "the remedy follows a semicolon"
    assert "\n" not in message
    return message


def test_no_such_model(hub: Hub) -> None:
    message = refusal(hub, ModelReference("acme/absent"))
    assert "has no such model, or it is private; check the name, and set MERGE_ASSETS_HUB_TOKEN" in message


def test_no_such_revision(hub: Hub) -> None:
    message = refusal(hub, ModelReference(REPO, "v9"))
    assert "no such branch, tag or commit; check the revision" in message


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "-x/y", "acme/" + "x" * 100])
def test_what_cannot_be_a_model_name(hub: Hub, name: str) -> None:
    assert "write org/name[@revision]" in refusal(hub, ModelReference(name))


def test_a_gated_model(server: HubServer, tmp_path: Path) -> None:
    server.gate(REPO, "hf_secret")
    with pytest.raises(HubError) as caught:
        Hub(server.url, token="hf_wrong", cache_dir=tmp_path).open(REFERENCE)
    message = str(caught.value)
    assert f"accept the terms at {server.url}/{REPO} and set MERGE_ASSETS_HUB_TOKEN" in message
    assert "hf_" not in message
    assert Hub(server.url, token="hf_secret", cache_dir=tmp_path).open(REFERENCE).layer_count == 40


def test_a_private_model(server: HubServer, tmp_path: Path) -> None:
    server.hide(REPO, "hf_secret")
    assert "or it is private" in refusal(Hub(server.url, cache_dir=tmp_path), REFERENCE)
    assert Hub(server.url, token="hf_secret", cache_dir=tmp_path).open(REFERENCE).layer_count == 40


def test_the_token_is_not_shown() -> None:
    hub = Hub("http://127.0.0.1:1", token="hf_secret")
    assert "hf_secret" not in repr(hub) + repr(hub._client)


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    message = refusal(Hub(url, cache_dir=tmp_path), REFERENCE)
    assert f"{url} cannot be reached" in message
    assert "check the network, a proxy and MERGE_ASSETS_HUB_ENDPOINT, or name a local path" in message


def test_something_that_is_no_hub(server: HubServer, tmp_path: Path) -> None:
    message = refusal(Hub(f"{server.url}/elsewhere", cache_dir=tmp_path), REFERENCE)
    assert f"{server.url}/elsewhere answers 404 (Unrouted); check the name and MERGE_ASSETS_HUB_ENDPOINT" in message


def test_a_shard_that_the_hub_has_lost(hub: Hub, server: HubServer) -> None:
    """The listing and the files are two requests; a repository can be rewritten between them."""
    revision = hub.resolve(REFERENCE)
    del server.repositories[REPO].commits[revision.commit]["model-00001-of-00003.safetensors"]
    for verb in (hub.open, hub.download):
        with pytest.raises(HubError, match=f"{revision}: a file of this commit is gone from the Hub; name another"):
            verb(revision)


def test_a_cache_that_cannot_be_written(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file, not a folder")
    message = refusal(Hub(server.url, cache_dir=tmp_path / "cache"), REFERENCE)
    assert "check disk space and permissions" in message
