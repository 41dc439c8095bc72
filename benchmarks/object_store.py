"""Builds into S3: throughput beside a plain copy, memory, bytes by server-side copies, and incremental rebuilds.

    python -m benchmarks.object_store [--rounds 3] [--only throughput depth_upscale incremental local] [--out FILE.json]

The server is Ceph's S3 gateway and the Hub a small server, both on this machine and on its processors. Every step runs in a
process of its own, with a fresh cache; models are of TinyLlama's shape in five shards.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.object_store_models import model_files, revision, shape_of
from benchmarks.object_store_report import show
from tests import hub_server
from tests.s3.proxy import FaultProxy
from tests.s3.rgw import Rgw

PARTS = ("throughput", "depth_upscale", "incremental", "local")
SHARD = {"like the base's": 250_000_000, "one": 5_000_000_000}
"""Settings of ``shard_size`` for models of a gigabyte; scaled with the model."""

_FULL = 1_100_000_000
_TWO = "models: [{model: acme/a, parameters: {weight: 1}}, {model: acme/b, parameters: {weight: 3}}]\n"
RECIPES = {
    "linear": f"merge_method: linear\n{_TWO}",
    "ties": "merge_method: ties\nbase_model: acme/a\n"
    "models: [{model: acme/b, parameters: {weight: 0.7, density: 0.5}}]\n",
    "deep": "merge_method: passthrough\ndepth_upscale: {{model: acme/a, overlap: {overlap}}}\n",
}


class Bench:
    """All measurements with one server, one Hub, and models of one size.

    Args:
        rgw: the S3 server.
        hub: the Hub.
        folder: for projects, caches and local stores.
        layers: of the models.
        hidden: their hidden size.
        rounds: how often each is measured.
    """

    def __init__(
        self, rgw: Rgw, hub: hub_server.HubServer, folder: Path, layers: int, hidden: int, rounds: int
    ) -> None:
        self.rgw, self.hub, self.folder, self.rounds = rgw, hub, folder, rounds
        self._layers, self._shape = layers, shape_of(hidden)
        self._changes = self._folders = 0
        (folder / "recipes").mkdir(parents=True)
        for name, text in RECIPES.items():
            text = text.format(overlap=layers // 5) if name == "deep" else text
            (folder / "recipes" / f"{name}.yaml").write_text(text)
        for seed, name in enumerate("ab"):
            files = model_files(seed, layers, self._shape)
            hub.commit(f"acme/{name}", dict(files))
            self.model_bytes = sum(map(len, files.values()))

    def throughput(self) -> dict[str, Any]:
        """A linear merge from the bucket into the bucket, in turns with plain copies of as many bytes."""
        rounds: list[dict[str, Any]] = []
        with self._bucket() as bucket:
            base = self._settings(f"s3://{bucket}", self.rgw.options(), SHARD["like the base's"])
            self._step("mirror", settings=base, models=["acme/a", "acme/b"])
            sources = self._weights(bucket, "checkpoints")
            for _ in range(self.rounds):
                found: dict[str, Any] = {}
                for name, checks in (("build", False), ("build with checks", True)):
                    with self._fresh() as caches:
                        found[name] = self._build(base | caches, "linear", checks=checks, imported=True)
                    outputs = [size for _, size in self._weights(bucket, "variants")]
                    self._clear(bucket, "variants")
                for client in ("s3fs", "boto3"):
                    for name, down, up, folder in (
                        ("download", True, [], ""),
                        ("upload", False, outputs, ""),
                        ("both", True, outputs, ""),
                        ("both, through a file", True, outputs, str(self.folder)),
                    ):
                        found[f"{client} {name}"] = self._step(
                            "copy",
                            client=client,
                            bucket=bucket,
                            options=self.rgw.options(),
                            sources=sources,
                            down=down,
                            up=up,
                            folder=folder,
                        )
                        self._clear(bucket, "copy")
                rounds.append(found)
        return {"rounds": rounds, "memory_setting": 256_000_000}

    def depth_upscale(self) -> dict[str, Any]:
        """Layers of a mirrored model stacked by the server, beside a local build of the same."""
        found: dict[str, Any] = {}
        for name, shard in SHARD.items():
            with self._store(local=True) as (store, options), self._fresh() as caches:
                local = self._build(self._settings(store, options, shard) | caches, "deep", checks=False)
            with self._bucket() as bucket, FaultProxy(self.rgw.url) as proxy, self._fresh() as caches:
                direct = self._settings(f"s3://{bucket}", self.rgw.options(), shard)
                self._step("mirror", settings=direct, models=["acme/a"])
                watched = self._settings(f"s3://{bucket}", self.rgw.options(proxy.url), shard)
                proxy.reset()
                built = self._build(watched | caches, "deep")
                counted = proxy.counts()
                read = self._step("verify", settings=direct, line=built["line"], version=built["version"])
            found[name] = {
                "build": built,
                "requests": counted.requests,
                "from_client": counted.received,
                "to_client": counted.sent,
                "share": (counted.received + counted.sent) / built["output_bytes"],
                "as_local": built["digests"] == local["digests"] and built["version"] == local["version"],
                "sound_and_loads": not read["problems"] and not read["loading"],
                "read": read,
                "local": local,
            }
        return found

    def incremental(self, *, local: bool) -> dict[str, Any]:
        """Rebuilds after revisions of one shard, each beside a clean build of the same revision."""
        return {
            f"{recipe}, shards {name}": self._rebuilds(recipe, shard, local=local)
            for recipe in ("linear", "ties")
            for name, shard in SHARD.items()
        }

    def local(self) -> dict[str, Any]:
        return self.incremental(local=True)

    def _rebuilds(self, recipe: str, shard: int, *, local: bool) -> list[dict[str, Any]]:
        rounds = []
        with self._store(local) as (store, options), self._fresh() as caches:
            kept = self._settings(store, options, shard) | caches
            self._build(kept, recipe)
            for number in range(self.rounds):
                self._changes += 1
                self.hub.commit("acme/a", dict(revision(0, self._layers, self._shape, number, self._changes)))
                again = self._build(kept, recipe)
                with self._store(local) as (other, given), self._fresh() as others:
                    clean = self._build(self._settings(other, given, shard) | others, recipe)
                rounds.append({"rebuild": again, "clean": clean, "same": again["version"] == clean["version"]})
        return rounds

    # -- steps -------------------------------------------------------------------------------------------------------

    def _build(
        self, settings: dict[str, Any], recipe: str, *, checks: bool = True, imported: bool = False
    ) -> dict[str, Any]:
        return self._step("build", settings=settings, recipe=recipe, checks=checks, imported=imported)

    def _step(self, do: str, **arguments: Any) -> dict[str, Any]:
        os.sync()  # nothing written before slows what is measured
        busy = _busy()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.object_store_step", json.dumps({"do": do, **arguments})],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["machine_cpu"] = _busy() - busy
        label = arguments.get("recipe") or arguments.get("client") or ""
        print(f"  {do} {label}: {found.get('wall', 0):.2f} s", file=sys.stderr, flush=True)
        return found

    def _settings(self, store: str, options: dict[str, Any], shard: int) -> dict[str, Any]:
        return {
            "root": str(self.folder),
            "store": store,
            "store_options": options,
            "device": "cpu",
            "shard_size": max(1 << 20, shard * self.model_bytes // _FULL),
            "hub_endpoint": self.hub.url,
            "hub_cache": str(self.folder / "hub"),
            "cache_dir": str(self.folder / "cache"),
        }

    @contextmanager
    def _fresh(self) -> Iterator[dict[str, Any]]:
        """Settings of caches that are empty, and are gone afterwards."""
        folder = self._new("fresh")
        yield {"cache_dir": f"{folder}/cache", "hub_cache": f"{folder}/hub"}
        shutil.rmtree(folder, ignore_errors=True)

    def _new(self, name: str) -> str:
        self._folders += 1
        return str(self.folder / f"{name}-{self._folders}")

    @contextmanager
    def _store(self, local: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        if local:
            folder = self._new("store")
            yield folder, {}
            shutil.rmtree(folder)
            return
        with self._bucket() as bucket:
            yield f"s3://{bucket}", self.rgw.options()

    @contextmanager
    def _bucket(self) -> Iterator[str]:
        self._folders += 1
        bucket = self.rgw.bucket(f"benchmark-{self._folders}")
        yield bucket
        self.rgw.empty(bucket)

    def _weights(self, bucket: str, prefix: str) -> list[tuple[str, int]]:
        return [(key, size) for key, size in self._objects(bucket, prefix) if key.endswith(".safetensors")]

    def _clear(self, bucket: str, prefix: str) -> None:
        client = self.rgw.client()
        for key, _ in self._objects(bucket, prefix):
            client.delete_object(Bucket=bucket, Key=key)

    def _objects(self, bucket: str, prefix: str) -> list[tuple[str, int]]:
        pages = self.rgw.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [(each["Key"], each["Size"]) for page in pages for each in page.get("Contents", [])]


def _busy() -> float:
    """Seconds that the processors of the machine have worked so far, for anybody."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.object_store", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts, not all")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    asked = parser.parse_args(arguments)
    # The Hub would digest a file for every request, on the processors that are measured.
    hub_server._etag = functools.cache(hub_server._etag)
    hub_server._sibling = functools.cache(hub_server._sibling)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave nothing behind
    folder = Path(tempfile.mkdtemp(prefix="merge-assets-bench-"))
    machine = describe(folder, Path(sys.prefix))
    del machine["mergekit"]
    try:
        with Rgw() as rgw, hub_server.HubServer() as hub:
            bench = Bench(rgw, hub, folder / "project", asked.layers, asked.hidden, asked.rounds)
            results: dict[str, Any] = {
                "machine": machine,
                "load_before": os.getloadavg(),
                "rounds": asked.rounds,
                "model_bytes": bench.model_bytes,
            }
            for part in asked.only:
                print(part, file=sys.stderr, flush=True)
                results[part] = bench.incremental(local=False) if part == "incremental" else getattr(bench, part)()
                if asked.out:
                    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(results)


if __name__ == "__main__":
    main()
