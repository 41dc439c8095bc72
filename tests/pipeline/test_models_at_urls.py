"""Contract of models at URLs in Dagster: what is wrong with one is on its asset, in one line, though nothing was run; and gone
when the model is well again.

A real S3 server and a real Dagster instance; of the sensor, the ticks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from merge_assets import api
from merge_assets.errors import StoreUnreachableError
from merge_assets.pipeline import looks as looking
from merge_assets.pipeline.access import CHECKS, REACHABLE, SURE_AFTER
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.automation import Reconciler
from merge_assets.pipeline.bases import changed_bases
from merge_assets.pipeline.graph import build_graph
from merge_assets.pipeline.looks import Looks
from merge_assets.pipeline.nodes import ModelNode
from merge_assets.pipeline.status import status_of
from merge_assets.pipeline.versions import recorded
from merge_assets.reference import ModelReference
from merge_assets.store.place.fsspec import FsspecPlace
from tests.api.test_models_at_urls import Remote
from tests.s3.rgw import Rgw

pytestmark = pytest.mark.filterwarnings("ignore")

SHARD = "model-00002-of-00002.safetensors"
WELL = "All files of this model are there and can be read."


class Site:
    """A project with a model ``b`` in a bucket and in a folder, and its sensor."""

    def __init__(self, root: Path, rgw: Rgw, bucket: str, instance: dg.DagsterInstance) -> None:
        self.rgw, self.bucket, self.instance = rgw, bucket, instance
        self.remote = Remote(root, f"s3://{bucket}/models", rgw.options())
        self.cursor: str | None = None
        self.load()

    def load(self) -> None:
        self.space = self.remote.space(default_suites=[])
        self.graph = build_graph(self.space)
        self.definitions = build_definitions(self.space, self.graph)
        self.sensor = self.definitions.get_sensor_def("local_checkpoints")

    def node(self, reference: str | None = None) -> ModelNode:
        wanted = ModelReference(reference or f"{self.remote.url}/b")
        return next(node for node in self.graph.bases if node.reference == wanted)

    def context(self) -> dg.SensorEvaluationContext:
        return dg.build_sensor_context(instance=self.instance, cursor=self.cursor)

    def take(self, result: dg.SensorResult) -> list[dg.AssetKey]:
        """Record what a tick gave; the models whose check is among it."""
        self.cursor = result.cursor
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return [event.asset_key for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]

    def tick(self) -> list[dg.AssetKey]:
        result = self.sensor(self.context())
        assert isinstance(result, dg.SensorResult)
        return self.take(result)

    def run(self, selection: Any) -> bool:
        """Run an observation or a check, as by hand."""
        job = dg.define_asset_job("by_hand", selection=selection)
        defined = dg.Definitions.merge(self.definitions, dg.Definitions(jobs=[job]))
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        made = defined.resolve_job_def("by_hand")
        return made.execute_in_process(run_config=quiet, instance=self.instance, raise_on_error=False).success

    def state(self, node: ModelNode | None = None) -> tuple[bool, str]:
        """Whether the check of a model passes, and what its page says."""
        key = dg.AssetCheckKey((node or self.node()).key, CHECKS["url"])
        record = self.instance.get_latest_asset_check_evaluation_record(key)
        assert record is not None, f"{key} has no state"
        evaluation = record.event.asset_check_evaluation
        assert evaluation is not None and not evaluation.blocking
        kind = evaluation.metadata.get("error_kind")
        assert evaluation.passed == (kind is None) == (evaluation.metadata["state"].value == REACHABLE)
        assert kind is None or (evaluation.description or "").startswith(f"{kind.value}: ")
        return evaluation.passed, evaluation.description or ""

    def status(self) -> dict[str, tuple[str, str, bool]]:
        """What `merge-assets status` says of base checkpoints."""
        found = status_of(self.instance, self.graph, Reconciler(self.space, self.graph))
        return {
            line.key: (line.state, line.reason, line.needs_person)
            for line in found.lines
            if line.key.startswith("base/")
        }

    def damage(self, what: str) -> None:
        files, at = self.remote.files, self.remote.at
        if what == "nothing is there":
            for file in (self.remote.root / "b").iterdir():
                files.rm_file(at("b", file.name))
        if what == "a shard is not there yet":
            files.rm_file(at("b", SHARD))
        if what == "a shard is cut":
            files.pipe_file(at("b", SHARD), (self.remote.root / "b" / SHARD).read_bytes()[:-100])
        if what == "access is denied":
            resource = [f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/*"]
            denied = {"Effect": "Deny", "Principal": "*", "Action": ["s3:ListBucket", "s3:GetObject"]}
            policy = {"Version": "2012-10-17", "Statement": [{**denied, "Resource": resource}]}
            self.rgw.client().put_bucket_policy(Bucket=self.bucket, Policy=json.dumps(policy))

    def repair(self) -> None:
        self.rgw.client().delete_bucket_policy(Bucket=self.bucket)
        self.remote.upload("b")


@pytest.fixture
def site(tmp_path: Path, rgw: Rgw, bucket: str) -> Iterator[Site]:
    (tmp_path / "project").mkdir()
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        yield Site(tmp_path / "project", rgw, bucket, instance)
    rgw.client().delete_bucket_policy(Bucket=bucket)


SAID = {
    "nothing is there": "there are no files; correct the URL",
    "a shard is not there yet": SHARD,
    "a shard is cut": SHARD,
    "access is denied": "cannot be listed",
}


@pytest.mark.parametrize("what", SAID)
def test_what_is_wrong_is_on_the_asset_and_in_the_status_until_it_is_well_again(what: str, site: Site) -> None:
    site.tick()
    before = recorded(site.instance, site.node().key)
    assert site.state() == (True, WELL) and before is not None
    assert site.tick() == [], "nothing is recorded again"
    site.damage(what)
    assert site.node().key in site.tick()
    passed, said = site.state()
    assert not passed and "\n" not in said and site.rgw.secret not in said
    assert f"{site.remote.url}/b" in said and SAID[what] in said
    assert site.status()[site.node().key.to_user_string()] == ("refused", said, True)
    assert site.tick() == []
    assert recorded(site.instance, site.node().key) == before, "what was recorded stays"
    site.repair()
    assert site.node().key in site.tick()
    assert site.state() == (True, WELL) and site.status() == {}


def test_a_bucket_that_is_not_there_is_said_of_its_models_alone(site: Site) -> None:
    absent = "s3://no-such-bucket/models/b"
    site.remote.recipe("absent", f"merge_method: passthrough\nmodels: [{{model: '{absent}'}}]\n")
    site.load()
    site.tick()
    passed, said = site.state(site.node(absent))
    assert not passed and absent in said and "there are no files" in said
    assert site.state() == (True, WELL)
    assert list(site.status()) == [site.node(absent).key.to_user_string()]


def test_a_model_that_changes_while_it_is_read_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read_range, size = FsspecPlace.read_range, (site.remote.root / "b" / SHARD).stat().st_size
    name = site.remote.at("b", SHARD)

    def change(place: FsspecPlace, path: str, begin: int, end: int) -> bytes:
        if path.endswith(f"b/{SHARD}") and end == size:
            site.remote.files.pipe_file(name, bytes(reversed(site.remote.files.cat_file(name))))
        return read_range(place, path, begin, end)

    with monkeypatch.context() as changing:
        changing.setattr(FsspecPlace, "read_range", change)
        site.tick()
    passed, said = site.state()
    assert not passed and f"{SHARD}: changed while it was read; wait" in said
    site.repair()
    site.tick()
    assert site.state() == (True, WELL)


def test_a_run_that_observes_it_says_the_same(site: Site) -> None:
    observed = dg.AssetSelection.assets(site.node().key).without_checks()
    site.damage("a shard is not there yet")
    assert not site.run(observed)
    passed, said = site.state()
    assert not passed and SHARD in said
    site.repair()
    assert site.run(observed)
    assert site.state() == (True, WELL)
    assert recorded(site.instance, site.node().key) is not None


def test_the_check_can_be_run_by_hand(site: Site) -> None:
    by_hand = dg.AssetSelection.checks(dg.AssetCheckKey(site.node().key, CHECKS["url"]))
    assert site.run(by_hand)
    assert site.state() == (True, WELL)
    site.damage("a shard is cut")
    assert site.run(by_hand), "a check that does not pass is no failure of its run"
    passed, said = site.state()
    assert not passed and SHARD in said


def test_what_may_pass_by_itself_is_said_when_it_lasts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.tick()
    observe = api.observe

    def unreachable(space: api.Workspace, reference: ModelReference, **more: Any) -> Any:
        if reference.is_url:
            raise StoreUnreachableError(f"{reference}: cannot be listed: it does not answer")
        return observe(space, reference, **more)

    with monkeypatch.context() as down:
        down.setattr(api, "observe", unreachable)
        for _ in range(SURE_AFTER - 1):
            assert site.tick() == []
        assert site.node().key in site.tick()
    passed, said = site.state()
    assert not passed and said.startswith("store.unreachable: ") and "it does not answer" in said
    site.tick()
    assert site.state() == (True, WELL)


def test_a_server_that_does_not_answer_holds_up_no_tick_and_no_other_model(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe, answers = api.observe, threading.Event()

    def silent(space: api.Workspace, reference: ModelReference, **more: Any) -> Any:
        if reference.is_url and not answers.wait(60):
            raise AssertionError("the tick waits")
        return observe(space, reference, **more)

    monkeypatch.setattr(api, "observe", silent)
    monkeypatch.setattr(looking, "_GRACE", 0.0)
    looks = Looks(site.space)
    here = site.node("./b")
    nodes = [site.node(), here]
    for _ in range(SURE_AFTER):
        site.take(changed_bases(site.space, nodes, site.context(), looks, seconds=2.0))
        assert recorded(site.instance, here.key) is not None
    passed, said = site.state()
    assert not passed and f"{site.remote.url}/b: there is no answer yet" in said
    answers.set()
    site.take(changed_bases(site.space, nodes, site.context(), looks))
    site.take(changed_bases(site.space, nodes, site.context(), looks))
    assert site.state() == (True, WELL)
