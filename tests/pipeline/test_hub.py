"""Contract of looking at the Hub: cheap, fair, patient, and silent unless something changed.

A Hub on loopback counts what it is asked. The clock of the poller is the tests' own; the instance is Dagster's.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from merge_assets.pipeline import hub_polling
from merge_assets.pipeline.access import CHECKS
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.hub_agenda import Agenda, pause
from merge_assets.pipeline.hub_polling import HubPoller
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.versions import recorded
from tests.checkpoint_support import LLAMA_CONFIG, tensor_file
from tests.hub_server import HubServer
from tests.pipeline_support import Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def files(seed: int = 0, **more: bytes) -> dict[str, bytes]:
    """A tiny checkpoint of two shards, with other bytes for another seed."""
    import json

    index = {"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    last = bytes([seed])
    return {
        "config.json": json.dumps(LLAMA_CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "a.safetensors": tensor_file({"x": ("F32", [2, 3], 24)}),
        "b.safetensors": tensor_file({"y": ("BF16", [4], 8)})[:-1] + last,
        "tokenizer.json": b"{}",
        **{name.replace("_", "."): content for name, content in more.items()},
    }


class World:
    """A Hub, a project whose recipes name models on it, and the sensor's ticks."""

    def __init__(self, project: Project, server: HubServer) -> None:
        self.project = project
        self.server = server
        self.instance = dg.DagsterInstance.ephemeral()
        self.now = 1_000_000.0
        self.cursor: str | None = None
        self.warnings: list[str] = []
        self.result = dg.SensorResult()
        self.poller: HubPoller | None = None

    def recipes(self, *models: str) -> None:
        for number, model in enumerate(models):
            text = f"merge_method: linear\nmodels:\n  - {{model: '{model}', parameters: {{weight: 1}}}}\n"
            self.project.recipe(f"r{number}", text)
        self.restart()

    def nodes(self) -> list[ModelNode]:
        settings = {"enabled": ["*"], "hub_endpoint": self.server.url, "hub_cache": self.project.root / "hub"}
        self.workspace = self.project.workspace(**settings)
        return [node for node in build_graph(self.workspace).bases if node.kind == "hub"]

    def restart(self) -> None:
        """A new process: all that is left is the cursor and the instance."""
        nodes = self.nodes()
        self.poller = HubPoller(self.workspace, nodes, clock=lambda: self.now)

    def tick(self, later: float = 30.0, seconds: float = 20.0) -> list[str]:
        """The next tick; the keys that it observes."""
        assert self.poller is not None
        self.now += later
        self.result = self.poller.tick(self.instance, self.cursor, self.warnings.append, seconds)
        self.cursor = self.result.cursor
        for event in self.result.asset_events:
            self.instance.report_runless_asset_event(event)
        keys = [event.asset_key for event in self.result.asset_events if isinstance(event, dg.AssetObservation)]
        return sorted(key.to_user_string() for key in keys)

    def state(self, *path: str) -> tuple[bool, str]:
        """Whether the check of an asset passes, and what its page says."""
        key = dg.AssetCheckKey(dg.AssetKey(["base", *path]), CHECKS["hub"])
        record = self.instance.get_latest_asset_check_evaluation_record(key)
        assert record is not None, f"{path} has no state"
        evaluation = record.event.asset_check_evaluation
        assert evaluation is not None and not evaluation.blocking
        kind = evaluation.metadata.get("error_kind")
        assert kind is None or (evaluation.description or "").startswith(f"{kind.value}: ")
        assert evaluation.passed or "renamed" in (evaluation.description or "") or kind is not None
        return evaluation.passed, evaluation.description or ""

    def version(self, *path: str) -> str | None:
        known = recorded(self.instance, dg.AssetKey(["base", *path]))
        return known.data_version if known else None

    def asked(self, repo: str = "") -> int:
        """Requests since the last call."""
        count = self.server.asked(repo)
        self.server.served.clear()
        return count


@pytest.fixture
def world(project: Project) -> Iterator[World]:
    with HubServer() as server:
        yield World(project, server)


# -- what is asked


def test_an_unmoved_model_costs_one_request_however_many_recipes_name_it(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one", "acme/one", "acme/one")
    assert world.tick() == ["base/acme/one"]
    world.asked()
    assert world.tick() == []
    assert world.asked() == 1
    assert "nothing new" in str(world.result.skip_reason)


def test_a_new_commit_with_other_bytes_is_one_observation(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.tick()
    before = world.version("acme", "one")
    commit = world.server.commit("acme/one", files(seed=1))
    assert world.tick() == ["base/acme/one"]
    known = recorded(world.instance, dg.AssetKey(["base", "acme", "one"]))
    assert known is not None and known.data_version != before and known.revision == commit
    assert world.tick() == []


def test_a_commit_with_the_same_bytes_is_recorded_under_the_same_version_without_a_look_at_weights(
    world: World,
) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.tick()
    before, figures = world.version("acme", "one"), world.result.asset_events[0].metadata["tensors"]
    world.asked()
    commit = world.server.commit("acme/one", {"README.md": b"# News"})
    assert world.tick() == ["base/acme/one"]
    known = recorded(world.instance, dg.AssetKey(["base", "acme", "one"]))
    assert known is not None and (known.data_version, known.revision) == (before, commit)
    assert world.result.asset_events[0].metadata["tensors"] == figures
    assert not any(each.path.endswith((".safetensors", "tokenizer.json")) for each in world.server.served)
    assert world.tick() == []


def test_a_pinned_commit_is_never_asked_again_and_a_tag_is(world: World) -> None:
    commit = world.server.commit("acme/one", files())
    world.server.tag("acme/one", "v1", commit)
    world.recipes(f"acme/one@{commit}", "acme/one@v1")
    assert world.tick() == [f"base/acme/one@{commit}", "base/acme/one@v1"]
    world.asked()
    world.tick()
    assert [each.path.rpartition("/")[2] for each in world.server.served] == ["v1"]
    world.tick(later=4000)
    world.restart()
    world.cursor = None
    world.asked()
    world.tick()
    assert [each.path.rpartition("/")[2] for each in world.server.served] == ["v1"]
    assert world.state("acme", f"one@{commit}")[0]
    world.server.tag("acme/one", "v1", world.server.commit("acme/one", files(seed=1)))
    assert world.tick() == ["base/acme/one@v1"]


def test_more_models_than_a_tick_asks_take_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_polling, "REQUESTS_PER_TICK", 4)
    names = [f"acme/m{number}" for number in range(12)]
    for number, name in enumerate(names):
        world.server.commit(name, files(seed=number))
    world.recipes(*names)
    seen = [key for _ in range(3) for key in world.tick()]
    assert sorted(seen) == sorted(f"base/{name}" for name in names)
    world.asked()
    for _ in range(6):
        world.tick()
    assert {name: world.server.asked(name) for name in names} == dict.fromkeys(names, 2)


def test_a_tick_ends_in_time_and_what_took_longer_counts_in_the_next(world: World) -> None:
    world.server.commit("acme/one", files())
    world.server.commit("acme/two", files(seed=1))
    world.recipes("acme/one", "acme/two")
    world.server.hold.clear()  # weights are sent half-way, then nothing
    while len(world.server.held) < 2:  # both looks have come as far as they can
        assert world.tick(seconds=0.5) == []
    world.asked()
    assert world.tick(seconds=0.5) == []
    assert world.asked() == 0, "who is still waiting for an answer does not ask again"
    world.server.hold.set()
    observed: list[str] = []
    while len(observed) < 2:
        observed += world.tick(seconds=0.2)
    assert sorted(observed) == ["base/acme/one", "base/acme/two"]


def test_a_wiped_history_is_observed_again(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.tick()
    world.instance.wipe_assets([dg.AssetKey(["base", "acme", "one"])])
    assert world.tick() == ["base/acme/one"]


def test_a_cursor_of_another_version_is_no_error(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    for cursor in ("base/acme/one", "[]", '{"turns": {"acme/one": {"later": 1}}}', "3"):
        assert Agenda.load(cursor, ["acme/one"]).due(0.0) == ["acme/one"]
        world.cursor = cursor
        world.tick()
    assert world.version("acme", "one")


def test_the_cursor_of_readable_models_is_little_more_than_their_names(world: World) -> None:
    names = [f"acme/m{number}" for number in range(20)]
    for name in names:
        world.server.commit(name, files())
    world.recipes(*names)
    world.tick()
    assert world.cursor is not None and len(world.cursor) < sum(map(len, names)) + 20 * 20 + 100


# -- limits


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "300"},
        {"Retry-After": "date"},
        {"RateLimit": '"api";r=0;t=300', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'},
    ],
)
def test_nobody_asks_before_the_hub_allows_it_not_even_after_a_restart(world: World, headers: dict[str, str]) -> None:
    for name in ("acme/one", "acme/two"):
        world.server.commit(name, files())
    world.recipes("acme/one", "acme/two")
    if "date" in headers.values():
        headers = {"Retry-After": email.utils.formatdate(time.time() + 300, usegmt=True)}
    world.server.refuse["*"] = (429, headers)
    assert world.tick() == []
    assert 1 <= world.asked() <= 2
    world.server.refuse.clear()
    for _ in range(9):
        assert world.tick(later=29) == []
    world.restart()
    assert world.tick(later=29) == []
    assert world.asked() == 0
    assert "is not asked again before" in str(world.result.skip_reason)
    assert sorted([*world.tick(later=30), *world.tick()]) == ["base/acme/one", "base/acme/two"]
    assert world.warnings == []


def test_a_limit_without_a_time_is_waited_for_longer_and_longer(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.server.refuse["*"] = (429, {})
    for _ in range(240):
        world.tick()
    assert 3 <= world.asked() <= 12


def test_the_last_requests_of_a_window_are_left_to_builds(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.tick()
    policy = {"RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    world.server.headers = {"RateLimit": '"api";r=200;t=100', **policy}
    world.tick()
    world.asked()
    world.server.headers = {"RateLimit": '"api";r=40;t=100', **policy}
    world.tick()
    assert world.asked() == 1
    world.tick(later=90)
    assert world.asked() == 0
    world.tick(later=20)
    assert world.asked() == 1


# -- what a person sees


def test_a_gated_model_says_so_once_and_is_observed_when_access_is_given(world: World) -> None:
    world.server.commit("acme/one", files())
    world.server.gate("acme/one", "hf_secret")
    world.recipes("acme/one")
    for _ in range(120):
        assert world.tick() == []
    passed, text = world.state("acme", "one")
    assert not passed
    assert text.startswith("hub.gated: its owner grants access one by one; accept the terms at ")
    assert len(world.warnings) == 1
    assert world.asked() < 60, "an hour of ticks is fewer than ten looks, of a few requests each"
    world.server.repositories["acme/one"].gated = False
    world.server.repositories["acme/one"].token = None
    world.restart()  # the token, too, is read by a new process
    assert world.tick(later=1) == ["base/acme/one"]
    assert world.state("acme", "one") == (True, "The Hub shows this model.")


def test_a_missing_model_and_a_missing_revision_hold_nobody_else_up(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one", "acme/absent", "acme/one@v9", "acme/private")
    world.server.commit("acme/private", files())
    world.server.hide("acme/private", "hf_secret")
    assert world.tick() == ["base/acme/one"]
    assert world.state("acme", "absent")[1].startswith("hub.missing: ")
    assert "or it is private" in world.state("acme", "private")[1]
    assert "no such branch, tag or commit" in world.state("acme", "one@v9")[1]
    commit = world.server.commit("acme/one", files(seed=1))
    world.server.tag("acme/one", "v9", commit)
    assert world.tick() == ["base/acme/one", "base/acme/one@v9"]
    assert world.state("acme", "one@v9")[0]


def test_a_model_that_vanishes_keeps_its_recorded_version(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.tick()
    before = world.version("acme", "one")
    del world.server.repositories["acme/one"]
    assert world.tick() == []
    assert world.state("acme", "one")[1].startswith("hub.missing: ")
    assert world.version("acme", "one") == before


def test_a_renamed_model_says_its_new_name_and_is_still_followed(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one", "acme/one@main")
    world.tick()
    world.server.rename("acme/one", "acme/better")
    assert world.tick() == []
    passed, text = world.state("acme", "one")
    assert not passed and text.startswith("renamed to acme/better: ") and "write acme/better in the recipe" in text
    assert "write acme/better@main in the recipe" in world.state("acme", "one@main")[1]
    world.server.commit("acme/better", files(seed=1))
    assert world.tick() == ["base/acme/one", "base/acme/one@main"]


def test_something_on_the_hub_that_is_no_checkpoint(world: World) -> None:
    world.server.commit("acme/one", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    world.recipes("acme/one")
    assert world.tick() == []
    assert world.state("acme", "one")[1].startswith("checkpoint: ")


def test_a_token_that_is_refused(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.server.refuse["acme/one"] = (401, {})
    world.tick()
    assert "set MERGE_ASSETS_HUB_TOKEN" in world.state("acme", "one")[1]


# -- outages


def test_a_hub_that_fails_for_a_moment_is_not_worth_a_word(world: World) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    world.tick()
    world.server.refuse["*"] = (503, {})
    world.tick()
    world.server.refuse.clear()
    world.tick()
    world.tick()
    assert world.state("acme", "one")[0] and world.warnings == []


def test_a_failing_model_is_asked_less_and_less_and_the_others_as_before(world: World) -> None:
    for name in ("acme/one", "acme/two"):
        world.server.commit(name, files())
    world.recipes("acme/one", "acme/two")
    world.tick()
    world.asked()
    world.server.refuse["acme/one"] = (500, {})
    for _ in range(120):
        world.tick()
    assert world.server.asked("acme/two") == 120
    assert 5 <= world.server.asked("acme/one") <= 12
    assert world.state("acme", "one")[1].startswith("hub.failing: ")
    assert len(world.warnings) == 1
    assert world.state("acme", "two")[0]
    world.server.refuse.clear()
    world.tick(later=3600)
    assert world.state("acme", "one")[0]


def test_a_lost_network_is_one_question_at_a_time_and_soon_over(world: World) -> None:
    names = [f"acme/m{number}" for number in range(20)]
    for number, name in enumerate(names):
        world.server.commit(name, files(seed=number))
    pinned = world.server.commit("acme/pinned", files(seed=99))
    world.recipes(*names, f"acme/pinned@{pinned}")
    world.tick()
    world.tick()
    assert world.state("acme", f"pinned@{pinned}")[0]
    world.asked()
    world.server.down = True
    for _ in range(120):
        assert world.tick() == []
    assert world.asked() <= 25, "in an hour, for twenty models"
    states = {name: world.state(*name.split("/")) for name in names}
    assert all(not passed and text.startswith("hub.unreachable: ") for passed, text in states.values())
    assert world.state("acme", f"pinned@{pinned}")[0], "what is never asked does not suffer"
    assert len(world.warnings) == len(names)
    world.server.down = False
    world.server.commit("acme/m3", files(seed=77))
    assert [*world.tick(later=600), *world.tick()] == ["base/acme/m3"]
    assert all(world.state(*name.split("/"))[0] for name in names)


def test_models_that_wait_are_asked_as_soon_as_one_of_them_answers(world: World) -> None:
    names = ["acme/one", "acme/two", "acme/three"]
    for name in names:
        world.server.commit(name, files())
    world.recipes(*names)
    world.tick()
    world.server.refuse["*"] = (502, {})
    for _ in range(60):
        world.tick()
    world.server.refuse.clear()
    world.asked()
    while not world.server.served:
        world.tick()
    world.tick()
    assert all(world.server.asked(name) for name in names)


def test_pauses_double_up_to_the_longest_and_differ_by_name() -> None:
    growing = [pause("a/b", failures, 3600.0) for failures in range(1, 40)]
    assert 15 <= growing[0] <= 30
    assert all(1800 <= seconds <= 3600 for seconds in growing[8:])
    assert len({pause(name, 9, 3600.0) for name in ("a/b", "a/c", "a/d")}) == 3


# -- what follows from it


def test_a_readme_or_a_problem_triggers_nothing_and_new_bytes_do(world: World, fake: FakeApi) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one")
    settings = {"enabled": ["*"], "hub_endpoint": world.server.url, "hub_cache": world.project.root / "hub"}
    daemon = Daemon(world.project, **settings)
    world.instance = daemon.instance
    assert daemon.tick() == []
    world.tick()
    assert daemon.settle() == ["scores/quick/acme/one", "variants/r0", "scores/quick/r0", "leaderboard"]

    world.server.commit("acme/one", {"README.md": b"# News"})
    assert world.tick() == ["base/acme/one"]
    assert daemon.settle() == []

    world.server.rename("acme/one", "acme/better")
    world.tick()
    assert daemon.settle() == []
    world.server.refuse["acme/better"] = (403, {"X-Error-Code": "GatedRepo"})
    world.tick()
    assert world.state("acme", "one")[1].startswith("hub.gated")
    assert daemon.settle() == []
    world.server.refuse.clear()
    world.tick(later=3600)
    assert daemon.settle() == []

    world.server.commit("acme/better", files(seed=1))
    world.tick()
    assert daemon.settle() == ["scores/quick/acme/one", "variants/r0", "scores/quick/r0", "leaderboard"]


def test_a_model_that_was_never_readable_starts_no_run(world: World, fake: FakeApi) -> None:
    world.recipes("acme/absent")
    settings = {"enabled": ["*"], "hub_endpoint": world.server.url, "hub_cache": world.project.root / "hub"}
    daemon = Daemon(world.project, **settings)
    world.instance = daemon.instance
    world.tick()
    assert world.state("acme", "absent")[1].startswith("hub.missing")
    assert daemon.settle() == []
    assert fake.calls == []


def test_the_check_can_be_run_by_hand(world: World, tmp_path: Path) -> None:
    world.server.commit("acme/one", files())
    world.recipes("acme/one", "acme/absent")
    settings = {"enabled": ["*"], "hub_endpoint": world.server.url, "hub_cache": tmp_path}
    definitions = world.project.definitions(**settings)
    names = [dg.AssetCheckKey(dg.AssetKey(["base", "acme", name]), CHECKS["hub"]) for name in ("one", "absent")]
    job = dg.define_asset_job("by_hand", selection=dg.AssetSelection.checks(*names))
    defined = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    made = defined.resolve_job_def("by_hand").execute_in_process(instance=world.instance)
    assert made.success
    assert {e.asset_key.path[-1]: e.passed for e in made.get_asset_check_evaluations()} == {
        "one": True,
        "absent": False,
    }
