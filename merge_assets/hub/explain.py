"""Turn what the Hub client raises into one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from merge_assets.errors import HubError

_TOKEN = "MERGE_ASSETS_HUB_TOKEN (or HF_TOKEN)"


@contextmanager
def explained(name: str, endpoint: str) -> Iterator[None]:
    """Raise every error of the Hub client inside the block as :class:`HubError`.

    Args:
        name: what was asked for, ``org/name[@revision]``; starts the message.
        endpoint: the Hub's address.
    """
    import httpx2
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        yield
    except (httpx2.HTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise HubError(f"{name}: {_reason(error, name, endpoint)}") from error


def _reason(error: BaseException, name: str, endpoint: str) -> str:
    import httpx2
    from huggingface_hub import errors

    repo = name.partition("@")[0]
    match error:
        case errors.GatedRepoError():
            return (
                f"its owner grants access one by one; accept the terms at {endpoint}/{repo} "
                f"and set {_TOKEN} to a token of that account"
            )
        case errors.RevisionNotFoundError():
            return "the model has no such branch, tag or commit; check the revision, or leave it out for the default"
        case errors.RepositoryNotFoundError():
            return (
                f"{endpoint} has no such model, or it is private; check the name, "
                f"and set {_TOKEN} to a token that may read it"
            )
        case errors.RemoteEntryNotFoundError():
            return "a file of this commit is gone from the Hub; name another revision"
        case errors.HFValidationError():
            return "not a model name of the Hub; write org/name[@revision]"
        case errors.OfflineModeIsEnabled():
            return "not in the cache, and offline mode is on; unset HF_HUB_OFFLINE, or name a local path"
        case errors.LocalEntryNotFoundError() if error.__cause__ is not None:
            return _reason(error.__cause__, name, endpoint)
        case errors.HfHubHTTPError():
            return _status_reason(error.response.status_code, error.server_message, endpoint)
        case httpx2.HTTPError():
            detail = str(error) or type(error).__name__
            return (
                f"{endpoint} cannot be reached ({_one_line(detail)}); check the network, a proxy "
                "and MERGE_ASSETS_HUB_ENDPOINT, or name a local path"
            )
        case _:
            return f"cannot be fetched or kept in the cache ({_one_line(str(error))}); check disk space and permissions"


def _status_reason(status: int, message: str | None, endpoint: str) -> str:
    said = f"{endpoint} answers {status}" + (f" ({_one_line(message)})" if message else "")
    if status in (401, 403):
        return f"{said}; set {_TOKEN} to a valid token that may read this model"
    if status == 429:
        return f"{said}: too many requests; wait a few minutes, and set {_TOKEN}, which raises the limit"
    return f"{said}; try again later, and check MERGE_ASSETS_HUB_ENDPOINT"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
