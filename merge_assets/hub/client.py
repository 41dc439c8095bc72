"""The few calls of huggingface_hub that are used, bound to one endpoint, token and cache.

huggingface_hub is imported inside the calls: it takes a third of a second, and most commands need no Hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from merge_assets.errors import HubError
from merge_assets.hub.explain import explained
from merge_assets.hub.limits import nearly_exhausted
from merge_assets.hub.revision import HubFile, HubHead, HubRevision

TIMEOUT = 20.0
"""Seconds to wait for an answer to a small request."""

HEAD_TIMEOUT = 10.0
"""Seconds to wait when only the commit is asked for."""


@dataclass(frozen=True)
class HubClient:
    """Access to a Hub.

    Attributes:
        endpoint: address such as ``https://huggingface.co``, without a trailing slash.
        token: secret that grants access; ``None`` leaves it to huggingface_hub's own configuration.
        cache_dir: root of the Hub cache; ``None`` is huggingface_hub's default.
        retries: how often a read is tried again; before that the time passes that the Hub asks for. With 0 every
            error is raised at once.
    """

    endpoint: str
    token: str | None = field(default=None, repr=False)
    cache_dir: Path | None = None
    retries: int = 2

    def head(self, repo: str, revision: str | None) -> HubHead:
        """Ask for a model's commit and its present name: one small request, never repeated."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not re-exported by name
            build_hf_headers,
            get_session,
            hf_raise_for_status,
            validate_repo_id,
        )

        name = f"{repo}@{revision}" if revision else repo
        url = f"{self.endpoint}/api/models/{repo}" + (f"/revision/{quote(revision, safe='')}" if revision else "")
        with explained(name, self.endpoint):
            validate_repo_id(repo)
            # A renamed model is a redirect, which the session follows.
            response = get_session().get(
                url, params={"expand": "sha"}, headers=build_hf_headers(token=self.token), timeout=HEAD_TIMEOUT
            )
            hf_raise_for_status(response)
            answer = response.json()
            if not isinstance(answer, dict) or not isinstance(answer.get("sha"), str):
                raise HubError(name, f"{self.endpoint} names no commit; name a local path", "unusable")
            return HubHead(str(answer.get("id") or repo), answer["sha"], nearly_exhausted(response.headers))

    def revision(self, repo: str, revision: str | None) -> HubRevision:
        """Ask for a model's commit and files, without a download."""
        from huggingface_hub import HfApi

        name = f"{repo}@{revision}" if revision else repo
        with explained(name, self.endpoint):
            api = HfApi(endpoint=self.endpoint, token=self.token)
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        files = {}
        for sibling in info.siblings or ():
            if sibling.size is None or sibling.blob_id is None:
                raise HubError(
                    name, f"{self.endpoint} gives no size for {sibling.rfilename}; name a local path", "unusable"
                )
            sha256 = sibling.lfs.sha256 if sibling.lfs else None
            files[sibling.rfilename] = HubFile(sibling.size, sha256, sibling.blob_id)
        if info.sha is None:
            raise HubError(name, f"{self.endpoint} names no commit; name a local path", "unusable")
        card = vars(info.card_data) if info.card_data else {}
        license, bases = _texts(card.get("license")), _texts(card.get("base_model"))
        return HubRevision(repo, info.sha, files, next(iter(license), None), bool(info.gated), bases)

    def cached(self, revision: HubRevision, name: str) -> Path | None:
        """Where a file lies in the cache, ``None`` if it does not."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(revision.repo, name, cache_dir=self.cache_dir, revision=revision.commit)
        return Path(found) if isinstance(found, str) else None

    def fetch(self, revision: HubRevision, name: str, bar: type | None = None, folder: Path | None = None) -> Path:
        """Download a file into the cache unless it is there.

        Args:
            revision: the commit.
            name: the file.
            bar: class with tqdm's interface that is told of the bytes received; silent if ``None``.
            folder: where to put it instead of the cache.
        """
        from huggingface_hub import hf_hub_download

        with explained(str(revision), self.endpoint):
            path = hf_hub_download(
                revision.repo,
                name,
                revision=revision.commit,
                cache_dir=self.cache_dir,
                local_dir=folder,
                endpoint=self.endpoint,
                token=self.token,
                tqdm_class=bar or SilentBar,
            )
        return Path(path)

    def read_range(self, revision: HubRevision, name: str, begin: int, end: int) -> bytes:
        """Bytes ``begin`` to ``end`` (exclusive) of a file, without the rest of it."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not re-exported by name
            build_hf_headers,
            hf_raise_for_status,
            http_stream_backoff,
        )

        url = hf_hub_url(revision.repo, name, revision=revision.commit, endpoint=self.endpoint)
        # A compressed answer would have its own byte positions.
        headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        headers = {**build_hf_headers(token=self.token), **headers}
        received = bytearray()
        with (
            explained(str(revision), self.endpoint),
            http_stream_backoff("GET", url, headers=headers, max_retries=self.retries, timeout=TIMEOUT) as response,
        ):
            hf_raise_for_status(response)
            if response.status_code != 206:
                raise HubError(
                    revision,
                    f"{self.endpoint} sends {name} whole instead of a range of it; "
                    "download the model and name the local path",
                    "unusable",
                )
            for chunk in response.iter_bytes():
                received += chunk
        return bytes(received)


def _texts(value: object) -> tuple[str, ...]:
    """What a card has under a key that stands for one text or for several."""
    return tuple(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one)


class SilentBar:
    """What huggingface_hub needs of a tqdm class, showing nothing."""

    n = 0
    total: int | None = None

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> SilentBar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, received: int) -> None:
        """Called with the bytes written since the last call."""

    def update_transfer(self, received: int) -> None:
        """Called with the bytes received, which with Xet storage are fewer than those written."""

    def set_postfix_str(self, *_: object, **__: object) -> None: ...

    def set_transfer_postfix_str(self, *_: object, **__: object) -> None: ...

    def refresh(self) -> None: ...

    def close(self) -> None: ...
