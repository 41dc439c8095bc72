"""Checkpoints on a Hugging Face Hub: pinned, fingerprinted and opened without their weights, or downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from merge_assets.checkpoint import (
    Checkpoint,
    adapter_files,
    find_weight_files,
    fingerprint_files,
    fingerprint_of,
    is_adapter,
    needed_files,
    read_adapter,
    read_checkpoint,
    read_index,
)
from merge_assets.errors import CheckpointError, HubError
from merge_assets.hub.client import HubClient
from merge_assets.hub.download import download_files
from merge_assets.hub.revision import HubHead, HubRevision
from merge_assets.reference import ModelReference
from merge_assets.work import UNATTENDED, Work

DEFAULT_ENDPOINT = "https://huggingface.co"


class Hub:
    """A Hub, as seen with one token. Nothing is asked of the network before a method is called.

    Args:
        endpoint: the Hub's address; ``None`` is ``HF_ENDPOINT``, or huggingface.co.
        token: secret for private and gated models; ``None`` leaves it to ``HF_TOKEN`` or ``hf auth login``.
        cache_dir: where downloads are kept, in huggingface_hub's layout; ``None`` is its own cache.
        patient: wait and ask again where the Hub is busy; otherwise every refusal is an error at once.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        cache_dir: Path | None = None,
        *,
        patient: bool = True,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._cache_dir = cache_dir
        self._patient = patient
        self._opened: dict[str, Checkpoint] = {}
        self._digests: dict[str, str] = {}  # git object id -> SHA-256, of files that the Hub gives no SHA-256 for

    def impatient(self) -> Hub:
        """The same Hub for a look that must end soon: nothing is tried twice, no file is kept on disk."""
        hub = Hub(self._endpoint, self._token, self._cache_dir, patient=False)
        hub._digests = self._digests
        return hub

    @property
    def _client(self) -> HubClient:
        endpoint = self._endpoint
        if endpoint is None:
            from huggingface_hub import constants

            endpoint = constants.ENDPOINT or DEFAULT_ENDPOINT
        return HubClient(endpoint.rstrip("/"), self._token, self._cache_dir, retries=2 if self._patient else 0)

    def head(self, reference: ModelReference) -> HubHead:
        """The commit that a reference names now and the model's present name: the cheapest question, asked once.

        Raises:
            HubError: as :meth:`resolve`.
        """
        return self._client.head(reference.path, reference.revision)

    def resolve(self, reference: ModelReference) -> HubRevision:
        """Pin a reference to the commit that its branch or tag names now; no file is downloaded.

        Raises:
            HubError: the model or revision is missing, access is refused, or the Hub cannot be reached.
        """
        return self._client.revision(reference.path, reference.revision)

    def fingerprint(self, revision: HubRevision) -> str:
        """The fingerprint that a download of the commit would have, from digests that the Hub keeps.

        Only the small files that it does not keep in large-file storage are downloaded and hashed.

        Raises:
            HubError: as :meth:`resolve`.
            CheckpointError: the commit holds no safetensors model.
        """
        source = HubSource(self._client, revision)
        digests = {}
        for name in fingerprint_files(revision.files, source.weight_files()):
            digests[name] = revision.files[name].sha256 or self._digest(source, revision, name)
        return fingerprint_of(digests)

    def _digest(self, source: HubSource, revision: HubRevision, name: str) -> str:
        blob = revision.files[name].blob_id
        if blob not in self._digests:
            self._digests[blob] = hashlib.sha256(source.read(name)).hexdigest()
        return self._digests[blob]

    def read(self, revision: HubRevision, name: str) -> bytes:
        """A small file of a commit, from the cache or downloaded into it.

        Raises:
            HubError: as :meth:`resolve`.
        """
        return HubSource(self._client, revision).read(name)

    def read_head(self, revision: HubRevision, name: str, end: int) -> bytes:
        """The first ``end`` bytes of a file, without the rest of it."""
        return self.read_range(revision, name, 0, end)

    def read_range(self, revision: HubRevision, name: str, begin: int, end: int) -> bytes:
        """Some bytes of a file, from the cache or by a ranged read.

        Raises:
            HubError: as :meth:`resolve`.
        """
        return HubSource(self._client, revision).read(name, begin, end)

    def fetch_into(self, revision: HubRevision, name: str, folder: Path) -> Path:
        """Download one file into a folder outside of the cache; an interrupted download is continued there.

        Raises:
            HubError: as :meth:`resolve`, or the disk is full.
        """
        return self._client.fetch(revision, name, folder=folder)

    def open(self, model: ModelReference | HubRevision) -> Checkpoint:
        """Open a checkpoint or an adapter from its config, index and shard headers; weights are not downloaded.

        Raises:
            HubError: as :meth:`resolve`.
            CheckpointError: the files are not a sound checkpoint.
        """
        revision = self.resolve(model) if isinstance(model, ModelReference) else model
        key = str(revision)
        if key not in self._opened:
            source = HubSource(self._client, revision)
            self._opened[key] = read_adapter(source) if is_adapter(source.files) else read_checkpoint(source)
        return self._opened[key]

    def download(self, revision: HubRevision, work: Work = UNATTENDED) -> Path:
        """Have the commit's config, weights, tokenizer and code in the cache; returns their directory.

        Complete files are never downloaded again, so that an interrupted download continues with the files
        that are missing.

        Args:
            revision: the commit.
            work: told bytes present and bytes in all, and asked, several times a second.

        Raises:
            HubError: as :meth:`resolve`, or the disk is full.
            CheckpointError: the commit holds no safetensors model.
            Stopped: on request.
        """
        source = HubSource(self._client, revision)
        names = needed_files(revision.files, source.weight_files())
        paths = download_files(self._client, revision, names, work)
        for name, path in zip(names, paths, strict=True):
            if path.stat().st_size != revision.files[name].size:
                raise HubError(
                    revision, f"{path} in the cache has another size than on the Hub; remove that file", "unusable"
                )
        return next(path.parent for name, path in zip(names, paths, strict=True) if "/" not in name)


class HubSource:
    """The files of a commit, for :func:`read_checkpoint`: small ones through the cache, headers by range."""

    workers = 8

    def __init__(self, client: HubClient, revision: HubRevision) -> None:
        self._client = client
        self._revision = revision
        self.files: Mapping[str, int] = {name: file.size for name, file in revision.files.items()}

    @property
    def location(self) -> str:
        return self._revision.url

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        path = self._client.cached(self._revision, name)
        if path is None and end is None and self._client.retries == 0:
            end = self.files[name]  # a download would wait when the Hub is busy
        if path is None and end is not None:
            return self._client.read_range(self._revision, name, begin, end) if end > begin else b""
        with (path or self._client.fetch(self._revision, name)).open("rb") as file:
            file.seek(begin)
            return file.read(-1 if end is None else end - begin)

    def weight_files(self) -> list[str]:
        """The shards of the commit.

        Raises:
            CheckpointError: the commit holds no safetensors model.
        """
        try:
            return (
                adapter_files(self.files) if is_adapter(self.files) else find_weight_files(self.files, read_index(self))
            )
        except CheckpointError as error:
            error.prefix(f"{self.location}/")
            raise
