"""What happens to the project, drawn from the seed: people, bad luck, and both at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress

import dagster as dg

from tests.faults.chaos.processes import Census, Services, Tell, start
from tests.faults.chaos.project import BASES, BROKEN, FAULTS, GONE, GOOD, Project, Recipe
from tests.s3.rgw import Rgw

DECK = {
    "edit": 6,
    "half-saved": 2,
    "suites": 2,
    "remove": 3,
    "break": 3,
    "restore": 6,
    "base": 3,
    "KILL worker": 2,
    "TERM worker": 1,
    "KILL step": 2,
    "TERM step": 1,
    "KILL forkserver": 1,
    "KILL model worker": 1,
    "KILL daemon": 1,
    "TERM daemon": 1,
    "KILL ui": 1,
    "TERM ui": 1,
    "KILL code": 1,
    "KILL code server": 1,
    "s3": 2,
    "cancel": 3,
    "build": 2,
    "KILL build": 1,
}
"""How often each action comes in a round; a round is shuffled, then the next one begins."""

SERVICES = {"ui", "daemon", "code", "code server"}
"""What is killed only when all of it is up."""

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


class Chaos:
    """Draws actions and carries them out.

    Args:
        project: whose files change.
        services: their processes.
        census: finds what is killed.
        rgw: the bucket's server.
        instance: for the runs that are cancelled.
        rng: of the seed; nothing else decides.
        tell: takes what was done, for the transcript.
    """

    def __init__(
        self,
        project: Project,
        services: Services,
        census: Census,
        rgw: Rgw,
        instance: dg.DagsterInstance,
        rng: random.Random,
        tell: Tell,
    ) -> None:
        self.project, self.services, self.census, self.rgw = project, services, census, rgw
        self.instance, self.rng, self.tell = instance, rng, tell
        self.deck: list[str] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.builds: list[subprocess.Popen[bytes]] = []
        self.kills: list[tuple[float, str]] = []
        self.outages: list[tuple[float, float]] = []
        self.counts: dict[str, int] = {}
        self.is_down = self.is_up = False

    def act(self) -> None:
        """The next action of the deck that there is something to do it to; those before it wait for the next time."""
        passed: list[str] = []
        self.is_up = self._answers()
        while True:
            if not self.deck:
                self.deck = [name for name, times in DECK.items() for _ in range(times)]
                self.rng.shuffle(self.deck)
            name = self.deck.pop()
            if what := self._try(name):
                break
            passed.append(name)
        self.deck += reversed(passed)
        self.counts[name] = self.counts.get(name, 0) + 1
        self.tell(name, what)

    def _try(self, name: str) -> str:
        """What was done; nothing if there was nothing to do it to."""
        verb, _, rest = name.partition(" ")
        if rest:
            return self._kill(verb, rest)
        actions: Mapping[str, Callable[[], str]] = {
            "edit": self._edit,
            "half-saved": self._half_saved,
            "suites": self._suites,
            "remove": self._remove,
            "break": self._break,
            "restore": self._restore,
            "base": self._base,
            "s3": self._s3,
            "cancel": self._cancel,
            "build": self._build,
        }
        return actions[name]()

    def go_on(self) -> None:
        """What was begun by an action and is due: the other half of a file, the end of an outage."""
        due = [each for each in self.later if each[0] <= time.monotonic()]
        self.later = [each for each in self.later if each not in due]
        for _, finish in due:
            finish()

    def settle(self) -> None:
        """End all that is under way, and leave a valid set of recipes.

        What somebody cancelled stays so until something of it changes; so each of these is edited.
        """
        for _, finish in self.later:
            finish()
        self.later = []
        for recipe in self.project.recipes:
            if recipe.state == BROKEN or recipe.cancelled or self.rng.random() < 0.2:
                recipe.generation += 1
            recipe.cancelled = False
            self.project.save(recipe)
        for base in BASES:
            self.project.change_base(base, self.rng.random(), in_place=False)
        for build in self.builds:
            build.wait(600)
        self.tell("settled", f"{len(self.project.recipes)} recipes are valid, every base has changed")

    # -- people

    def _some(self, *states: str) -> Recipe | None:
        found = [recipe for recipe in self.project.recipes if recipe.state in states]
        return self.rng.choice(found) if found else None

    def _edit(self) -> str:
        if (recipe := self._some(GOOD)) is None:
            return ""
        self._change(recipe)
        self.project.save(recipe)
        return f"{recipe.name} is generation {recipe.generation}"

    def _half_saved(self) -> str:
        if (recipe := self._some(GOOD)) is None:
            return ""
        self._change(recipe)
        self.project.save_half(recipe)
        wait = self.rng.uniform(0.5, 20)
        self._after(wait, lambda: self._finish(recipe))
        return f"{recipe.name} is half of generation {recipe.generation} for {wait:.1f} s"

    def _finish(self, recipe: Recipe) -> None:
        if recipe.state == GOOD:
            self.project.save(recipe)
            self.tell("saved", f"the other half of {recipe.name}")

    def _suites(self) -> str:
        if (recipe := self._some(GOOD)) is None:
            return ""
        recipe.scored = not recipe.scored
        self.project.save(recipe)
        return f"{recipe.name} is {'' if recipe.scored else 'not '}evaluated"

    def _remove(self) -> str:
        if (recipe := self._some(GOOD, BROKEN)) is None:
            return ""
        self.project.remove(recipe)
        return recipe.name

    def _break(self) -> str:
        if (recipe := self._some(GOOD)) is None:
            return ""
        fault = self.rng.choice(FAULTS)
        self.project.spoil(recipe, fault)
        return f"{recipe.name}: {fault}"

    def _restore(self) -> str:
        if (recipe := self._some(GONE, BROKEN)) is None:
            return self._edit()
        if self.rng.random() < 0.5:
            self._change(recipe)
        self.project.save(recipe)
        return f"{recipe.name} as generation {recipe.generation}"

    def _base(self) -> str:
        name, in_place = self.rng.choice(BASES), self.rng.random() < 0.3
        self.project.change_base(name, self.rng.random(), in_place=in_place)
        return f"{name}, {'in place' if in_place else 'as a new file'}"

    def _change(self, recipe: Recipe) -> None:
        recipe.generation += 1
        recipe.cancelled = False

    def _cancel(self) -> str:
        runs = self.instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
        if not (runs and self.is_up):
            return ""
        run = self.rng.choice(sorted(runs, key=lambda each: each.run_id))
        try:
            answer = self._ask("mutation($id: String!) {terminateRun(runId: $id) {__typename}}", id=run.run_id)
        except OSError as error:
            answer = str(error)
        names = {key.path[-1] for key in run.asset_selection or ()}
        for recipe in self.project.recipes:
            recipe.cancelled |= recipe.name in names
        return f"{run.run_id}: {answer[:200]}"

    def _answers(self) -> bool:
        """Whether the UI is up: what has not come up yet is left alone, or nothing ever would."""
        try:
            return "version" in self._ask("{version}")
        except OSError:
            return False

    def _ask(self, query: str, **variables: str) -> str:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.services.port}/graphql", body, {"Content-Type": "application/json"}
        )
        answer: bytes = urllib.request.urlopen(request, timeout=20).read()
        return answer.decode()

    def _build(self) -> str:
        self.builds = [build for build in self.builds if build.poll() is None]
        if self.builds:
            return ""
        recipe = self._some(GOOD)
        names = [recipe.name] if recipe is not None and self.rng.random() < 0.5 else []
        command = [sys.executable, "-m", "merge_assets", "build", *names]
        self.builds.append(start(self.project.root, "build", command, self.services.environment))
        return f"of {names[0] if names else 'everything'} as {self.builds[-1].pid}"

    # -- bad luck

    def _kill(self, how: str, role: str) -> str:
        if role in SERVICES and not self.is_up:
            return ""
        found = [process for process in self.census.look() if process.role == role]
        if not found:
            return ""
        victim = self.rng.choice(found)
        self.kills.append((time.time(), f"{how} {role} {victim.pid}"))
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL if how == "KILL" else signal.SIGTERM)
        return f"{victim.pid} of {len(found)}: {victim.command[-90:]}"

    def _s3(self) -> str:
        if self.is_down:
            return ""
        seconds = self.rng.uniform(3, 25)
        self.rgw.stop()
        self.is_down = True
        began = time.time()
        self._after(seconds, lambda: self._end_outage(began))
        return f"down for {seconds:.0f} s"

    def _end_outage(self, began: float) -> None:
        self.rgw.start()
        self.is_down = False
        self.outages.append((began, time.time()))
        self.tell("s3", "up again")

    def _after(self, seconds: float, finish: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, finish))
