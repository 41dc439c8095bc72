"""The schema of a recipe's ``tokenizer``: where the vocabulary, and the embedding of single tokens, come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from merge_assets.recipe.fields import RecipeMapping, Reference, read_reference
from merge_assets.recipe.parameters import Misfit
from merge_assets.recipe.problems import problem_path, problem_text
from merge_assets.reference import ModelReference

TOKENIZER_SOURCES = ("union", "base")
"""Sources of a whole tokenizer that are no models."""


class TokenSource(RecipeMapping):
    """Where one token's embedding comes from, when it is not simply a model's own."""

    kind: Literal["zero", "model_token"] = Field(description="`zero`, or `model_token`: a token of a model")
    model: Reference | None = Field(default=None, description="the model, for `model_token`")
    token: str | None = Field(default=None, description="the token's text in that model")
    token_id: StrictInt | None = Field(default=None, ge=0, description="or its number")

    @model_validator(mode="after")
    def _complete(self) -> TokenSource:
        given = (self.model, self.token, self.token_id)
        if self.kind == "zero" and any(item is not None for item in given):
            raise Misfit("kind: zero takes no other key")
        if self.kind == "model_token" and (self.model is None or (self.token is None) == (self.token_id is None)):
            raise Misfit("kind: model_token needs model, and exactly one of token and token_id")
        return self


def _write_token_source(source: ModelReference | TokenSource | None) -> Any:
    if isinstance(source, TokenSource):
        return source.model_dump(mode="json", exclude_none=True)
    return None if source is None else str(source)


def _read_token_source(raw: Any) -> ModelReference | TokenSource | None:
    # A plain union would report the errors of every side; the key kind tells which side is meant.
    if raw is None or isinstance(raw, TokenSource):
        return raw
    if not (isinstance(raw, dict) and "kind" in raw):
        reference = read_reference(raw)
        if str(reference) in TOKENIZER_SOURCES:
            raise Misfit(
                f"a token's source names a model; {reference} is what tokenizer.source may be "
                f"(a folder of that name is ./{reference})"
            )
        return reference
    try:
        return TokenSource.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise Misfit(problem_text(first, TokenSource), problem_path(first)) from None


class TokenSettings(RecipeMapping):
    """How one token's embedding is made."""

    source: Annotated[
        ModelReference | TokenSource | None,
        PlainValidator(_read_token_source),
        PlainSerializer(_write_token_source, return_type=Any),
        WithJsonSchema({"format": "model reference or mapping"}),
    ] = Field(default=None, description="a model reference, `{kind: zero}`, or `{kind: model_token, model, token}`")
    force: StrictBool = Field(default=False, description="use the source even for models that have the token")


class TokenizerSettings(RecipeMapping):
    """How the output's tokenizer is made."""

    source: str = Field(default="union", description="`union`, `base`, or a model reference")
    tokens: dict[str, TokenSettings] = Field(default={}, description="tokens treated one by one")
    pad_to_multiple_of: StrictInt | None = Field(
        default=None, ge=1, description="round the embedding's rows up to this"
    )
