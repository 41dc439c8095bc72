"""Contract of a base's revision, from the push to the leaderboard: only what depends on what changed is made again.

Through Dagster's own processes, with a Hub on loopback and the store on a real S3 server, behind a proxy that counts.
What depends: of the assets, the variants, scores and leaderboard above the base; of a variant, the tensors whose inputs
changed; of the base, the shard that changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.pipeline import automation, hub_polling
from merge_assets.store import Artifact
from tests.hub_server import HubServer
from tests.pipeline import test_daemon
from tests.s3 import builds
from tests.s3.builds import model_files
from tests.s3.daemon import LEADERBOARD, BucketSite, keys_of, recipe_of, shard_of, tokenizer
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

VARIANTS = ["variants/mean", "variants/other", "variants/deep"]
BASE_SCORES = [f"scores/tiny/acme/{name}" for name in ("one", "two", "three")]
SCORES = [*BASE_SCORES, *(f"scores/tiny/{name}" for name in ("mean", "other", "deep"))]
BUILT = [*VARIANTS, *SCORES, LEADERBOARD]
REBUILT = {
    "variants/mean",
    "variants/deep",
    "scores/tiny/acme/one",
    "scores/tiny/mean",
    "scores/tiny/deep",
    LEADERBOARD,
}
CHANGED = 1
"""The shard of five that the revision changes; layers of it are in all variants of the model."""
HEADS = 3_000_000
"""Bytes that the sensor and the steps take at most to read the heads of all shards; a third of a shard."""
PART = 5 << 20


@pytest.fixture
def proxy(rgw: Rgw) -> Iterator[FaultProxy]:
    with FaultProxy(rgw.url) as proxy:
        yield proxy


@pytest.fixture
def site(
    tmp_path: Path, rgw: Rgw, proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BucketSite]:
    monkeypatch.setattr(test_daemon, "PATIENCE", 1500.0)  # ten evaluations and merges, one after the other
    with HubServer() as server:
        for seed, name in enumerate(("one", "two", "three")):
            server.commit(f"acme/{name}", model_files(seed) | tokenizer())
        root = tmp_path / "project"
        root.mkdir()
        made = BucketSite(
            root,
            server,
            f"s3://{bucket}/store",
            rgw.options(proxy.url),
            shard_size=builds.SHARD,
            default_suites=["tiny"],
            cache_dir="cache",
        )
        made.suite()
        made.recipe("mean", recipe_of("acme/one", "acme/two"))
        made.recipe("other", recipe_of("acme/two", "acme/three"))
        made.recipe("deep", builds.DEEP)
        try:
            yield made
        finally:
            for name in list(made.processes):
                made.kill(name)
            made.instance.dispose()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_push_rebuilds_what_depends_on_it_and_a_readme_nothing(site: BucketSite, proxy: FaultProxy) -> None:
    site.start("code")
    site.wait("the code server answers", site.is_serving)
    site.start("daemon")
    site.wait_until_current(*BUILT)
    assert site.materialised(site.run_ids()).keys() == set(BUILT)
    earlier = site.run_ids()
    lines = ["variants/mean", "variants/deep"]
    before = {line: site.current(line) for line in lines}

    site.server.served.clear()
    proxy.reset()
    files = model_files(0, change=CHANGED)
    shard, tensors = shard_of(files, CHANGED)
    pushed = time.time()
    commit = site.server.commit("acme/one", {shard: files[shard]})
    site.wait("the revision is observed", lambda: site.revision("acme", "one") == commit)
    site.wait_until_current(*BUILT)
    check_what_was_made(site, site.run_ids() - earlier, pushed)
    check_what_was_moved(site, proxy, shard, len(files[shard]))
    after = {line: site.current(line) for line in lines}

    check_what_was_computed(before, after, tensors)
    check_metadata(site, after)
    check_bytes(site, after)

    seen, known = site.ticks(automation.AUTOMATION_SENSOR), site.run_ids()
    commit = site.server.commit("acme/one", {"README.md": b"# News"})
    site.wait("the commit is recorded", lambda: site.revision("acme", "one") == commit)
    site.wait("automation looks three times", lambda: site.ticks(automation.AUTOMATION_SENSOR) >= seen + 3)
    assert site.run_ids() == known


def check_what_was_made(site: BucketSite, rebuild: set[str], pushed: float) -> None:
    made = site.materialised(rebuild)
    assert made.keys() == REBUILT
    # The leaderboard does not wait for variants that are being built, only for scores.
    assert {key for key, times in made.items() if times > 1} <= {LEADERBOARD}
    # The sensors look more often here than they do for people.
    waiting = hub_polling.INTERVAL_SECONDS + automation.INTERVAL_SECONDS
    assert site.begun(rebuild) - pushed + waiting < 120


def check_what_was_moved(site: BucketSite, proxy: FaultProxy, shard: str, size: int) -> None:
    """From the Hub one shard, and of the checkpoint into the bucket one shard."""
    assert site.server.sent(shard) >= size
    assert sum(each.sent for each in site.server.served if each.path.endswith(".safetensors")) < size + HEADS
    into_mirror = proxy.counts(path="checkpoints/acme/one/.*safetensors").received
    assert size <= into_mirror < size + PART
    into_mean = proxy.counts(path="variants/mean/.*safetensors").received
    # Beside what was computed, what fills up parts with it.
    assert into_mean < size + 3 * PART


def check_what_was_computed(before: Mapping[str, Artifact], after: Mapping[str, Artifact], tensors: set[str]) -> None:
    old, new = keys_of(before["variants/mean"]), keys_of(after["variants/mean"])
    assert {name for name, key in new.items() if key != old[name]} == tensors
    for line, computed in ("variants/mean", len(tensors)), ("variants/deep", 0):  # the second is copied from the first
        report = after[line].manifest.details["report"]
        assert report["tensors_computed"] == computed
        assert report["tensors_reused"] == len(keys_of(after[line])) - computed


def check_metadata(site: BucketSite, after: Mapping[str, Artifact]) -> None:
    for line in ("variants/mean", "variants/deep"):
        shown, report = site.metadata(line), after[line].manifest.details["report"]
        assert shown["fingerprint"] == after[line].version
        assert shown["outcome"] == "built" and f"{report['tensors_reused']} taken over" in shown["work"]
        assert shown["tensors_computed"] == report["tensors_computed"]
        for name in ("read", "written"):
            assert shown[f"{name}_mib"] == round(report[f"bytes_{name}"] / 2**20, 3)


def check_bytes(site: BucketSite, after: Mapping[str, Artifact]) -> None:
    """A clean build, in a store of its own, gives the same bytes."""
    clean = site.workspace(store=str(site.root / "clean"), store_options={})
    for name in ("mean", "deep"):
        built = api.build(clean, clean.recipe(name))
        assert built.report.tensors_reused == 0 or name == "deep"
        assert built.artifact.version == after[f"variants/{name}"].version
