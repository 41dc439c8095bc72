"""What answers the tasks of a suite: the model itself, loaded by transformers or vLLM, or a server.

Imported by the model worker alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from merge_assets.evaluation.answers import Answer
from merge_assets.evaluation.endpoint_lm import asking
from merge_assets.evaluation.flaws import Flaws
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.model_settings import ModelSettings
from merge_assets.evaluation.vllm_lm import loaded_by_vllm
from merge_assets.evaluation.watched import WatchedLM, loaded


class EvaluatedModel(Protocol):
    """A model class of lm-eval, watched, as an evaluation uses it.

    Attributes:
        tokenizer: of transformers.
        arguments: of lm-eval's class, as its command takes them.
    """

    tokenizer: Any
    arguments: Mapping[str, Any]

    @property
    def batch_size(self) -> int:
        """Prompts that are asked together."""

    def is_asked_in_turns(self, chat_template: str) -> bool:
        """See :meth:`merge_assets.evaluation.watching.Watching.is_asked_in_turns`."""

    def begin(self, known: Mapping[str, list[Answer]], keep: Callable[[str, list[Answer]], None]) -> None:
        """See :meth:`merge_assets.evaluation.watching.Watching.begin`."""

    def choose_batch_size(self, memory: int | None) -> None:
        """Have the number of prompts that are asked together chosen for the next task.

        Args:
            memory: bytes that this process may take, if that is bounded.
        """

    def circumstances(self) -> dict[str, Any]:
        """On what its answers depend besides its bytes and what is asked: ``device``, ``versions`` and others, as JSON."""

    def flaws(self) -> dict[str, Flaws]:
        """What was wrong with prompts and answers since :meth:`begin`, by the name of the task."""

    def tok_encode(self, string: str) -> list[int]:
        """The tokens of a text as it is asked."""


def model_of(
    settings: ModelSettings,
    directory: Path,
    *,
    device: str,
    dtype: str,
    batch_size: int | str,
    trust: bool,
    served: Mapping[str, str] | None,
    meter: Meter,
    call: Callable[[Any], Any],
) -> EvaluatedModel:
    """A checkpoint as a suite has it evaluated.

    Args:
        settings: which backend, and how it is asked.
        directory: of the checkpoint.
        device: where it is loaded.
        dtype: of the loaded weights.
        batch_size: prompts that are asked together, or "auto".
        trust: whether the checkpoint's own code may run.
        served: the server, for ``endpoint``; see :meth:`merge_assets.evaluation.endpoint.Server.open`.
        meter: told of what is asked.
        call: hands a request for a server to who sends it.

    Raises:
        EvaluationError: it does not load.
    """
    size = 1 if batch_size == "auto" else int(batch_size)
    if settings.backend == "endpoint":
        assert served is not None
        return asking(directory, settings, served=served, batch_size=size, trust=trust, meter=meter, call=call)
    if settings.backend == "vllm":
        lm: EvaluatedModel = loaded_by_vllm(
            directory, settings, dtype=dtype, batch_size=batch_size, trust=trust, meter=meter
        )
        return lm
    arguments = {"device": device, "dtype": dtype, "batch_size": size, **settings.arguments()}
    return loaded(WatchedLM, directory, arguments, trust, meter)
