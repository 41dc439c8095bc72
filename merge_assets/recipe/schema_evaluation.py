"""The schema of `evaluate`: suites, and how this variant is asked on them where that is not as the suite says.

Only how a model is loaded and asked can be set here. What it is asked stays the suite's: of other tasks, shots, documents or
seeds, scores of one suite could not be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, WithJsonSchema

from merge_assets.recipe.fields import RecipeMapping
from merge_assets.recipe.parameters import Misfit, shown

_MOST_SUITES = 100


def _either(what: str, fits: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A validator for values that two types may have; ``what`` says which."""

    def check(value: Any) -> Any:
        if value is not None and not fits(value):
            raise ValueError(f"{shown(value)} is not {what}")
        return value

    return check


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _word_of_switch(value: Any) -> Any:
    """YAML reads `on` and `off` as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


_Text = Annotated[str, Field(min_length=1)]
_BatchSize = Annotated[
    Any,
    AfterValidator(_either("a whole number from 1 or auto", lambda value: value == "auto" or _is_whole(value, 1))),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"enum": ["auto"]}]}),
]
_TextOrToken = Annotated[
    Any,
    AfterValidator(_either("text or the number of a token", lambda one: isinstance(one, str) or _is_whole(one, 0))),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]


class GenerationEntry(RecipeMapping):
    """Settings of generation, key by key over the suite's."""

    max_gen_toks: StrictInt | None = Field(default=None, ge=1, description="most tokens of an answer")
    until: tuple[str, ...] | None = Field(default=None, description="texts that end an answer")
    do_sample: StrictBool | None = Field(default=None, description="draw tokens instead of taking the likeliest")
    temperature: StrictFloat | None = Field(default=None, ge=0, allow_inf_nan=False, description="of drawing")
    top_p: StrictFloat | None = Field(default=None, gt=0, le=1, description="share of the likeliest that is drawn from")
    top_k: StrictInt | None = Field(default=None, ge=0, description="number of the likeliest that is drawn from")
    num_beams: StrictInt | None = Field(default=None, ge=1, description="beams")
    repetition_penalty: StrictFloat | None = Field(default=None, gt=0, allow_inf_nan=False, description="1 is none")


class ModelArgumentsEntry(RecipeMapping):
    """Arguments of lm-eval's model class, key by key over the suite's."""

    add_bos_token: StrictBool | None = Field(default=None, description="begin every prompt with it")
    prefix_token_id: StrictInt | None = Field(default=None, ge=0, description="token before a text without a prompt")
    logits_cache: StrictBool | None = Field(default=None, description="ask once where answers differ in one token")
    softmax_dtype: Literal["float32", "float64"] | None = Field(default=None, description="dtype of log-probabilities")
    enable_thinking: StrictBool | None = Field(default=None, description="handed to the chat template")
    think_end_token: _TextOrToken = Field(default=None, description="what an answer begins after")


class EvaluateEntry(RecipeMapping):
    """One suite that the variant is evaluated on. What is not written here is as the suite has it."""

    suite: _Text = Field(description="name of the suite")
    chat_template: Annotated[_Text | None, BeforeValidator(_word_of_switch)] = Field(
        default=None, description="`auto`, `on`, `off`, or a template"
    )
    fewshot_as_multiturn: StrictBool | None = Field(default=None, description="few-shot examples are turns")
    system_prompt: _Text | None = Field(default=None, description="what stands before every prompt")
    generation: GenerationEntry | None = Field(default=None, description="settings of generation, over the suite's")
    max_length: StrictInt | None = Field(default=None, ge=2, description="most tokens of a prompt with its answer")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        default=None, description="dtype in which the weights are loaded"
    )
    batch_size: _BatchSize = Field(default=None, description="sequences per forward pass")
    model_args: ModelArgumentsEntry | None = Field(
        default=None, description="arguments of lm-eval's model class, over the suite's"
    )

    def given(self) -> dict[str, Any]:
        """What is written besides the suite, as JSON; ``None`` takes away what the suite has."""
        return self.model_dump(mode="json", exclude={"suite"}, exclude_unset=True)


def _read(raw: Any) -> Any:
    """A name alone is the mapping of a suite that is taken as it is."""
    if isinstance(raw, str):
        return {"suite": raw}
    if not isinstance(raw, dict | EvaluateEntry):
        raise ValueError(f"{shown(raw)} is neither the name of a suite nor a mapping with the key suite")
    return raw


def _check_alike(entries: tuple[EvaluateEntry, ...] | None) -> tuple[EvaluateEntry, ...] | None:
    for place, entry in enumerate(entries or ()):
        first = next(other for other in entries or () if other.suite == entry.suite)
        if entry.given() != first.given():
            raise Misfit(f"{entry.suite} is listed twice and asked otherwise each time; keep one", (place,))
    return entries


Evaluate = Annotated[
    tuple[Annotated[EvaluateEntry, BeforeValidator(_read, json_schema_input_type=str | EvaluateEntry)], ...] | None,
    Field(max_length=_MOST_SUITES),
    AfterValidator(_check_alike),
]
