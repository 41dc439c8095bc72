"""lm-eval's model of a server that speaks the OpenAI protocol, watched; another process sends what it asks.

Imported by the model worker alone, which has no network and no key: of the checkpoint its tokenizer and config are read,
prompts become tokens, and what goes to the server is handed to who asked for the worker.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models.openai_completions
import transformers

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.answers import Answer
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.model_settings import ModelSettings, ends_turns_as_texts
from merge_assets.evaluation.room import room_of
from merge_assets.evaluation.watching import Watching
from merge_assets.model_worker import reason

_ANSWERING = ("lm_eval", "transformers")
"""Packages whose versions may change what is asked."""

Post = Callable[[Mapping[str, Any]], Any]


class EndpointLM(Watching, lm_eval.models.openai_completions.LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval ships no types
    """lm-eval's ``local-completions``, watched.

    Args:
        post: sends one request, and returns the server's answer.
        told: what is recorded of the server.
        ends: the tokens that end a text, by the checkpoint.
        begins: whether the tokenizer's own token stands before a whole text; ``add_bos_token`` of the arguments is of prompts.
        arguments: of lm-eval's class; its command takes the same.
    """

    spare = 0

    def __init__(self, post: Post, told: str, ends: set[int], *, begins: bool, arguments: Mapping[str, Any]) -> None:
        # Who sends tries again, and knows after what.
        super().__init__(**arguments, max_retries=1)
        self._post, self._told, self._ends_of_texts = post, told, ends
        self.arguments = {name: value for name, value in arguments.items() if name != "batch_size"}
        self._is_cut: dict[str, bool] = {}
        self._begins_prompts, self._begins_texts = bool(arguments["add_bos_token"]), begins

    @property
    def batch_size(self) -> int:
        return int(self._batch_size)

    @property
    def max_gen_toks(self) -> int:
        return int(self._max_gen_toks)

    def choose_batch_size(self, memory: int | None) -> None:
        """It is 1, as in lm-eval: how much goes through the model at once is left to the server."""

    def circumstances(self) -> dict[str, Any]:
        """On what its answers depend besides its bytes and what is asked."""
        versions = {package: importlib.metadata.version(package) for package in _ANSWERING}
        return {"backend": "endpoint", "device": "server", "versions": versions | {"server": self._told}}

    def _ends(self) -> set[int]:
        return self._ends_of_texts

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self._begin_with(self._begins_prompts)
        return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        self._begin_with(self._begins_texts)  # which no template is around
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        self._begin_with(self._begins_prompts)
        return super().generate_until(requests, disable_tqdm)

    def _begin_with(self, begins: bool) -> None:
        self.add_bos_token = self.arguments["add_bos_token"] = begins

    def model_call(self, messages: Any, *, generate: bool = True, gen_kwargs: Any = None, **kwargs: Any) -> Any:
        payload = self._create_payload(
            self.create_message(messages),
            generate=generate,
            gen_kwargs=copy.deepcopy(gen_kwargs),
            seed=self._seed,
            eos=self.eos_string,
            **kwargs,
        )
        answer = self._post(payload)
        problem = problem_of(answer, None if generate else [len(each) for each in messages], len(messages))
        if problem is not None:
            raise EvaluationError(f"{self.base_url} {problem}")
        return answer

    def parse_generations(self, outputs: Any, contexts: Sequence[str] = (), **kwargs: Any) -> list[str]:
        choices = sorted(outputs["choices"], key=lambda choice: choice["index"])
        self._is_cut |= {
            context: choice.get("finish_reason") == "length" for context, choice in zip(contexts, choices, strict=True)
        }
        return list(super().parse_generations(outputs=outputs, **kwargs))

    def _generate(self, requests: list[Any], lengths: Sequence[int]) -> list[Answer]:
        texts = lm_eval.models.openai_completions.LocalCompletionsAPI.generate_until(self, requests)
        room = self.max_length - int(requests[0].args[1].get("max_gen_toks", self.max_gen_toks))
        return [
            (text, self._is_cut[request.args[0]], length > room)
            for text, request, length in zip(texts, requests, lengths, strict=True)
        ]


def problem_of(answer: Any, lengths: Sequence[int] | None, count: int) -> str | None:
    """What is wrong with a server's answer, which lm-eval would take for numbers; ``None`` if nothing is.

    Args:
        answer: as JSON.
        lengths: tokens of each prompt, where log-probabilities were asked for.
        count: of prompts.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return "answers without choices, as no server does that speaks the OpenAI protocol of completions"
    if sorted(str(choice.get("index")) for choice in choices) != sorted(map(str, range(count))):
        return f"answers {len(choices)} of {count} prompts of one request; set batch_size: 1"
    for choice in sorted(choices, key=lambda choice: int(choice["index"])) if lengths is not None else ():
        found = choice.get("logprobs")
        if not isinstance(found, dict) or not all(
            isinstance(found.get(name), list) for name in ("token_logprobs", "top_logprobs")
        ):
            return (
                "gives no log-probabilities of a prompt (echo with logprobs), without which there is no likelihood; serve the "
                "model with a server that has them, as vllm serve, or ask it for generations alone"
            )
        assert lengths is not None
        sent = lengths[int(choice["index"])]
        if len(found["token_logprobs"]) != sent + 1 or len(found["top_logprobs"]) != sent + 1:
            return (
                f"gives {len(found['token_logprobs'])} log-probabilities for a prompt of {sent} tokens and one more; it does "
                "not echo the prompt, or makes other tokens of it, so that numbers would be of other words"
            )
        if not all(isinstance(number, float | int) for number in found["token_logprobs"][1:]):
            return "gives log-probabilities that are no numbers"
    return None


def asking(
    directory: Path,
    settings: ModelSettings,
    *,
    served: Mapping[str, str],
    batch_size: int,
    trust: bool,
    meter: Meter,
    call: Callable[[Any], Any],
) -> EndpointLM:
    """A server's model as lm-eval's.

    Args:
        directory: of the checkpoint that it serves, whose tokenizer makes the prompts.
        settings: how it is asked.
        served: ``url`` of its completions, ``model`` that is asked for, and what is ``told`` of it.
        batch_size: prompts in one request.
        trust: whether the checkpoint's own code may run, here.
        meter: told of what is asked.
        call: hands a request to who sends it.

    Raises:
        EvaluationError: the tokenizer or the config does not load.
    """

    def post(payload: Mapping[str, Any]) -> Any:
        meter.check()
        reply = call(payload)
        if "error" in reply:
            raise EvaluationError(reply["error"])
        return reply["answer"]

    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust
        )
        ends = _ends(directory, tokenizer)
        own = settings.model_args.add_bos_token
        begins = _begins_texts(tokenizer) if own is None else own
        arguments = {
            "model": served["model"],
            "base_url": served["url"],
            "tokenizer": str(directory),
            "tokenizer_backend": "huggingface",
            "batch_size": batch_size,
            "max_length": room_of(directory, tokenizer),
            "add_bos_token": begins and (own is not None or not _is_in_template(tokenizer, settings, ends)),
            **settings.arguments(),
        }
        if trust:
            arguments["trust_remote_code"] = True
        lm = EndpointLM(post, served["told"], ends, begins=begins, arguments=arguments)
    except Exception as error:
        raise EvaluationError(f"{directory}: the tokenizer does not load: {reason(error)}") from error
    lm.attach(meter)
    return lm


def _begins_texts(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a token of its own before a text."""
    first = tokenizer("a", add_special_tokens=True).input_ids[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def _is_in_template(tokenizer: Any, settings: ModelSettings, ends: set[int]) -> bool:
    """Whether prompts are turns, and the template writes that token."""
    in_turns = settings.chat_template == "on" or (
        settings.chat_template == "auto" and ends_turns_as_texts(tokenizer, ends)
    )
    if not in_turns or not tokenizer.chat_template:
        return False
    turn = [{"role": "user", "content": "a"}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return text.startswith(tokenizer.bos_token)


def _ends(directory: Path, tokenizer: Any) -> set[int]:
    """The tokens that end a text: the tokenizer's and those of the generation config."""
    file = directory / "generation_config.json"
    own = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return {token for token in found if isinstance(token, int)}
