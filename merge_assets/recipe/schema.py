"""The schema of a recipe: mergekit's keys, our extension keys and the two templates.

Instances are frozen and already checked for everything that a recipe alone can tell. Whether the method and its
parameters exist, and whether layers and shapes fit the checkpoints, is decided when the recipe is planned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from merge_assets.errors import RecipeError
from merge_assets.recipe.fields import (
    Cron,
    Dtype,
    Filled,
    Group,
    HubId,
    LayerRange,
    Name,
    Owner,
    Reference,
    TagKey,
    TagValue,
    read_reference,
)
from merge_assets.recipe.parameters import Misfit, Parameters, shown
from merge_assets.recipe.problems import problem_path, problem_text
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import Document, parse_documents, read_text, spell

BODIES = ("models", "slices", "modules", "depth_upscale", "prune_layers")
TEMPLATES = ("depth_upscale", "prune_layers")
DESCRIPTIVE = frozenset(
    {
        *("name", "source", "description", "group", "tags", "owners", "evaluate", "publish", "schedule", "device"),
        "materialize",
    }
)
MAX_MODELS = 256
"""Models that one recipe names."""

NEEDS_STORED = {"evaluate": "evaluate", "publish": "publish", "schedule": "build on a schedule"}
"""Keys of what is done with a stored variant -> what they do."""
TOKENIZER_SOURCES = ("union", "base")
"""Sources of a whole tokenizer that are no models."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecipeSource(_Part):
    """Where a recipe was read: for error messages, code references and showing its text."""

    file: Path
    document: int = Field(description="index of the document in its file, from 0")
    line: int = Field(description="1-based line of the document's first key")
    text: str = Field(description="the document's own YAML, comments included")

    def at(self, key: str) -> str:
        """``file:line`` of a key path such as ``slices[0].sources[1]``; the closest known line if it has none."""
        try:
            documents = _documents_again(read_text(self.file), self.file)
            document = next(found for found in documents if found.index == self.document)
        except (RecipeError, StopIteration):  # the file has changed since it was read
            return f"{self.file}:{self.line}"
        spelled = {spell(path): path for path in document.lines}
        while key and key not in spelled:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return f"{self.file}:{document.line_of(spelled.get(key, ()))}"


@lru_cache(maxsize=2)
def _documents_again(text: str, file: Path) -> list[Document]:
    """The documents of a file, kept because the errors of one file come together."""
    return parse_documents(text, file)


class ModelEntry(_Part):
    """One input of a merge of whole models."""

    model: Reference = Field(description="the checkpoint: Hub id, folder, or another recipe's name")
    parameters: Parameters = Field(default={}, description="parameters of this model")


class Source(_Part):
    """One input of a slice."""

    model: Reference = Field(description="the checkpoint the layers come from")
    layer_range: LayerRange | None = Field(
        default=None, description="layers taken, `end` not included; left out: all layers"
    )
    parameters: Parameters = Field(default={}, description="parameters of this source")


class Slice(_Part):
    """A run of output layers; slices are stacked in order."""

    sources: Annotated[tuple[Source, ...], Filled] = Field(description="inputs that are merged layer by layer")
    base_model: Reference | None = Field(
        default=None,
        description="base of this slice, instead of the recipe's; of no effect, and a warning, if the method has none",
    )
    parameters: Parameters = Field(default={}, description="parameters of this slice")

    @model_validator(mode="after")
    def _same_length(self) -> Slice:
        ranges = [(i, s.layer_range) for i, s in enumerate(self.sources) if s.layer_range is not None]
        for index, layers in ranges[1:]:
            first = ranges[0][1]
            if layers[1] - layers[0] != first[1] - first[0]:
                raise Misfit(
                    f"[{layers[0]}, {layers[1]}] has {layers[1] - layers[0]} layers, the slice's first source has "
                    f"{first[1] - first[0]}; all sources of a slice have equally many",
                    ("sources", index, "layer_range"),
                )
        return self


class Module(_Part):
    """One part of a model with parts of its own, such as the text tower."""

    slices: Annotated[tuple[Slice, ...] | None, Filled] = Field(default=None, description="as in the recipe")
    models: Annotated[tuple[ModelEntry, ...] | None, Filled] = Field(default=None, description="as in the recipe")
    parameters: Parameters = Field(default={}, description="parameters of this module")

    @model_validator(mode="after")
    def _one_body(self) -> Module:
        if (self.slices is None) == (self.models is None):
            raise Misfit("a module has exactly one of slices and models")
        return self


class TokenSource(_Part):
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


class TokenSettings(_Part):
    """How one token's embedding is made."""

    source: Annotated[
        ModelReference | TokenSource | None,
        PlainValidator(_read_token_source),
        PlainSerializer(_write_token_source, return_type=Any),
        WithJsonSchema({"format": "model reference or mapping"}),
    ] = Field(default=None, description="a model reference, `{kind: zero}`, or `{kind: model_token, model, token}`")
    force: StrictBool = Field(default=False, description="use the source even for models that have the token")


class TokenizerSettings(_Part):
    """How the output's tokenizer is made."""

    source: str = Field(default="union", description="`union`, `base`, or a model reference")
    tokens: dict[str, TokenSettings] = Field(default={}, description="tokens treated one by one")
    pad_to_multiple_of: StrictInt | None = Field(
        default=None, ge=1, description="round the embedding's rows up to this"
    )


class DepthUpscale(_Part):
    """Depth up-scaling: two copies of a model's layers, one after the other or interlocked."""

    model: Reference = Field(description="the checkpoint whose layers are doubled")
    overlap: StrictInt = Field(ge=0, description="layers cut from the end of copy A and from the start of copy B")
    block: StrictInt | None = Field(
        default=None, ge=1, description="interlock in blocks of so many layers; left out: A then B"
    )


class Lowest(_Part):
    """The layers with the lowest values of the metric."""

    lowest: StrictInt = Field(ge=1, description="how many")


class Protect(_Part):
    """Layers that are never removed."""

    first: StrictInt = Field(default=0, ge=0, description="layers at the start that stay")
    last: StrictInt = Field(default=0, ge=0, description="layers at the end that stay")


Metric = Literal["snr", "margin", "block_influence", "angular_distance", "reverse_order", "list"]
UNBUILT_METRICS = ("block_influence", "angular_distance")
"""Metrics that nothing computes yet; see :mod:`merge_assets.recipe.unbuilt`."""


class PruneLayers(_Part):
    """A model without the layers that an analysis picks."""

    model: Reference = Field(description="the checkpoint whose layers are removed")
    by: Metric = Field(
        description="the metric, or `list` for layers named one by one; `block_influence` and `angular_distance` are not "
        "built yet: an error of the plan"
    )
    tensor: str | None = Field(
        default=None, min_length=1, description="module the metric is taken of, for `snr` and `margin`"
    )
    remove: Literal["infinite"] | int | Lowest | tuple[int, ...] = Field(
        description="`infinite`: layers of infinite SNR; a number of layers; `{lowest: n}`; layer numbers"
    )
    at_most: StrictInt | None = Field(default=None, ge=1, description="upper limit for `remove: infinite`")
    protect: Protect = Field(default=Protect(), description="layers that stay whatever the metric says")

    @property
    def is_measured(self) -> bool:
        """Whether the layers are chosen by an analysis of the model's weights."""
        return self.by in ("snr", "margin")

    @model_validator(mode="before")
    @classmethod
    def _read_remove(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "remove" not in raw:
            return raw
        remove = raw["remove"]
        if isinstance(remove, dict):
            extra = [key for key in remove if key != "lowest"]
            number = remove.get("lowest")
            if extra or not _is_count(number, 1):
                raise Misfit("write {lowest: N} with N of 1 or more", ("remove", *extra[:1]))
            return {**raw, "remove": Lowest(lowest=number)}
        if isinstance(remove, (list, tuple)):
            if not remove or not all(_is_count(layer, 0) for layer in remove) or len(set(remove)) != len(remove):
                raise Misfit("a list names layers by number, each once, at least one", ("remove",))
            return {**raw, "remove": tuple(remove)}
        if remove != "infinite" and not _is_count(remove, 1):
            raise Misfit(
                f"{shown(remove)} is neither infinite, nor a number of layers, nor {{lowest: N}}, nor a list",
                ("remove",),
            )
        return raw

    @model_validator(mode="after")
    def _fits_metric(self) -> PruneLayers:
        if self.is_measured and self.tensor is None:
            raise Misfit(f"by: {self.by} needs the module it is taken of, such as self_attn.v_proj", ("tensor",))
        if not self.is_measured and self.tensor is not None:
            raise Misfit(f"by: {self.by} is not taken of one tensor; leave it out", ("tensor",))
        if isinstance(self.remove, tuple) != (self.by == "list"):
            raise Misfit("layer numbers and by: list go together", ("remove",))
        if self.remove == "infinite" and not self.is_measured:
            raise Misfit(f"infinite is for by: snr and by: margin, not for {self.by}", ("remove",))
        if self.at_most is not None and self.remove != "infinite":
            raise Misfit("limits only remove: infinite; leave it out", ("at_most",))
        return self


class Publish(_Part):
    """Where the variant is pushed on the Hub."""

    repo_id: HubId = Field(description="repository, `owner/name`")
    private: StrictBool = Field(default=True, description="create it as a private repository")


class Recipe(_Part):
    """One variant, as its YAML document describes it."""

    source: RecipeSource = Field(exclude=True, repr=False)

    merge_method: str = Field(min_length=1, description="how the inputs are merged")
    models: Annotated[tuple[ModelEntry, ...] | None, Filled] = Field(default=None, description="whole models to merge")
    slices: Annotated[tuple[Slice, ...] | None, Filled] = Field(
        default=None, description="runs of layers, stacked in order"
    )
    modules: Annotated[dict[str, Module] | None, Filled] = Field(
        default=None, description="parts of the model, each merged on its own"
    )
    depth_upscale: DepthUpscale | None = Field(
        default=None, description="template: deeper model from two copies of one"
    )
    prune_layers: PruneLayers | None = Field(default=None, description="template: model without some of its layers")
    base_model: Reference | None = Field(
        default=None, description="base of the method; otherwise it gives config and tokenizer only"
    )
    parameters: Parameters = Field(default={}, description="parameters of the whole merge")
    dtype: Dtype | None = Field(
        default=None, description="dtype of the output, unless `out_dtype` says otherwise; left out: the inputs' own"
    )
    out_dtype: Dtype | None = Field(default=None, description="dtype of the output")
    tokenizer_source: str | None = Field(default=None, description="`union`, `base`, or a model reference")
    tokenizer: TokenizerSettings | None = Field(default=None, description="the same with settings per token; not both")
    chat_template: str | None = Field(default=None, description="`auto`, a template's name, or a Jinja template")

    name: Name = Field(description="name of the variant; left out: the file's stem")
    description: str = Field(default="", description="one line for the UI and the model card")
    group: Group | None = Field(default=None, description="group in the UI")
    tags: dict[TagKey, TagValue] = Field(default={}, description="tags in the UI")
    owners: tuple[Owner, ...] = Field(default=(), description="e-mail addresses or `team:NAME`")
    seed: StrictInt = Field(default=0, ge=0, lt=1 << 63, description="seed of the random methods")
    evaluate: tuple[str, ...] | None = Field(
        default=None, max_length=100, description="suites; `[]`: none; left out: the setting `default_suites`"
    )
    publish: Publish | None = Field(
        default=None, description="push the variant to the Hub; not built yet: an error of the plan"
    )
    schedule: Cron | None = Field(default=None, description="cron line for rebuild and evaluation")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the merge is computed; `auto`: as the setting `device` says"
    )
    materialize: StrictBool = Field(
        default=True, description="`false`: not stored, but folded into the recipes made of it"
    )
    allow_nonfinite: StrictBool = Field(
        default=False, description="accept NaN and infinite elements in the output; they are still reported"
    )

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        bodies = [key for key in BODIES if getattr(self, key) is not None]
        if not bodies:
            raise Misfit(f"nothing to merge: write one of {', '.join(BODIES)}")
        if len(bodies) > 1:
            raise Misfit(f"{' and '.join(bodies)} exclude each other; keep one", (bodies[1],))
        if bodies[0] in TEMPLATES and self.merge_method != "passthrough":
            raise Misfit(
                f"{bodies[0]} copies layers, so write merge_method: passthrough, not {self.merge_method}",
                ("merge_method",),
            )
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise Misfit("tokenizer and tokenizer_source exclude each other; keep one", ("tokenizer_source",))
        for path, text in self._tokenizer_texts():
            if text not in TOKENIZER_SOURCES:
                try:
                    ModelReference.parse(text)
                except ValueError as error:
                    raise Misfit(f"neither union nor base, and {error}", path) from None
        if (count := len(self.references())) > MAX_MODELS:
            raise Misfit(f"{count} models are named; at most {MAX_MODELS} are merged at once", (bodies[0],))
        for key, purpose in NEEDS_STORED.items() if not self.materialize else ():
            if getattr(self, key):
                raise Misfit(
                    f"nothing is stored (materialize: false), so there is nothing to {purpose}; leave out one of them",
                    (key,),
                )
        return self

    def references(self) -> tuple[ModelReference, ...]:
        """Every model the recipe names, each once, in order of first mention.

        ``base_model`` comes first, as the donor of config and tokenizer; models that only the tokenizer keys name
        come last.
        """
        return tuple(dict.fromkeys(reference for _, reference in self.mentions()))

    def mentions(self) -> Iterator[tuple[str, ModelReference]]:
        """Every place that names a model, as (key path, reference), in the order of :meth:`references`."""
        if self.base_model is not None:
            yield "base_model", self.base_model
        for template in TEMPLATES:
            if (settings := getattr(self, template)) is not None:
                yield f"{template}.model", settings.model
        yield from _body_mentions("", self.models, self.slices)
        for name, module in (self.modules or {}).items():
            yield from _body_mentions(f"modules.{name}.", module.models, module.slices)
        for path, text in self._tokenizer_texts():
            if text not in TOKENIZER_SOURCES:
                yield ".".join(path), ModelReference.parse(text)
        for token, settings in self.tokenizer.tokens.items() if self.tokenizer else ():
            if isinstance(settings.source, ModelReference):
                yield f"tokenizer.tokens.{token}.source", settings.source
            elif settings.source is not None and settings.source.model is not None:
                yield f"tokenizer.tokens.{token}.source.model", settings.source.model

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what determines the output: the content without name, description and the like.

        Keys left out and keys written with their default value give the same digest, as do ``1`` and ``1.0``.
        """
        content = self.model_dump(mode="json", exclude=set(DESCRIPTIVE), exclude_defaults=True)
        text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def slice_bases(self) -> Iterator[tuple[str, ModelReference]]:
        """The ``base_model`` of slices, also of modules, as (key path, reference)."""
        yield from ((key, model) for key, model in self.mentions() if key.endswith("].base_model"))

    def _tokenizer_texts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.tokenizer_source is not None:
            yield ("tokenizer_source",), self.tokenizer_source
        if self.tokenizer is not None:
            yield ("tokenizer", "source"), self.tokenizer.source


def _body_mentions(
    prefix: str, models: tuple[ModelEntry, ...] | None, slices: tuple[Slice, ...] | None
) -> Iterator[tuple[str, ModelReference]]:
    for index, entry in enumerate(models or ()):
        yield f"{prefix}models[{index}].model", entry.model
    for index, part in enumerate(slices or ()):
        if part.base_model is not None:
            yield f"{prefix}slices[{index}].base_model", part.base_model
        for place, source in enumerate(part.sources):
            yield f"{prefix}slices[{index}].sources[{place}].model", source.model


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
