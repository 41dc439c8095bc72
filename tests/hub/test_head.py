"""Contract of the cheapest look at the Hub: one small request, never repeated, and every refusal says what it is."""

import email.utils
import time
from pathlib import Path

import pytest

from merge_assets.errors import HubError
from merge_assets.hub import Hub
from merge_assets.hub.limits import LONGEST, asked_to_wait, nearly_exhausted
from merge_assets.reference import ModelReference
from tests.hub_server import HubServer
from tests.hub_support import REFERENCE, REPO, hub, model, server

__all__ = ["hub", "model", "server"]

POLICY = {"RateLimit-Policy": '"fixed window";"api";q=500;w=300'}


def problem(hub: Hub, reference: ModelReference = REFERENCE) -> HubError:
    with pytest.raises(HubError) as caught:
        hub.head(reference)
    assert str(caught.value) == f"{reference}: {caught.value.reason}"
    return caught.value


def test_it_names_the_commit_of_a_branch_a_tag_and_a_commit(hub: Hub, server: HubServer) -> None:
    first = server.repositories[REPO].names["main"]
    server.tag(REPO, "v1", first)
    other = server.commit(REPO, {"config.json": b"{}"}, branch="a/branch")
    expected = {None: first, "main": first, "v1": first, first: first, "a/branch": other}
    assert {name: hub.head(ModelReference(REPO, name)).commit for name in expected} == expected


def test_it_is_one_request_without_the_list_of_files(hub: Hub, server: HubServer) -> None:
    hub.head(REFERENCE)
    (request,) = server.served
    assert request.sent < 200


def test_a_renamed_model_is_found_and_its_new_name_told(hub: Hub, server: HubServer) -> None:
    commit = server.repositories[REPO].names["main"]
    assert hub.head(REFERENCE).name == REPO
    server.rename(REPO, "acme/better")
    head = hub.head(REFERENCE)
    assert (head.name, head.commit) == ("acme/better", commit)
    assert hub.fingerprint(hub.resolve(REFERENCE))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((403, {"X-Error-Code": "GatedRepo"}), "hub.gated"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "hub.missing"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "hub.missing"),
        ((404, {}), "hub.missing"),
        ((410, {}), "hub.missing"),
        ((400, {}), "hub.unusable"),
        ((401, {}), "hub.refused"),
        ((403, {}), "hub.refused"),
        ((429, {}), "hub.limited"),
        ((408, {}), "hub.failing"),
        ((500, {}), "hub.failing"),
        ((503, {}), "hub.failing"),
    ],
)
def test_a_refusal_says_of_what_kind_it_is(
    hub: Hub, server: HubServer, answer: tuple[int, dict[str, str]], kind: str
) -> None:
    server.refuse[REPO] = answer
    assert problem(hub).kind == kind
    assert len(server.served) == 1


def test_silence_and_nonsense_are_told_apart(hub: Hub, server: HubServer) -> None:
    server.down = True
    assert problem(hub).kind == "hub.unreachable"
    server.down = False
    server.refuse[REPO] = (200, {})
    with pytest.raises(HubError, match="names no commit"):
        hub.head(REFERENCE)
    assert problem(hub, ModelReference("not a name")).kind == "hub.unusable"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120),
        ({"retry-after": " 7 "}, 7),
        ({"Retry-After": "99999999999"}, LONGEST),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=55', **POLICY}, 55),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=3;t=55', **POLICY}, None),
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "9"}, 9),
        ({}, None),
    ],
)
def test_what_headers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_to_wait(headers) == seconds


def test_a_date_is_counted_from_now() -> None:
    seconds = asked_to_wait({"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)})
    assert seconds is not None and 90 < seconds <= 100


def test_few_requests_left_in_the_window() -> None:
    assert nearly_exhausted({"RateLimit": '"api";r=50;t=30', **POLICY}) == 30
    assert nearly_exhausted({"RateLimit": '"api";r=51;t=30', **POLICY}) is None
    assert nearly_exhausted({}) is None


def test_the_limit_is_part_of_the_refusal(hub: Hub, server: HubServer) -> None:
    server.refuse["*"] = (429, {"Retry-After": "77"})
    assert problem(hub).wait == 77


def test_an_impatient_look_waits_for_no_limit(hub: Hub, server: HubServer) -> None:
    """A patient read sleeps for as long as the Hub asks; this one would sleep for a day."""
    revision = hub.resolve(REFERENCE)
    server.refuse["*"] = (429, {"Retry-After": "86400"})
    quick = hub.impatient()
    for verb in (quick.fingerprint, quick.open, lambda commit: quick.read(commit, "config.json")):
        server.served.clear()
        with pytest.raises(HubError) as caught:
            verb(revision)
        assert caught.value.kind == "hub.limited"
        assert len(server.served) <= 8


def test_an_impatient_look_finds_what_a_patient_one_does_and_keeps_no_file(
    hub: Hub, server: HubServer, tmp_path: Path
) -> None:
    revision = hub.resolve(REFERENCE)
    quick = hub.impatient()
    fingerprint, tensors = quick.fingerprint(revision), quick.open(revision).tensors
    assert not (tmp_path / "hub-cache").exists()
    assert (fingerprint, tensors) == (hub.fingerprint(revision), hub.open(revision).tensors)


def test_a_small_file_is_digested_once_in_whatever_commit_it_is(hub: Hub, server: HubServer) -> None:
    hub.fingerprint(hub.resolve(REFERENCE))
    server.commit(REPO, {"README.md": b"# News"})
    server.served.clear()
    hub.impatient().fingerprint(hub.resolve(REFERENCE))
    assert not any(each.path.endswith(("config.json", "tokenizer.json")) for each in server.served)
