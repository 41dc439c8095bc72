"""The store behaves like a dictionary of versions with two kinds of pointers, whatever the order of calls."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from merge_assets.errors import StoreError
from merge_assets.store import ArtifactStore
from tests.store_support import commit

LINES = st.sampled_from(["variants/a", "variants/a/b/c", "variants/a/b", "scores/a/demo", "leaderboard"])
VERSIONS = st.sampled_from(["1f", "2f", "3f", "b"])
KEYS = st.sampled_from(["k1", "k2", "k3"])
CONTENT = st.dictionaries(st.sampled_from(["a", "b/c", "b/manifest.json", "keys/k1.json"]), st.binary(max_size=9))


class StoreMachine(RuleBasedStateMachine):
    """Real store beside a model: version -> files, key -> version, line -> current version."""

    @initialize(remote=st.booleans())
    def start(self, remote: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        root = f"memory://{uuid.uuid4().hex}" if remote else self.folder.name
        self.store = ArtifactStore(root, scratch=Path(self.folder.name, "scratch"))
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.order: list[tuple[str, str]] = []
        self.keys: dict[tuple[str, str], str] = {}
        self.currents: dict[str, str] = {}

    @rule(line=LINES, version=VERSIONS, key=KEYS, files=CONTENT)
    def commit(self, line: str, version: str, key: str, files: dict[str, bytes]) -> None:
        path = f"{line}/{version}"
        inside = any(line == outer or line.startswith(f"{outer}/") for outer in map("/".join, self.files))
        around = any(inner == path or inner.startswith(f"{path}/") for inner, _ in self.files)
        if inside or around:
            with pytest.raises(StoreError, match="use another name"):
                commit(self.store, version, line=line, key=key, files=files)
            return
        commit(self.store, version, line=line, key=key, files=files)
        if (line, version) not in self.files:
            self.files[line, version] = files
            self.order.append((line, version))
        self.keys[line, key] = version
        self.currents[line] = version

    @rule(line=LINES, version=VERSIONS)
    def set_current(self, line: str, version: str) -> None:
        if (line, version) in self.files:
            self.store.set_current(line, version)
            self.currents[line] = version

    @rule(line=LINES)
    def abandon(self, line: str) -> None:
        with self.store.draft(line) as draft:
            (draft.directory / "a").write_bytes(b"half")

    @rule(line=LINES, version=VERSIONS)
    def get(self, line: str, version: str) -> None:
        artifact = self.store.get(line, version)
        if (line, version) not in self.files:
            assert artifact is None
            return
        assert artifact is not None
        assert {name: artifact.read_bytes(name) for name in artifact.manifest.files} == self.files[line, version]
        assert self.store.verify(artifact) == []

    @rule(line=LINES, key=KEYS)
    def find(self, line: str, key: str) -> None:
        artifact = self.store.find(line, key)
        assert (artifact.version if artifact else None) == self.keys.get((line, key))

    @rule(line=LINES)
    def list_versions(self, line: str) -> None:
        found = [artifact.version for artifact in self.store.versions(line)]
        assert found == [version for one, version in self.order if one == line]

    @invariant()
    def currents_agree(self) -> None:
        for line, version in self.currents.items():
            artifact = self.store.current(line)
            assert artifact is not None and artifact.version == version

    @invariant()
    def lines_agree(self) -> None:
        for kind in ("variants", "scores", "leaderboard"):
            expected = {line for line, _ in self.files if line.split("/")[0] == kind}
            assert self.store.lines(kind) == sorted(expected)

    def teardown(self) -> None:
        self.folder.cleanup()


TestStoreMachine = pytest.mark.timeout(120)(StoreMachine.TestCase)
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
