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
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, model_validator

from merge_assets.recipe.fields import (
    Cron,
    Dtype,
    Duration,
    Filled,
    Group,
    HubId,
    LayerRange,
    Name,
    Owner,
    RecipeMapping,
    Reference,
    Shown,
    TagKey,
    TagValue,
)
from merge_assets.recipe.parameters import Misfit, Parameters
from merge_assets.recipe.schema_architecture import Architecture
from merge_assets.recipe.schema_averaging import AverageCheckpoints
from merge_assets.recipe.schema_evaluation import Evaluate
from merge_assets.recipe.schema_keep import Keep
from merge_assets.recipe.schema_missing import Missing
from merge_assets.recipe.schema_published import Published
from merge_assets.recipe.schema_search import FoundBy, Search
from merge_assets.recipe.schema_sweep import Sweep, Swept
from merge_assets.recipe.schema_templates import DepthUpscale, PruneLayers
from merge_assets.recipe.schema_tokenizer import TOKENIZER_SOURCES, TokenizerSettings
from merge_assets.reference import ModelReference
from merge_assets.setting_types import Device
from merge_assets.yamlfile import Document, parse_documents, spell

BODIES = ("models", "slices", "modules", "depth_upscale", "prune_layers", "average_checkpoints")
TEMPLATES = ("depth_upscale", "prune_layers")
"""Templates that stand for slices of one model."""
DESCRIPTIVE = frozenset(
    {
        *("name", "source", "description", "group", "tags", "owners", "evaluate", "publish", "schedule", "device"),
        *("materialize", "freshness", "keep", "trust_remote_code", "published", "sweep", "swept", "search", "found"),
    }
)
MAX_MODELS = 256
"""Models that one recipe names."""

NEEDS_STORED = {
    "evaluate": "evaluate",
    "publish": "publish",
    "schedule": "build on a schedule",
    "freshness": "keep fresh",
    "keep": "keep",
}
"""Keys of what is done with a stored variant -> what they do."""


class RecipeSource(RecipeMapping):
    """Where a recipe was read: for error messages, code references and showing its text."""

    file: Path
    document: int = Field(description="index of the document in its file, from 0")
    line: int = Field(description="1-based line of the document's first key")
    text: str = Field(description="the document's own YAML, comments included")
    whole: str = Field(description="the file as it was read", exclude=True, repr=False)

    def at(self, key: str) -> str:
        """``file:line`` of a key path such as ``slices[0].sources[1]``; the closest known line if it has none."""
        document = self.parsed()
        spelled = {spell(path): path for path in document.lines}
        while key and key not in spelled:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return f"{self.file}:{document.line_of(spelled.get(key, ()))}"

    def parsed(self) -> Document:
        """The document in its file, as that was read."""
        return next(found for found in _documents_again(self.whole, self.file) if found.index == self.document)


@lru_cache(maxsize=2)
def _documents_again(text: str, file: Path) -> list[Document]:
    """The documents of a file, kept because the errors of one file come together."""
    return parse_documents(text, file)


class ModelEntry(RecipeMapping):
    """One input of a merge of whole models."""

    model: Reference = Field(description="the checkpoint: Hub id, folder, or another recipe's name")
    parameters: Parameters = Field(default={}, description="parameters of this model")


class Source(RecipeMapping):
    """One input of a slice."""

    model: Reference = Field(description="the checkpoint the layers come from")
    layer_range: LayerRange | None = Field(
        default=None, description="layers taken, `end` not included; left out: all layers"
    )
    parameters: Parameters = Field(default={}, description="parameters of this source")


class Slice(RecipeMapping):
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


class Module(RecipeMapping):
    """One part of a model with parts of its own, such as the text tower."""

    slices: Annotated[tuple[Slice, ...] | None, Filled] = Field(default=None, description="as in the recipe")
    models: Annotated[tuple[ModelEntry, ...] | None, Filled] = Field(default=None, description="as in the recipe")
    parameters: Parameters = Field(default={}, description="parameters of this module")

    @model_validator(mode="after")
    def _one_body(self) -> Module:
        if (self.slices is None) == (self.models is None):
            raise Misfit("a module has exactly one of slices and models")
        return self


class Publish(RecipeMapping):
    """Where the variant is pushed on the Hub."""

    repo_id: HubId = Field(description="repository, `owner/name`")
    private: StrictBool = Field(default=True, description="create it as a private repository")


class Recipe(RecipeMapping):
    """One variant, as its YAML document describes it."""

    source: RecipeSource = Field(exclude=True, repr=False)
    swept: Swept | None = Field(default=None, exclude=True, repr=False)
    found: FoundBy | None = Field(default=None, exclude=True, repr=False)

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
    average_checkpoints: AverageCheckpoints | None = Field(
        default=None, description="template: weighted mean of the last checkpoints of a training run"
    )
    base_model: Reference | None = Field(
        default=None, description="base of the method; otherwise it gives config and tokenizer only"
    )
    parameters: Parameters = Field(default={}, description="parameters of the whole merge")
    missing: Missing = Field(
        default=None,
        description="what becomes of tensors that some models lack: `carry`, `drop` or `refuse`, for all or by filter; left "
        "out: by what they are",
    )
    architecture: Architecture | None = Field(
        default=None,
        description="class that the variant is loaded as, where it computes the same as that of its models; left out: theirs",
    )
    dtype: Dtype | None = Field(
        default=None, description="dtype of the output, unless `out_dtype` says otherwise; left out: the inputs' own"
    )
    out_dtype: Dtype | None = Field(default=None, description="dtype of the output")
    tokenizer_source: str | None = Field(default=None, description="`union`, `base`, or a model reference")
    tokenizer: TokenizerSettings | None = Field(default=None, description="the same with settings per token; not both")
    chat_template: str | None = Field(default=None, description="`auto`, a template's name, or a Jinja template")

    name: Name = Field(description="name of the variant; left out: the file's stem")
    description: Shown = Field(default="", description="one line for the UI and the model card")
    group: Group | None = Field(default=None, description="group in the UI")
    tags: dict[TagKey, TagValue] = Field(default={}, description="tags in the UI")
    owners: tuple[Owner, ...] = Field(default=(), description="e-mail addresses or `team:NAME`")
    seed: StrictInt = Field(default=0, ge=0, lt=1 << 63, description="seed of the random methods")
    evaluate: Evaluate = Field(
        default=None,
        description="suites, each by its name or with how the variant is asked on it; `[]`: none; left out: the setting "
        "`default_suites`",
    )
    sweep: Sweep | None = Field(
        default=None, description="values that take places of the recipe: one variant for each point"
    )
    search: Search | None = Field(
        default=None, description="the best values of places of the recipe are looked for; see `merge-assets search`"
    )
    publish: Publish | None = Field(
        default=None, description="push the variant to the Hub; not built yet: an error of the plan"
    )
    published: tuple[Published, ...] = Field(
        default=(), max_length=100, description="results that others published, shown beside those measured here"
    )
    schedule: Cron | None = Field(default=None, description="cron line for rebuild and evaluation")
    freshness: Duration | None = Field(
        default=None,
        description="longest time between two looks whether the variant is still the same; else it is late",
    )
    keep: Keep = Field(
        default=None,
        description="which of its versions, or of a sweep's points, `store gc` leaves; left out: as its option `--keep` says",
    )
    device: Device = Field(
        default="auto", description="where the merge is computed; `auto`: as the setting `device` says"
    )
    materialize: StrictBool = Field(
        default=True, description="`false`: not stored, but folded into the recipes made of it"
    )
    allow_nonfinite: StrictBool = Field(
        default=False, description="accept NaN and infinite elements in the output; they are still reported"
    )
    trust_remote_code: tuple[Reference, ...] = Field(
        default=(), description="models of this recipe whose code is run when the variant is loaded, without a network"
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
        if self.average_checkpoints is not None:
            self.average_checkpoints.check_around(self.merge_method, self.parameters)
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
        for index, reference in enumerate(self.trust_remote_code):
            if reference not in self.references():
                named = ", ".join(map(str, self.references()))
                raise Misfit(f"{reference} is no model of this recipe; it names {named}", ("trust_remote_code", index))
        for key, purpose in NEEDS_STORED.items() if not self.materialize else ():
            if getattr(self, key):
                raise Misfit(
                    f"nothing is stored (materialize: false), so there is nothing to {purpose}; leave out one of them",
                    (key,),
                )
        self._check_keep()
        return self

    def _check_keep(self) -> None:
        if not any(rule.by == "best" for rule in self.keep or ()):
            return
        if self.evaluate == ():
            raise Misfit(
                "scores tell which are best, and evaluate is empty; name a suite there, or keep last N", ("keep",)
            )
        if self.swept is not None and self.freshness is not None:
            raise Misfit(
                "points that are not among the best go, so there is nothing of them to look at again; leave out freshness",
                ("freshness",),
            )

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
        if self.average_checkpoints is not None:
            yield from self.average_checkpoints.mentions()
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


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
