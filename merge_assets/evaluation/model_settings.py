"""How a suite has models loaded and asked, besides what it asks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)


class Generation(BaseModel):
    """Settings of generation, over those of the tasks; what is not set is left to the task."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_gen_toks: int | None = Field(None, ge=1, description="most tokens of an answer")
    until: tuple[str, ...] | None = Field(None, strict=False, description="texts that end an answer")
    do_sample: bool | None = Field(None, description="draw tokens instead of taking the likeliest")
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False, strict=False, description="of drawing")
    top_p: float | None = Field(None, gt=0, le=1, strict=False, description="share of the likeliest that is drawn from")
    top_k: int | None = Field(None, ge=0, description="number of the likeliest that is drawn from")
    num_beams: int | None = Field(None, ge=1, description="beams")
    repetition_penalty: float | None = Field(None, gt=0, allow_inf_nan=False, strict=False, description="1 is none")

    def given(self) -> dict[str, Any]:
        """Those that are set, as lm-eval takes them."""
        return self.model_dump(mode="json", exclude_none=True)

    @model_validator(mode="after")
    def _draws_if_it_says_how(self) -> Generation:
        drawing = [name for name in ("temperature", "top_p", "top_k") if getattr(self, name)]
        if drawing and not self.do_sample:
            raise ValueError(f"{drawing[0]} is of drawing, and tokens are drawn with do_sample: true alone")
        return self


class ModelArguments(BaseModel):
    """Arguments of lm-eval's model class ``hf`` that a suite may set. Those that load other files are not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    add_bos_token: bool | None = Field(None, description="begin every prompt with it; null is the tokenizer's own way")
    prefix_token_id: int | None = Field(None, ge=0, description="token before a text without a prompt")
    logits_cache: bool | None = Field(None, description="ask once where answers differ in one token")
    softmax_dtype: Literal["float32", "float64"] | None = Field(None, description="dtype of log-probabilities")
    enable_thinking: bool | None = Field(None, description="handed to the chat template")
    think_end_token: str | int | None = Field(None, description="what an answer begins after")


class VllmArguments(BaseModel):
    """Arguments of lm-eval's model class ``vllm``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that one copy of the model is spread over")
    data_parallel_size: int = Field(1, ge=1, description="copies of the model, each on GPUs of its own; needs ray")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, strict=False, description="share of a GPU's memory that vLLM takes; null leaves it to vLLM"
    )


class ModelSettings(BaseModel):
    """How models are loaded and asked. All of it is part of the key of every result.

    lm-eval's command takes each of them, so that it gives the same numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    chat_template: Literal["auto", "on", "off"] | Annotated[str, Field(min_length=1)] = Field(
        "off",
        description="whether prompts are turns of a conversation: auto for models whose own template ends a turn as they end "
        "a text; or the template itself",
    )
    fewshot_as_multiturn: bool = Field(True, description="few-shot examples are turns; false puts them into one")
    system_prompt: str | None = Field(None, min_length=1, description="what stands before every prompt")
    generation: Generation = Field(Generation(), description="settings of generation, over those of the tasks")
    max_length: int | None = Field(
        None, ge=2, description="most tokens of a prompt with its answer; null is the model's"
    )
    model_args: ModelArguments = Field(ModelArguments(), description="further arguments of lm-eval's model class")
    parallelize: bool = Field(False, description="spread the layers of a model over all GPUs")
    unsafe_code: bool = Field(False, description="run the programs that models write, which some tasks ask for")
    backend: Literal["hf", "endpoint", "vllm"] = Field(
        "hf", description="what computes: transformers, a server of the OpenAI protocol that the settings name, or vLLM"
    )
    vllm: VllmArguments = Field(VllmArguments(), description="arguments of the backend vllm")

    @field_validator("chat_template", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not set: keys of results are made of this."""
        content: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in content.items()
            if name not in ("backend", "vllm") or getattr(self, name) != ModelSettings.model_fields[name].default
        }

    @model_validator(mode="after")
    def _fits_the_backend(self) -> ModelSettings:
        """What a backend has no way to do is refused, not left undone."""
        if self.backend != "vllm" and self.vllm != VllmArguments():
            raise ValueError(f"vllm: is for backend: vllm, and this is backend: {self.backend}; remove this key")
        if self.backend == "hf":
            return self
        given = self.model_args.model_dump(exclude_none=True)
        unknown = ["logits_cache", "softmax_dtype"]
        if self.backend == "endpoint":
            unknown += ["enable_thinking", "think_end_token"]
        if names := [name for name in unknown if name in given]:
            raise ValueError(
                f"model_args.{names[0]}: is for backend: hf; lm-eval's class of {self.backend} has no such argument"
            )
        if self.parallelize:
            instead = "set vllm.tensor_parallel_size" if self.backend == "vllm" else "that is the server's"
            raise ValueError(f"parallelize: is for backend: hf; {instead}")
        if self.chat_template not in ("auto", "on", "off"):
            raise ValueError(
                f"chat_template: the text of a template is for backend: hf; {self.backend} takes on, off and auto, and the "
                "tokenizer's own"
            )
        if self.generation.num_beams is not None:
            raise ValueError(f"generation.num_beams: is for backend: hf; {self.backend} has no beams")
        return self

    def arguments(self) -> dict[str, Any]:
        """Arguments of lm-eval's model class, those that are not as it has them."""
        given = self.model_args.model_dump(mode="json", exclude_none=True)
        if self.backend == "endpoint" and "prefix_token_id" in given:
            given["custom_prefix_token_id"] = given.pop("prefix_token_id")
        if self.backend == "vllm":
            given |= self.vllm.model_dump(mode="json", exclude_defaults=True)
        if self.max_length is not None:
            given["max_length"] = self.max_length
        if self.parallelize:
            given["parallelize"] = True
        if self.chat_template not in ("auto", "on", "off"):
            given["chat_template_args"] = {"chat_template": self.chat_template}
        return given

    def command(self, model: Mapping[str, Any], *, chat: bool) -> list[str]:
        """Arguments of the lm-eval command that say the same.

        Args:
            model: the other arguments of the model class.
            chat: whether prompts were turns of a conversation.
        """
        more = self.arguments()
        if more:
            command = ["--model_args", json.dumps({**model, **more})]
        else:
            command = ["--model_args", ",".join(f"{name}={value}" for name, value in model.items())]
        if chat:
            command += ["--apply_chat_template", "--fewshot_as_multiturn", str(self.fewshot_as_multiturn).lower()]
        if self.system_prompt is not None:
            command += ["--system_instruction", self.system_prompt]
        if generation := self.generation.given():
            command += ["--gen_kwargs", json.dumps(generation)]
        return [*command, "--confirm_run_unsafe_code"] if self.unsafe_code else command


def ends_turns_as_texts(tokenizer: Any, ends: set[int]) -> bool:
    """Whether the tokenizer's own chat template ends a turn of the model with a token that ends its texts.

    So do models that were trained on conversations. Base models that carry the template of their family end a text otherwise.

    Args:
        tokenizer: of transformers.
        ends: the tokens that end what the model generates.
    """
    if not tokenizer.chat_template:
        return False
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(said, tokenize=False)
    turn = text.rpartition("b")[2]
    return any(end in turn for token in ends if (end := tokenizer.decode([token])))
