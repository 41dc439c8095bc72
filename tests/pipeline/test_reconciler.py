"""Contract of the reconciler's decisions, on plain data: nothing is asked for twice, whatever can be made is made in the end,
what was cancelled stays so, and a failure pauses its own asset alone.

A world of its own stands for Dagster: runs that begin, make, fail, are killed and cancelled as hypothesis likes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.errors import HubError, HubTrouble, MergeAssetsError
from merge_assets.pipeline.reconciler import words
from merge_assets.pipeline.reconciler.decide import RUN_ASSETS, RUNS, Decision, decide, requests
from merge_assets.pipeline.reconciler.facts import Asset, Facts, Fault, KnownRun, KnownStep
from merge_assets.pipeline.reconciler.learn import asked_for, learn
from merge_assets.pipeline.reconciler.memory import RARELY, SOON, Memory
from merge_assets.pipeline.reconciler.read import MAY_PASS
from merge_assets.pipeline.versions import Recorded

SOFT = Fault("store.unreachable", "the store does not answer", may_pass=True)
HARD = Fault("plan", "it does not fit", may_pass=False)
BOARD = "leaderboard"


@dataclass
class World:
    """Assets, what is recorded of them, and runs; ``look`` is a tick of the sensor."""

    assets: list[Asset]
    now: float = 1_000_000.0
    records: dict[str, Recorded] = field(default_factory=dict)
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    runs: dict[str, KnownRun] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    asked: list[str] = field(default_factory=list)

    def facts(self) -> Facts:
        return Facts(self.now, tuple(self.assets), self.records, self.refused, tuple(self.runs.values()))

    def look(self) -> list[str]:
        """What is asked for now; its runs are queued."""
        self.now += 30
        facts = self.facts()
        memory = learn(Memory.decode(self.memory.encode()), facts)
        assert learn(memory, facts).attempts == memory.attempts, "the same facts teach nothing twice"
        decisions = decide(facts, memory)
        open_before = {key for run in self.runs.values() for key in run.open()}
        batches = requests(decisions)
        keys = [each.key for batch in batches.values() for each in batch]
        assert len(set(keys)) == len(keys) and not set(keys) & open_before, "nothing is asked for twice"
        assert all(len(batch) <= RUN_ASSETS + 1 for batch in batches.values())
        for batch in batches.values():
            self.start("automation", [each.key for each in batch])
        assert sum(run.is_active and run.trigger == "automation" for run in self.runs.values()) <= RUNS
        self.memory = asked_for(memory, facts, frozenset(keys))
        self.asked += keys
        return keys

    def decisions(self) -> dict[str, Decision]:
        facts = self.facts()
        return {each.key: each for each in decide(facts, learn(self.memory, facts))}

    def observe(self, key: str, version: str) -> None:
        self.now += 1
        self.records[key] = Recorded(version, None, {}, at=self.now)

    def start(self, trigger: str, keys: list[str], state: str = "queued") -> str:
        name = f"run-{len(self.runs)}"
        self.runs[name] = KnownRun(name, state, trigger, self.now, frozenset(keys))  # type: ignore[arg-type]
        return name

    def begin(self, name: str, key: str) -> None:
        self.now += 1
        run = self.runs[name]
        self.runs[name] = replace(run, state="running", steps={**run.steps, key: KnownStep("running", self.now)})

    def end(self, name: str, key: str, problem: Fault | None = None) -> None:
        """A step makes its asset, or fails."""
        self.now += 1
        run, asset = self.runs[name], next(asset for asset in self.assets if asset.key == key)
        began = run.steps[key].started
        step = KnownStep("done", began, self.now) if problem is None else KnownStep("failed", began, self.now, problem)
        self.runs[name] = replace(run, steps={**run.steps, key: step})
        if problem is None:
            nothing = Recorded("INITIAL", None, {})
            inputs = {each: self.records.get(each, nothing).data_version for each in asset.inputs}
            # The same inputs give the same bytes, and sometimes so do others.
            made = (
                f"{asset.code}-{sum(map(len, inputs.values())) % 3}"
                if asset.key.endswith("!")
                else str((asset.code, inputs))
            )
            self.records[key] = Recorded(made, asset.code, inputs, run_id=name, at=self.now)

    def close(self, name: str, state: str, problem: Fault | None = None) -> None:
        self.now += 1
        self.runs[name] = replace(self.runs[name], state=state, ended=self.now, problem=problem)  # type: ignore[arg-type]

    def work(self, *, fails: dict[str, Fault] | None = None) -> None:
        """All active runs go to their end."""
        for name in [run.id for run in self.runs.values() if run.is_active]:
            lost: set[str] = set()
            for asset in self.assets:
                if asset.key not in self.runs[name].open():
                    continue
                if lost & set(asset.inputs):
                    lost.add(asset.key)
                    continue
                self.begin(name, asset.key)
                problem = (fails or {}).get(asset.key)
                self.end(name, asset.key, problem)
                if problem is not None:
                    lost.add(asset.key)
            self.close(name, "failed" if lost else "succeeded")

    def rest(self, **options: dict[str, Fault]) -> list[str]:
        """Ticks and runs until nothing is asked for; what was."""
        before = len(self.asked)
        for _ in range(60):
            if not self.look() and not any(run.is_active for run in self.runs.values()):
                return self.asked[before:]
            self.work(**options)
        raise AssertionError("it does not come to rest")

    def stale(self) -> set[str]:
        facts = self.facts()
        return {asset.key for asset in self.assets if facts.stale(asset) is not None}


def chain() -> World:
    """A variant of a base checkpoint, its scores, another variant that is made of it, and the leaderboard."""
    world = World(
        [
            Asset("variants/mean", ("base/one",), "a"),
            Asset("scores/quick/mean", ("variants/mean",), "s"),
            Asset("variants/second", ("base/two", "variants/mean"), "b"),
            Asset("scores/quick/second", ("variants/second",), "s"),
            Asset(BOARD, ("scores/quick/mean", "scores/quick/second"), "l", collects=True),
        ]
    )
    world.observe("base/one", "1")
    world.observe("base/two", "1")
    return world


EVERYTHING = {"variants/mean", "scores/quick/mean", "variants/second", "scores/quick/second", BOARD}


# -- what is asked for


def test_all_that_is_missing_is_asked_for_in_one_run() -> None:
    world = chain()
    assert set(world.look()) == EVERYTHING
    assert len(world.runs) == 1


def test_while_it_is_queued_or_made_it_is_not_asked_for_again() -> None:
    world = chain()
    world.look()
    assert world.look() == []
    world.begin("run-0", "variants/mean")
    assert world.look() == []
    world.end("run-0", "variants/mean")
    assert world.look() == []
    assert world.decisions()["variants/mean"].state == "current"
    assert world.decisions()["variants/second"].state == "queued"


@pytest.mark.parametrize("trigger", ["a person", "merge-assets build", "schedule"])
def test_what_somebody_else_is_making_is_left_alone_and_what_waits_for_it_waits(trigger: str) -> None:
    world = chain()
    name = world.start(trigger, ["variants/mean"], "running")
    assert world.look() == []
    assert "variants/mean is being made" in world.decisions()["variants/second"].reason
    world.begin(name, "variants/mean")
    world.end(name, "variants/mean")
    assert set(world.look()) == EVERYTHING - {"variants/mean"}


def test_nothing_is_made_of_a_checkpoint_that_was_never_observed() -> None:
    world = chain()
    del world.records["base/two"]
    assert world.rest() == ["variants/mean", "scores/quick/mean", BOARD]
    assert world.decisions()["variants/second"].reason == "base/two was never observed"
    assert "base/two was never observed" in world.decisions()["scores/quick/second"].reason


def test_an_input_that_is_made_again_with_the_same_bytes_asks_for_nothing() -> None:
    world = chain()
    world.rest()
    record = world.records["variants/mean"]
    world.records["variants/mean"] = replace(record, at=world.now + 5, run_id="of a person")
    assert world.rest() == []


def test_a_change_during_a_run_is_answered_after_it() -> None:
    world = chain()
    world.rest()
    world.observe("base/one", "2")
    assert "variants/mean" in world.look()
    world.begin("run-1", "variants/mean")
    world.end("run-1", "variants/mean")
    world.observe("base/one", "3")
    world.work()
    assert "variants/mean" in world.rest()
    assert not world.stale()


def test_what_automation_may_not_build_is_left_to_people() -> None:
    world = chain()
    world.assets = [replace(asset, automated=not asset.key.endswith("second")) for asset in world.assets]
    assert set(world.rest()) == {"variants/mean", "scores/quick/mean", BOARD}
    assert world.decisions()["variants/second"].state == "by hand"


def test_a_failed_blocking_check_holds_up_what_follows_and_says_so() -> None:
    world = chain()
    world.refused["variants/mean"] = ("finite",)
    world.records["variants/mean"] = Recorded("m", "a", {"base/one": "1"}, at=world.now)
    assert world.rest() == []
    assert world.decisions()["variants/mean"].state == "refused"
    assert world.decisions()["variants/second"].reason == "variants/mean: its check finite failed"


def test_a_great_many_assets_come_in_several_runs_each_whole_and_all_are_made() -> None:
    assets: list[Asset] = []
    for number in range(300):
        assets += [
            Asset(f"variants/v{number}", ("base/one",), "a"),
            Asset(f"scores/quick/v{number}", (f"variants/v{number}",), "s"),
        ]
    scores = tuple(asset.key for asset in assets if asset.key.startswith("scores"))
    world = World([*assets, Asset(BOARD, scores, "l", collects=True)])
    world.observe("base/one", "1")
    first = world.look()
    assert len(world.runs) == RUNS and len(first) == RUNS * RUN_ASSETS
    for run in world.runs.values():
        assert {key for key in run.keys if f"variants/{key.rsplit('/', 1)[-1]}" not in run.keys} == set()
    asked = first + world.rest()
    once = [key for key in asked if key != BOARD]
    assert sorted(once) == sorted(asset.key for asset in world.assets if asset.key != BOARD)
    assert asked[-1] == BOARD, "the leaderboard, which is also made each quarter of an hour meanwhile"


# -- failures


@pytest.mark.parametrize(("problem", "pauses"), [(SOFT, SOON), (HARD, RARELY)])
def test_a_failure_is_tried_again_after_growing_pauses(problem: Fault, pauses: tuple[float, ...]) -> None:
    world = chain()
    world.rest(fails={"variants/mean": problem})
    for pause in (*pauses, pauses[-1]):
        failed = world.decisions()["variants/mean"]
        assert failed.state == "failed" and failed.attempt is not None and failed.attempt.next_at is not None
        assert failed.attempt.next_at == failed.attempt.at + pause
        world.now = failed.attempt.next_at - 31
        assert world.look() == []
        assert "variants/mean" in world.look()
        world.work(fails={"variants/mean": problem})
        assert world.look() == []
    world.now += pauses[-1]
    assert "variants/mean" in world.rest()
    assert not world.stale() and not world.memory.attempts


def test_a_server_that_says_when_to_ask_again_is_not_asked_before() -> None:
    world = chain()
    world.rest(fails={"variants/mean": replace(SOFT, wait=600.0)})
    attempt = world.decisions()["variants/mean"].attempt
    assert attempt is not None and attempt.next_at == attempt.at + 600


def test_a_failure_is_forgotten_when_an_input_or_the_recipe_changes() -> None:
    world = chain()
    world.rest(fails={"variants/mean": HARD})
    world.observe("base/one", "2")
    assert "variants/mean" in world.look()
    world.work(fails={"variants/mean": HARD})
    assert world.look() == []
    world.assets[0] = replace(world.assets[0], code="edited")
    assert "variants/mean" in world.rest()
    assert not world.stale()


def test_an_input_that_changed_while_a_step_failed_is_tried_at_once() -> None:
    world = chain()
    world.look()
    world.begin("run-0", "variants/mean")
    world.observe("base/one", "2")
    world.end("run-0", "variants/mean", HARD)
    world.close("run-0", "failed")
    assert "variants/mean" in world.look()


def test_an_input_that_the_same_run_made_before_is_what_the_failure_is_of() -> None:
    world = chain()
    world.look()
    world.begin("run-0", "variants/mean")
    world.end("run-0", "variants/mean")
    world.begin("run-0", "scores/quick/mean")
    world.end("run-0", "scores/quick/mean", HARD)
    world.close("run-0", "failed")
    assert "scores/quick/mean" not in world.look()


def test_of_a_run_that_was_killed_only_what_it_was_making_pauses() -> None:
    world = chain()
    world.look()
    world.begin("run-0", "variants/mean")
    world.close("run-0", "failed", SOFT)
    assert world.look() == []
    assert set(world.memory.attempts) == {"variants/mean"}
    world.now += SOON[0]
    assert set(world.look()) == EVERYTHING


def test_a_run_that_never_began_pauses_all_of_it() -> None:
    world = chain()
    world.look()
    world.close("run-0", "failed", SOFT)
    assert world.look() == []
    world.now += SOON[0]
    assert set(world.look()) == EVERYTHING


def test_the_failure_of_one_does_not_hold_up_others() -> None:
    world = chain()
    assert world.rest(fails={"scores/quick/mean": HARD}).count("variants/second") == 1
    assert world.stale() == {"scores/quick/mean"}


def test_what_is_made_and_is_out_of_date_all_the_same_does_not_run_for_ever() -> None:
    world = chain()
    for _ in range(20):
        world.look()
        world.work()
        record = world.records["variants/mean"]
        world.records["variants/mean"] = replace(record, inputs={"base/one": "what no observation says"})
    assert world.asked.count("variants/mean") <= 6
    failed = world.decisions()["variants/mean"]
    assert failed.state == "failed" and "made" in failed.reason


SCORES = "scores/quick/mean"


@pytest.mark.parametrize("may_pass", [True, False])
def test_scores_that_lack_tasks_are_tried_again_after_growing_pauses_if_that_may_help(may_pass: bool) -> None:
    world = chain()
    world.rest()
    for tries in range(4):
        world.records[SCORES] = replace(world.records[SCORES], failed="1 of 2 tasks failed", may_pass=may_pass)
        assert world.asked.count(SCORES) == 1 + tries * may_pass
        decision = world.decisions()[SCORES]
        if not may_pass:
            assert decision.state == "current"
            continue
        assert SCORES in world.look()
        world.work()
        world.records[SCORES] = replace(world.records[SCORES], failed="1 of 2 tasks failed", may_pass=may_pass)
        assert SCORES not in world.look()
        failed = world.decisions()[SCORES]
        assert (failed.state, failed.reason) == ("failed", "1 of 2 tasks failed")
        assert failed.attempt is not None and failed.attempt.next_at == failed.attempt.at + SOON[tries]
        world.now = failed.attempt.next_at + 1
    world.now += SOON[-1]
    world.rest()  # it is whole now
    assert world.decisions()[SCORES].state == "current"


@pytest.mark.parametrize(
    "error", [each for each in MergeAssetsError.__subclasses__() for each in (each, *each.__subclasses__())]
)
def test_every_error_that_may_pass_counts_as_one_that_does(error: type[MergeAssetsError]) -> None:
    assert not error.may_pass or error.kind in MAY_PASS


def test_so_do_those_of_the_hub() -> None:
    for trouble in get_args(HubTrouble):
        error = HubError("org/name", "said", trouble)
        assert (error.kind in MAY_PASS) == error.may_pass


# -- people


def test_what_was_cancelled_stays_so_until_something_changes() -> None:
    world = chain()
    world.look()
    world.begin("run-0", "variants/mean")
    world.close("run-0", "cancelled")
    world.now += 10 * 24 * 3600
    assert world.look() == []
    assert world.decisions()["variants/mean"].state == "cancelled"
    world.observe("base/one", "2")
    assert world.look() == ["variants/mean"], "what follows was cancelled, too, and waits for other bytes"
    world.work()
    assert set(world.rest()) == EVERYTHING - {"variants/mean"}


def test_what_was_cancelled_and_then_made_by_a_person_counts_as_made() -> None:
    world = chain()
    world.look()
    world.close("run-0", "cancelled")
    world.look()
    world.start("a person", ["variants/mean"], "running")
    world.work()
    assert set(world.rest()) == EVERYTHING - {"variants/mean"}


def test_a_failure_of_a_person_ends_that_something_is_cancelled() -> None:
    world = chain()
    world.look()
    world.close("run-0", "cancelled")
    world.look()
    world.start("a person", ["variants/mean"], "running")
    world.work(fails={"variants/mean": SOFT})
    world.look()
    assert world.decisions()["variants/mean"].state == "failed"


# -- words


def test_every_decision_says_what_and_why() -> None:
    world = chain()
    world.rest(fails={"variants/mean": HARD})
    text = words.sentence(world.decisions()["variants/mean"])
    assert text.startswith("variants/mean failed: it does not fit; tried once, last at ")
    assert "in run run-0; again at " in text
    assert words.summary(list(world.decisions().values())).startswith("1 failed, 4 waiting. variants/mean failed")
    assert words.sentence(world.decisions()["scores/quick/second"]) == (
        "scores/quick/second waits: variants/second waits: variants/mean failed: it does not fit"
    )


def test_a_cursor_of_another_version_is_none_at_all() -> None:
    assert Memory.decode("gibberish") == Memory.decode(None) == Memory()


# -- everything at once


@st.composite
def worlds(draw: st.DrawFn) -> World:
    assets: list[Asset] = []
    for number in range(draw(st.integers(1, 7))):
        below = [asset.key for asset in assets if asset.key.startswith("variants")]
        inputs = draw(st.lists(st.sampled_from([*below, "base/one", "base/two", "base/three"]), min_size=1, max_size=3))
        mark = "!" if draw(st.booleans()) else ""
        assets.append(Asset(f"variants/v{number}{mark}", tuple(sorted(set(inputs))), "a"))
        if draw(st.booleans()):
            assets.append(Asset(f"scores/quick/v{number}", (assets[-1].key,), "s"))
    scores = tuple(asset.key for asset in assets if asset.key.startswith("scores"))
    return World([*assets, *([Asset(BOARD, scores, "l", collects=True)] if scores else [])])


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(0, 2**32), st.integers(5, 60))
def test_whatever_happens_all_is_made_in_the_end_and_nothing_twice_at_once(world: World, seed: int, moves: int) -> None:
    chance = random.Random(seed)
    cancelled: set[str] = set()
    for _ in range(moves):
        active = [run.id for run in world.runs.values() if run.is_active]
        match chance.randrange(9):
            case 0:
                world.observe(chance.choice(["base/one", "base/two", "base/three"]), chance.choice("123"))
            case 1:
                index = chance.randrange(len(world.assets))
                world.assets[index] = replace(world.assets[index], code=chance.choice("abc"))
            case 2 if active:
                world.close(chance.choice(active), "failed", SOFT)
            case 3 if active:
                world.close(chance.choice(active), "cancelled")
            case 4:
                world.start(chance.choice(["a person", "schedule"]), [chance.choice(world.assets).key], "running")
            case 5 if active:
                world.work(
                    fails={asset.key: chance.choice([SOFT, HARD]) for asset in world.assets if chance.random() < 0.3}
                )
            case 6:
                world.now += chance.choice([60, 3600, 86400])
            case _:
                before = {key for key, each in world.decisions().items() if each.state == "cancelled"}
                assert not before & set(world.look()), "what was cancelled stays so"
    for base in ("base/one", "base/two", "base/three"):
        world.observe(base, "last")
    world.work()
    for _ in range(8):
        world.rest()
        world.now += RARELY[-1]
    states = world.decisions()
    cancelled = {key for key, each in states.items() if each.state == "cancelled"}
    excused = set(cancelled)
    for asset in world.assets:
        if set(asset.inputs) & excused and not asset.collects:
            excused.add(asset.key)
    assert world.stale() <= excused | ({BOARD} if set(states) & cancelled else set())
    assert world.rest() == []


# -- what went by `keep`


@pytest.mark.parametrize("automated", [True, False])
def test_what_went_from_the_store_is_made_before_something_is_made_of_it(automated: bool) -> None:
    point = Asset("variants/p", ("base/x",), "c", automated=automated)
    scores = Asset("scores/s/p", ("variants/p",), "s")
    records = {"base/x": Recorded("x", None, {}), "variants/p": Recorded("p", "c", {"base/x": "x"})}
    there = Facts(1e6, (point, scores), records)
    assert [each.state for each in decide(there, Memory())] == ["current", "requested"]
    gone = replace(there, let_go=frozenset({"variants/p"}))
    made, measured = decide(gone, Memory())
    assert made.reason == "its bytes went by `keep`, and something is to be made of them"
    if automated:
        assert (made.state, measured.state, made.batch) == ("requested", "requested", measured.batch)
    else:
        assert (made.state, measured.state) == ("by hand", "waiting")
        assert measured.reason.startswith("variants/p is left to people: ")


# -- freshness


def test_what_was_not_looked_at_for_long_is_asked_for_alone_and_late_if_nobody_did() -> None:
    world = chain()
    world.assets[0] = replace(world.assets[0], fresh=1000.0)
    world.rest()
    assert world.look() == []
    world.now += 800
    assert world.look() == ["variants/mean"], "what follows has nothing to do"
    world.work()
    assert world.look() == [] and not world.facts().is_late(world.assets[0])
    world.now += 800
    assert world.look() == ["variants/mean"]
    world.work(fails={"variants/mean": SOFT})
    assert world.look() == []
    assert world.decisions()["variants/mean"].state == "failed"
    world.now += 300
    assert world.facts().is_late(world.assets[0])
