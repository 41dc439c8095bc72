"""Trials: what was proposed is kept, a search that is opened again goes on as if it had not ended, and the best is the best."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError

from merge_assets.errors import SearchError
from merge_assets.recipe import Search
from merge_assets.search import patience
from merge_assets.search.frame import frame_of
from merge_assets.search.same import PLAN, same_merge, taken_from
from merge_assets.search.trials import Trial, Trials
from tests.postgres import Postgres

X, Y = "parameters.x", "parameters.y"


def search(**changes: Any) -> Search:
    given = {"space": {X: {"low": -2, "high": 2}, Y: {"low": -2.0, "high": 2}}, "objective": {"suite": "demo"}}
    return Search.model_validate({**given, **changes})


def opened(folder: Path, wanted: Search, higher: tuple[bool, ...] = (False,)) -> Trials:
    return Trials(f"sqlite:///{folder / 'trials.db'}", "study", wanted, higher)


def asked(trials: Trials) -> Trial:
    found = trials.ask()
    assert found is not None
    return found


def bowl(trial: Trial) -> float:
    return float(sum((value - 0.5) ** 2 for value in trial.values.values()))


def tried(trials: Trials, number: int) -> list[Trial]:
    for _ in range(number):
        trial = asked(trials)
        trials.tell(trial.number, [bowl(trial)], {})
    return trials.all()


def shown(trials: list[Trial]) -> list[object]:
    return [(one.number, one.state, dict(one.values), one.objectives) for one in trials]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2", "random"])
def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(sampler: str, tmp_path: Path) -> None:
    wanted = search(sampler=sampler, seed=3)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = tried(opened(tmp_path / "whole", wanted), 14)

    for number in (1, 5, 2):
        tried(opened(tmp_path / "parts", wanted), number)
    left = asked(opened(tmp_path / "parts", wanted))  # by a process that is killed then
    again = opened(tmp_path / "parts", wanted)
    taken = again.again(left.number)
    assert (taken.state, dict(taken.values)) == ("running", dict(left.values))
    again.tell(taken.number, [bowl(taken)], {})
    assert shown(tried(again, 5)) == shown(whole)


def test_another_seed_proposes_otherwise_and_samplers_learn(tmp_path: Path) -> None:
    found = {}
    for sampler, seed in (("tpe", 1), ("tpe", 2), ("random", 1)):
        folder = tmp_path / f"{sampler}{seed}"
        folder.mkdir()
        found[sampler, seed] = tried(opened(folder, search(sampler=sampler, seed=seed)), 40)
    assert found["tpe", 1][0].values != found["tpe", 2][0].values

    def later(key: tuple[str, int]) -> float:
        """Mean of what is proposed once there is something to learn from."""
        return sum(bowl(trial) for trial in found[key][20:]) / 20

    assert later(("tpe", 1)) < 0.5 * later(("random", 1))


def test_points_to_start_from_come_first_and_once(tmp_path: Path) -> None:
    wanted = search(start=[{X: 1, Y: -1.5}, {X: 0.0}])
    opened(tmp_path, wanted)
    trials = opened(tmp_path, wanted)  # another process, before any is asked for
    assert [one.state for one in trials.all()] == ["waiting"] * 2
    first, second, third = tried(trials, 3)[:3]

    assert dict(first.values) == {X: 1, Y: -1.5}
    assert second.values[X] == 0.0 and -2 <= second.values[Y] <= 2
    assert third.number == 2 and len(opened(tmp_path, wanted).all()) == 3


def test_a_place_with_a_condition_is_filled_only_where_it_holds(tmp_path: Path) -> None:
    method, density = "merge_method", "parameters.density"
    values = [[0, 1], "linear", True, 0.5, None, {"a": 1}]
    wanted = search(
        space={
            density: {"low": 1, "high": 9, "whole": True, "when": {method: ["ties", "dare"]}},
            method: ["linear", "ties", "dare"],
            "parameters.any": values,
        },
        sampler="random",
    )
    trials = opened(tmp_path, wanted)
    filled = [asked(trials) for _ in range(60)]

    assert {trial.values[method] for trial in filled} == {"linear", "ties", "dare"}
    assert all((density in trial.values) == (trial.values[method] != "linear") for trial in filled)
    assert {trial.values[density] for trial in filled if density in trial.values} == set(range(1, 10))
    assert [value for value in values if any(t.values["parameters.any"] is value or t.values["parameters.any"] == value
            for t in filled)] == values  # fmt: skip
    assert all(type(trial.values["parameters.any"]) in map(type, values) for trial in filled)
    assert shown(opened(tmp_path, wanted).all()) == shown(trials.all())


def test_the_best_of_several_objectives_are_those_that_none_beats(tmp_path: Path) -> None:
    wanted = search(objective=[{"suite": "demo"}, {"size": "parameters"}])
    trials = opened(tmp_path, wanted, (True, False))
    came = [(0.5, 10), (0.7, 20), (0.7, 15), (0.4, 5), (0.4, 9), (0.9, 90)]
    for one in came:
        trials.tell(asked(trials).number, one, {})

    def beaten(one: tuple[float, float]) -> bool:
        return any(a >= one[0] and b <= one[1] and (a, b) != one for a, b in came)

    assert [trial.number for trial in trials.best()] == [n for n, one in enumerate(came) if not beaten(one)]


@pytest.mark.parametrize("higher", [(True,), (True, False)])
def test_what_is_the_same_merge_as_another_is_named_and_never_the_best_beside_it(
    higher: tuple[bool, ...], tmp_path: Path
) -> None:
    wanted = search(objective=[{"suite": "demo"}, {"size": "parameters"}][: len(higher)])
    trials = opened(tmp_path, wanted, higher)
    values = [0.7, 10.0][: len(higher)]
    for told in ({PLAN: "one"}, {PLAN: "other"}):
        trials.tell(asked(trials).number, values if told[PLAN] == "one" else [0.1, 20.0][: len(higher)], told)
    trials.fail(asked(trials).number, "no room")

    first = same_merge(trials.all(), "one")
    assert first is not None and first.number == 0 and same_merge(trials.all(), "third") is None
    trials.tell(asked(trials).number, first.objectives, taken_from(first))
    again = trials.all()[3]
    assert (again.same_as, again.objectives, again.told["merge_seconds"]) == (0, tuple(values), 0.0)
    assert [trial.number for trial in trials.best()] == [0]
    assert frame_of(trials.all(), [X, Y], ["demo"])["same_as"].tolist()[3] == 0
    found = same_merge(
        trials.all()[1:], "one"
    )  # as another worker may see it: what was taken over is of that plan, too
    assert found is not None and found.number == 3


def test_of_equals_the_first_is_the_best_and_more_may_be_better(tmp_path: Path) -> None:
    trials = opened(tmp_path, search(), (True,))
    assert trials.best() == []
    for value in (0.1, 0.7, 0.7):
        trials.tell(asked(trials).number, [value], {})
    assert [trial.number for trial in trials.best()] == [1]


def test_a_failed_trial_says_why_and_a_later_word_counts_for_nothing(tmp_path: Path) -> None:
    trials = opened(tmp_path, search())
    first, second = asked(trials), asked(trials)
    trials.fail(first.number, "no room")
    trials.tell(first.number, [0.0], {"late": True})
    trials.tell(second.number, [1.0], {"merge_seconds": 2.0, "objectives": {"demo": 1.0}})
    trials.fail(second.number, "late")

    one, other = opened(tmp_path, search()).all()
    assert (one.state, one.reason, one.objectives) == ("failed", "no room", ())
    assert (other.state, other.reason, other.objectives) == ("done", "", (1.0,))
    assert [trial.number for trial in trials.best()] == [1]
    rows = frame_of([one, other], [X, Y], ["demo"])
    assert rows["reason"].tolist() == ["no room", ""] and rows["demo"].tolist()[1] == 1.0
    assert rows[X].tolist() == [one.values[X], other.values[X]]


def test_the_folder_of_a_storage_is_made_and_one_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    assert Trials(f"sqlite:///{tmp_path}/new/folder/t.db", "study", search(), (False,)).all() == []
    (tmp_path / "no").write_text("a file")
    with pytest.raises(SearchError, match=r"the storage of trials .* cannot be opened") as caught:
        Trials(f"sqlite:///{tmp_path}/no/such/folder/t.db", "study", search(), (False,))
    assert "\n" not in str(caught.value)


def test_what_is_given_up_is_told_apart_and_is_never_the_best(tmp_path: Path) -> None:
    trials = opened(tmp_path, search())
    for number, (value, over) in enumerate([(3.0, False), (1.0, True), (2.0, False)]):
        assert asked(trials).number == number
        trials.report(number, 0, value)
        if over:
            trials.give_up(number, "worse than trial 0 on 1/8 of the documents", {})
            trials.report(number, 1, 0.0)  # late, and of no matter
        else:
            trials.tell(number, [value], {})
    again = opened(tmp_path, search())

    assert [(one.state, one.objectives) for one in again.all()] == [
        ("done", (3.0,)),
        ("given up", ()),
        ("done", (2.0,)),
    ]
    assert [one.number for one in again.best()] == [2] and all(one.is_finished for one in again.all())
    assert [one.intermediate_values for one in again._study.get_trials()] == [{0: 3.0}, {0: 1.0}, {0: 2.0}]
    assert again.all()[1].reason.startswith("worse")


@pytest.mark.server
def test_a_database_that_is_started_anew_costs_a_wait_and_no_trial() -> None:
    wanted = search()
    with Postgres() as server, ThreadPoolExecutor(1) as meanwhile:
        trials = Trials(server.url, "study", wanted, (False,))
        tried(trials, 3)
        for between in ("all", "tell", "again", "report", "best"):
            trial = asked(trials)
            server.kill()
            back = meanwhile.submit(server.start)
            if between == "all":
                assert len(trials.all()) == trial.number + 1
            elif between == "again":
                assert trials.again(trial.number).values == trial.values
            elif between == "report":
                trials.report(trial.number, 0, 1.0)
            elif between == "best":
                assert trials.best()
            trials.tell(trial.number, [bowl(trial)], {})
            back.result()
        server.kill()
        assert trials.ask() is None
        server.start()
        tried(trials, 2)
        assert [one.state for one in trials.all()] == ["done"] * len(trials.all())


def test_a_storage_that_stays_away_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_SECONDS", 0)
    url = "postgresql+psycopg2://me:hidden@127.0.0.1:1/none"
    with pytest.raises(SearchError, match="cannot be opened") as caught:
        Trials(url, "study", search(), (True,))
    assert "hidden" not in str(caught.value)

    def away() -> None:
        raise StorageInternalError("an exception is raised") from OSError("connection refused")

    with pytest.raises(SearchError, match="is away: OSError: connection refused; start it") as caught:
        patience.patiently(url, away)
    assert "hidden" not in str(caught.value) and "\n" not in str(caught.value)


def test_another_study_begins_with_the_best_points_of_the_one_before_that_lie_in_its_space(tmp_path: Path) -> None:
    def study(name: str, digit: str, **changes: Any) -> Trials:
        wanted = search(sampler="random", trials=12, **changes)
        made = Trials(f"sqlite:///{tmp_path / 'trials.db'}", f"{name}-{digit * 12}", wanted, (False,))
        made.begin_with_best_before(name)
        return made

    before = tried(study("mix", "0"), 20)
    narrower = {X: {"low": -1, "high": 1}, Y: {"low": -2.0, "high": 2}}
    now = study("mix", "1", space=narrower)
    inside = [one for one in sorted(before, key=lambda one: one.objectives) if -1 <= one.values[X] <= 1]
    assert len(inside) > 4
    assert [asked(now).values for _ in range(3)] == [one.values for one in inside[:3]], "a quarter of its trials"
    assert asked(now).values not in [one.values for one in before]
    assert len(study("mix", "1", space=narrower).all()) == 4, "once it was begun, nothing is added"
    assert study("mix", "2", space={X: narrower[X]}).all() == study("other", "0").all() == []
