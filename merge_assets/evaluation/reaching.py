"""Whether data sets of the Hub can be had: a verb of the model worker that has a network and knows no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import HfApi, get_hf_file_metadata
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from merge_assets.model_worker import Desk, reason

_SECONDS = 10


def reach(desk: Desk, *, data: Sequence[str], hub: Mapping[str, Any]) -> dict[str, list[str]]:
    """Per data set that cannot be had what is wrong: ``gated``, ``missing`` or ``unreachable``, and why. One file of each is
    asked for, and nothing downloaded.

    Args:
        data: ``org/name`` of data sets.
        hub: the fields of a :class:`merge_assets.evaluation.data.DataHub`.
    """
    api = HfApi(endpoint=hub["endpoint"], token=hub["token"])
    found: dict[str, list[str]] = {}
    for number, name in enumerate(data):
        try:
            files = api.dataset_info(name, timeout=_SECONDS).siblings or []
            for file in files[:1]:
                url = f"{api.endpoint}/datasets/{name}/resolve/main/{file.rfilename}"
                get_hf_file_metadata(url, token=hub["token"], timeout=_SECONDS)
        except GatedRepoError:
            found[name] = ["gated", ""]
        except RepositoryNotFoundError:
            found[name] = ["missing", ""]
        except Exception as error:
            # Each that follows would take as long, for the same reason.
            return found | {other: ["unreachable", reason(error)] for other in data[number:]}
    return found
