"""A project on the Hub and in a bucket, kept up to date by Dagster's own processes, and what they did for a revision.

By hand, with models of about 1.1 GB, the sensors' own intervals and no evaluation; needs 12 GB of memory and disk:

    python -m tests.s3.daemon [--layers 10] [--folder /tmp]

It prints how long after a push the rebuild began and ended, and what the incremental build took beside the clean one.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from merge_assets import api
from merge_assets.pipeline.versions import recorded
from merge_assets.settings import Settings
from merge_assets.store import Artifact
from tests import hub_server
from tests.evaluation_support import ONE_TASK, write_suite
from tests.hub_server import HubServer
from tests.pipeline import test_daemon
from tests.pipeline.test_daemon import DEFINITIONS, REPOSITORY, Site
from tests.s3 import builds
from tests.s3.rgw import Rgw

TOKENIZER = REPOSITORY / "examples" / "checkpoints" / "base"
LEADERBOARD = "leaderboard"


def recipe_of(*models: str) -> str:
    listed = ", ".join(f"{{model: {model}, parameters: {{weight: {i}}}}}" for i, model in enumerate(models, 1))
    return f"merge_method: linear\nmodels: [{listed}]\n"


def tokenizer() -> dict[str, bytes]:
    return {name: (TOKENIZER / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}


class BucketSite(Site):
    """A project whose store lies in a bucket, with its processes.

    Args:
        root: an empty folder.
        server: the Hub.
        store: URL of the store.
        options: of the store.
        **settings: further settings, such as ``shard_size``.
    """

    def __init__(self, root: Path, server: HubServer, store: str, options: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(root, server)
        known = {"store": store, "store_options": json.dumps(options), "enabled": ["*"], "device": "cpu", **settings}
        (root / "merge-assets.toml").write_text("".join(f"{name} = {json.dumps(known[name])}\n" for name in known))
        (root / "definitions.py").write_text(DEFINITIONS.replace("INTERVAL_SECONDS = 1", "INTERVAL_SECONDS = 4"))
        self.settings = {**known, "hub_endpoint": server.url}

    def recipe(self, name: str, text: str) -> None:
        (self.root / "recipes" / f"{name}.yaml").write_text(text)

    def suite(self) -> None:
        """The suite ``tiny``, which takes next to no time."""
        write_suite(self.root / "suites", documents=2)
        (self.root / "suites" / "tiny.yaml").write_text(ONE_TASK)

    def workspace(self, **changes: Any) -> api.Workspace:
        """The project as a person at another machine opens it: with a cache of its own."""
        own = {"cache_dir": self.root / "own", "hub_cache": self.root / "own-hub"}
        return api.Workspace.open(Settings(root=self.root, **(self.settings | own | changes)))

    def current(self, line: str) -> Artifact:
        artifact = self.workspace().store.current(line)
        assert artifact is not None, line
        return artifact

    def run_ids(self) -> set[str]:
        return {run.run_id for run in self.instance.get_runs()}

    def is_current(self, *keys: str) -> bool:
        """Whether assets were made of what is recorded for their inputs; no run may have failed."""
        failed = self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert not failed, [self._failures(run.run_id) for run in failed]
        return all(self._is_current(key) for key in keys)

    def _failures(self, run_id: str) -> list[str]:
        entries = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        return [f"{e.step_key}: {e.get_dagster_event().step_failure_data.error}" for e in entries]

    def _is_current(self, key: str) -> bool:
        own = self._recorded(key)
        inputs = {} if own is None else {name: self._recorded(name) for name in own.inputs}
        return own is not None and all(
            known is not None and known.data_version == own.inputs[name] for name, known in inputs.items()
        )

    def _recorded(self, key: str) -> Any:
        return recorded(self.instance, dg.AssetKey.from_user_string(key))

    def is_idle(self) -> bool:
        return all(run.is_finished for run in self.instance.get_runs())

    def wait_until_current(self, *keys: str) -> None:
        """Wait for one after the other, inputs first, and for the end of the runs."""
        for key in keys:
            self.wait(f"{key} is made of its inputs", lambda key=key: self.is_current(key))  # type: ignore[misc]
        self.wait("all are, and nothing runs", lambda: self.is_idle() and self.is_current(*keys))

    def materialised(self, run_ids: set[str]) -> Counter[str]:
        """How often runs made each asset."""
        return Counter(map(_key, self._materialisations(run_ids)))

    def begun(self, run_ids: set[str]) -> float:
        """When the first of the runs started, seconds since 1970."""
        records = self.instance.get_run_records(dg.RunsFilter(run_ids=list(run_ids)))
        return min(record.start_time for record in records if record.start_time is not None)

    def made(self, key: str, run_ids: set[str]) -> float:
        """When runs made an asset last, seconds since 1970."""
        return max(entry.timestamp for entry in self._materialisations(run_ids) if _key(entry) == key)

    def step_seconds(self, key: str, run_ids: set[str]) -> float:
        """Wall time of the step that made an asset in one of the runs."""
        (entry,) = [entry for entry in self._materialisations(run_ids) if _key(entry) == key]
        (stats,) = self.instance.get_run_step_stats(entry.run_id, [str(entry.step_key)])
        assert stats.start_time is not None
        assert stats.end_time is not None
        return stats.end_time - stats.start_time

    def _materialisations(self, run_ids: set[str]) -> list[dg.EventLogEntry]:
        wanted = dg.DagsterEventType.ASSET_MATERIALIZATION
        return [entry for run_id in run_ids for entry in self.instance.all_logs(run_id, of_type=wanted)]

    def metadata(self, key: str) -> Mapping[str, Any]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey.from_user_string(key))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: getattr(value, "value", None) for name, value in event.asset_materialization.metadata.items()}


def _key(entry: dg.EventLogEntry) -> str:
    key = entry.get_dagster_event().asset_key
    assert key is not None
    return key.to_user_string()


def keys_of(artifact: Artifact) -> dict[str, str]:
    """Tensor keys of a version, by tensor."""
    return {p.name: p.key for entry in artifact.manifest.files.values() for p in entry.pieces if p.name}


def shard_of(files: Mapping[str, bytes], number: int) -> tuple[str, set[str]]:
    """Name of a checkpoint's shard (from 0), and its tensors."""
    places = json.loads(files["model.safetensors.index.json"])["weight_map"]
    name = sorted(set(places.values()))[number]
    return name, {tensor for tensor, file in places.items() if file == name}


# -- by hand -------------------------------------------------------------------------------------------------------------

SHARDS, CHANGED = 5, 2


def large_shard(layers: int, seed: int, number: int, *, changed: bool = False) -> tuple[list[str], bytes]:
    """A shard of a checkpoint of TinyLlama's shape: its tensors, and the file."""
    from benchmarks.checkpoints import shapes  # torch

    listed = np.array(list(shapes(layers)), dtype=object)
    tensors: dict[str, Any] = dict(np.array_split(listed, SHARDS)[number])
    random = np.random.default_rng([seed, number, changed])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, blobs = 0, []
    for name, shape in tensors.items():
        values = (random.standard_normal(shape, dtype=np.float32) * 0.02).view(np.uint32) >> 16
        blobs.append(values.astype("<u2").tobytes())
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + len(blobs[-1])]}
        at += len(blobs[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return list(tensors), b"".join([len(text).to_bytes(8, "little"), text, *blobs])


def shard_name(number: int) -> str:
    return f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"


def large_files(layers: int, seed: int) -> dict[str, bytes]:
    """A checkpoint of TinyLlama's shape in five shards; 1.1 GB for ten layers."""
    from benchmarks.checkpoints import config

    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for number in range(SHARDS):
        tensors, files[shard_name(number)] = large_shard(layers, seed, number)
        places |= dict.fromkeys(tensors, shard_name(number))
    index = {"metadata": {"total_size": sum(map(len, files.values()))}, "weight_map": places}
    small = {"config.json": config(layers), "model.safetensors.index.json": index}
    return files | {name: json.dumps(content).encode() for name, content in small.items()} | tokenizer()


def measure(site: BucketSite, layers: int, *, scores: bool) -> None:
    """Build all, push a revision, wait until all is built again, and print what it took."""
    built = ["variants/mean", "variants/deep"]
    wanted = [*built, *(f"scores/tiny/{name}" for name in ("acme/one", "acme/two", "mean", "deep")), LEADERBOARD]
    wanted = wanted if scores else built
    site.start("code")
    site.wait("the code server answers", site.is_serving)
    site.start("daemon")
    site.wait_until_current(*wanted)
    first = site.run_ids()
    site.server.served.clear()

    _, changed = large_shard(layers, 0, CHANGED, changed=True)
    pushed = time.time()
    commit = site.server.commit("acme/one", {shard_name(CHANGED): changed})
    site.wait("the revision is observed", lambda: site.revision("acme", "one") == commit)
    site.wait_until_current(*wanted)
    rebuild = site.run_ids() - first
    downloaded = site.server.sent(".safetensors")

    # All of it computed, of models that are in the bucket.
    site.recipe("control", recipe_of("acme/two", "acme/one"))
    site.reload()
    site.wait_until_current("variants/control")
    control = site.step_seconds("variants/control", site.run_ids() - first - rebuild)

    size = site.current("checkpoints/acme/one").manifest.size
    print(f"models of {size / 1e9:.2f} GB; the shard that changed has {len(changed) / 1e9:.2f} GB")
    print(f"assets made after the push: {dict(site.materialised(rebuild))}")
    print(f"push to the start of the first run: {site.begun(rebuild) - pushed:.0f} s")
    for name in [*built, *([LEADERBOARD] if scores else [])]:
        print(f"push to {name}: {site.made(name, rebuild) - pushed:.0f} s")
    print(f"downloaded from the Hub after the push: {downloaded / 1e9:.3f} GB")
    for name in built:
        clean, again = site.step_seconds(name, first), site.step_seconds(name, rebuild)
        print(f"{name}: first {clean:.1f} s, after the push {again:.1f} s, ratio {again / clean:.2f}")
        print(f"  {site.current(name).manifest.details['report']}")
    again = site.step_seconds("variants/mean", rebuild)
    print(f"all computed, of mirrored models: {control:.1f} s, ratio {again / control:.2f}")

    clean_store = site.workspace(store=str(site.root / "clean"), store_options={})
    for name in ("mean", "deep"):
        begun = time.monotonic()
        version = api.build(clean_store, clean_store.recipe(name)).artifact.version
        same = version == site.current(f"variants/{name}").version
        print(f"{name}: local clean build {time.monotonic() - begun:.1f} s, same bytes: {same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=10, help="88 MB each, beside 262 MB of embeddings")
    parser.add_argument("--scores", action="store_true", help="evaluate, on two documents, and rank")
    parser.add_argument("--folder", type=Path, help="where the data lies; default: the system's temporary folder")
    options = parser.parse_args()
    for name in ("_etag", "_blob_id"):  # a gigabyte is not hashed again for every answer
        setattr(hub_server, name, functools.cache(getattr(hub_server, name)))
    test_daemon.PATIENCE = 1500.0
    folder = Path(tempfile.mkdtemp(prefix="merge-assets-daemon-", dir=options.folder))
    try:
        with Rgw(options.folder) as rgw, HubServer() as server:
            for seed, name in enumerate(("one", "two")):
                server.commit(f"acme/{name}", large_files(options.layers, seed))
            root = folder / "project"
            root.mkdir()
            suites = ["tiny"] if options.scores else []
            store = f"s3://{rgw.bucket('models')}/store"
            site = BucketSite(root, server, store, rgw.options(), default_suites=suites, cache_dir="cache")
            shutil.copyfile(REPOSITORY / "definitions.py", root / "definitions.py")
            site.recipe("mean", recipe_of("acme/one", "acme/two"))
            site.recipe("deep", builds.DEEP)
            if options.scores:
                site.suite()
            try:
                measure(site, options.layers, scores=options.scores)
            finally:
                for name in list(site.processes):
                    site.kill(name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
