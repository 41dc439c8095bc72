"""What becomes of tokenizer and embeddings: which vocabulary a variant has, and from where each of its rows comes.

Only a recipe that says something of its tokenizer has the inputs' tokenizers read. Then every tensor with a row per token
(embedding, head, their biases) is brought to the output's vocabulary before it is merged: a token's row is the model's own if
it has one, and otherwise the base model's, the only one there is, or the mean of all, unless the recipe says another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from merge_assets.checkpoint import TensorHeader, Tokenizer, read_chat_template, read_tokenizer, tokenizer_files
from merge_assets.errors import CheckpointError
from merge_assets.plan.assemble import PlanInput
from merge_assets.plan.beside import CarriedFile, WrittenFile
from merge_assets.plan.inputs import NESTED_DTYPE, tensor_key
from merge_assets.plan.made import GATHER
from merge_assets.plan.model import OutputTensor, PlannedVocabulary, TensorInput
from merge_assets.plan.problems import plan_error
from merge_assets.plan.vocabulary_files import STALE, written_texts
from merge_assets.plan.vocabulary_rows import as_text, inputs_of
from merge_assets.plan.vocabulary_templates import chosen_template, special_tokens
from merge_assets.plan.vocabulary_tensors import Embeddings, rows_of, with_rows
from merge_assets.plan.vocabulary_union import Union, make_union, read_tokenizers
from merge_assets.recipe import Recipe

"""The way that inputs are brought to another vocabulary."""

_SPECIAL = ("_token_id", "_token_ids", "_token_index", "_token_indices")
_OPTIONAL = ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start", "forced_bos", "forced_eos")

TensorOf = Callable[[int, TensorHeader], TensorInput]


@dataclass(frozen=True)
class VocabularyPlan:
    """The vocabulary of one plan.

    Attributes:
        donor: index of the input whose tokenizer files, generation config and the like are carried over.
        written: files that replace or join those.
        warnings: things a person should know.
        planned: what the plan says of it; ``None`` if the embeddings stay as they are.
    """

    recipe: Recipe
    inputs: Sequence[PlanInput]
    config_donor: int
    donor: int
    written: tuple[WrittenFile, ...]
    warnings: tuple[str, ...]
    planned: PlannedVocabulary | None
    _union: Union | None
    _embeddings: Embeddings
    _maps: dict[tuple[int, tuple[tuple[int, int], ...]], tuple[list[int], str]]

    @property
    def rows(self) -> int | None:
        """Rows of every embedding, ``None`` where they stay as they are."""
        return self.planned.rows if self.planned else None

    def resized(self, model: int, header: TensorHeader) -> TensorHeader:
        """A tensor of an input as it will be once it has the output's vocabulary."""
        if self.rows is None or not self._embeddings.is_indexed(model, header):
            return header
        return replace(header, shape=with_rows(header, self.rows))

    def made(self, model: int, item: TensorInput, name: str, header: TensorHeader, tensor_of: TensorOf) -> TensorInput:
        """A tensor of an input with the output's vocabulary; as it is, if it has no row per token or the same ones.

        Args:
            model: the input.
            item: its tensor as an input of an expression.
            name: name of the output.
            header: of the tensor.
            tensor_of: gives a tensor of any model as an input.

        Raises:
            PlanError: if a model that gives a row has no such tensor, or one of another width; without tokenizer settings,
                if the donor has another number of rows.
        """
        if not self._embeddings.is_indexed(model, header):
            return item
        if self.rows is None or self._union is None:
            self._check_donor(model, name, header)
            return item
        others = {other: self._embeddings.counterpart(other, name, header) for other in range(len(self.inputs))}
        others[model] = header
        limits = {other: rows_of(found) if found is not None else 0 for other, found in others.items()}
        inputs, rows = self._map(model, limits)
        if inputs == [model] and rows == f"{self.rows}:0@0" and rows_of(header) == self.rows:
            return item
        sources = []
        for other in inputs:
            found = others[other]
            if found is None or with_rows(found, 0) != with_rows(header, 0):
                raise plan_error(
                    self.recipe,
                    "tokenizer",
                    f"rows of tensor {name} are taken from {self.inputs[other].reference}, whose tensor is "
                    f"{list(found.shape) if found else 'missing'}, for {self.inputs[model].reference}, whose tensor is "
                    f"{list(header.shape)}; merge models of one width",
                )
            sources.append(tensor_of(other, found))
        nested = OutputTensor(
            name=header.name,
            dtype=NESTED_DTYPE,
            shape=with_rows(header, self.rows),
            shard=-1,
            begin=0,
            end=0,
            method=GATHER.name,
            parameters={},
            inputs=tuple(sources),
            base=None,
            layer=item.layer,
            key="",
            rows=rows,
        )
        nested = replace(nested, key=tensor_key(nested))
        made = TensorHeader(header.name, NESTED_DTYPE, nested.shape, file="", begin=0, end=0)
        return replace(item, model=model, header=made, digest=nested.key, nested=nested)

    def _check_donor(self, model: int, name: str, header: TensorHeader) -> None:
        """Config and tokenizer must fit every embedding, also where layers of different models are stacked."""
        donated = self._embeddings.counterpart(self.config_donor, name, header)
        if donated is not None and rows_of(donated) != rows_of(header):
            raise plan_error(
                self.recipe,
                "",
                f"tensor {name} of {self.inputs[model].reference} has {rows_of(header)} rows, of "
                f"{self.inputs[self.config_donor].reference}, which gives config and tokenizer, {rows_of(donated)}: the "
                "vocabularies differ; set `tokenizer: {source: union}`, or merge models of one vocabulary",
            )

    def _map(self, model: int, limits: Mapping[int, int]) -> tuple[list[int], str]:
        key = (model, tuple(sorted(limits.items())))
        if key not in self._maps:
            assert self._union is not None
            for text, rule in self._union.vocabulary.rules.items():
                for source, row in rule.row or ():
                    if row >= limits[source]:
                        raise plan_error(
                            self.recipe,
                            f"tokenizer.tokens.{text}.source",
                            f"token {row} of {self.inputs[source].reference} has no row in every tensor with a row per token; "
                            "name another, or kind: zero",
                        )
            rows = self._union.vocabulary.rows_for(model, limits)
            inputs = inputs_of(rows)
            self._maps[key] = (inputs, as_text(rows, inputs))
        return self._maps[key]

    def carried(self, files: Sequence[CarriedFile]) -> tuple[CarriedFile, ...]:
        """The donor's files without those that are written anew or hold a smaller vocabulary."""
        replaced = {file.file for file in self.written}
        stale = STALE if self._union is not None and self._union.new else ()
        return tuple(
            file
            for file in files
            if file.file not in replaced and not any(fnmatchcase(file.file, pattern) for pattern in stale)
        )

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The variant's config with the special token numbers of its vocabulary.

        Raises:
            PlanError: if it names a token that the vocabulary lacks and a model cannot do without.
        """
        if self._union is None or self.donor == self.config_donor:
            return dict(config)
        own = self.inputs[self.donor].checkpoint.config
        return self._renumbered(config, own, own, "")

    def _renumbered(
        self, level: Mapping[str, Any], own: Mapping[str, Any], top: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        new: dict[str, Any] = {}
        for key, value in level.items():
            if isinstance(value, dict) and key.endswith("_config"):
                section = own.get(key)
                new[key] = self._renumbered(value, section if isinstance(section, dict) else {}, top, f"{where}{key}.")
            elif key.endswith(_SPECIAL) and key in own:
                new[key] = own[key]
            elif key.endswith(_SPECIAL) and key in top:
                new[key] = top[key]
            elif key.endswith(_SPECIAL) and isinstance(value, list):
                new[key] = [self._number(item, f"{where}{key}") for item in value]
            elif key.endswith(_SPECIAL):
                new[key] = self._number(value, f"{where}{key}")
            else:
                new[key] = value
        return new

    def _number(self, number: object, where: str) -> object:
        """The number, in the output, of a token that has a number in the config donor's vocabulary."""
        assert self._union is not None
        texts = self._union.tokenizers[self.config_donor].by_number()
        if type(number) is not int or not 0 <= number < len(texts) or texts[number] is None:
            return number
        text = texts[number]
        if text in self._union.vocabulary.tokens:
            return self._union.vocabulary.tokens.index(text)
        if where.rpartition(".")[2].startswith(_OPTIONAL):
            return None
        raise plan_error(
            self.recipe,
            "tokenizer",
            f"config.json of {self.inputs[self.config_donor].reference} needs {text!r} ({where}), which is not a token of "
            f"{self.inputs[self.donor].reference}; use source: union, or list it under tokenizer.tokens",
        )


def plan_vocabulary(recipe: Recipe, inputs: Sequence[PlanInput], config_donor: int) -> VocabularyPlan:
    """Decide on the vocabulary of a recipe's variant.

    Args:
        recipe: the recipe.
        inputs: its inputs.
        config_donor: index of the donor of the config, whose tokenizer is taken by default.

    Raises:
        PlanError: if the recipe asks for what cannot be done, or a tokenizer cannot be read.
    """
    try:
        return _planned(recipe, inputs, config_donor)
    except CheckpointError as error:
        problem = str(error)
    except RecursionError:
        problem = "a tokenizer file is nested too deeply; no tokenizer is, fetch it again"
    keys = ("tokenizer", "tokenizer_source", "chat_template")
    raise plan_error(recipe, next(key for key in keys if getattr(recipe, key) is not None), problem)


def _planned(recipe: Recipe, inputs: Sequence[PlanInput], config_donor: int) -> VocabularyPlan:
    members = _members(recipe, inputs)
    donor = _donor(recipe, inputs, config_donor)
    embeddings = Embeddings([item.checkpoint for item in inputs])
    union, warnings = None, []
    if _source(recipe) is not None and not _nothing_to_do(recipe, inputs, members, donor, embeddings):
        tokenizers, notes = read_tokenizers(recipe, inputs, members, donor, embeddings)
        union = make_union(recipe, inputs, members, donor, tokenizers, embeddings)
        warnings += [*notes, *union.warnings]
    template = _template(recipe, inputs, members, donor)
    warnings += _unknown_tokens(template, inputs[donor], union)
    return VocabularyPlan(
        recipe=recipe,
        inputs=inputs,
        config_donor=config_donor,
        donor=donor,
        written=_written(recipe, inputs[donor], donor, union, template),
        warnings=tuple(warnings),
        planned=union.planned if union else None,
        _union=union,
        _embeddings=embeddings,
        _maps={},
    )


def _source(recipe: Recipe) -> str | None:
    return recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source


def _members(recipe: Recipe, inputs: Sequence[PlanInput]) -> list[int]:
    """The models whose tokens count: all but those that only single tokens are taken from."""
    named = {reference for path, reference in recipe.mentions() if not path.startswith("tokenizer.tokens.")}
    return [number for number, item in enumerate(inputs) if item.reference in named]


def _donor(recipe: Recipe, inputs: Sequence[PlanInput], config_donor: int) -> int:
    source = _source(recipe)
    if source in (None, "base", "union"):
        return config_donor
    return next(number for number, item in enumerate(inputs) if str(item.reference) == source)


def _nothing_to_do(
    recipe: Recipe, inputs: Sequence[PlanInput], members: Sequence[int], donor: int, embeddings: Embeddings
) -> bool:
    """Whether all models have the same tokenizer files and as many rows, so that none of it need be read."""
    settings = recipe.tokenizer
    if settings is not None and (settings.tokens or settings.pad_to_multiple_of):
        return False
    if len({embeddings.count(number) for number in members}) > 1:
        return False
    return all(number == donor or _same_tokenizer(inputs[number], inputs[donor]) for number in members)


def _same_tokenizer(one: PlanInput, other: PlanInput) -> bool:
    """Whether two inputs have the same tokenizer files, by digest where known, else by their bytes."""
    names = [[n for n in tokenizer_files(item.checkpoint) if "template" not in n] for item in (one, other)]
    if names[0] != names[1]:
        return False
    if one.file_digests and other.file_digests:
        return all(one.file_digests.get(name) == other.file_digests.get(name) for name in names[0])
    if any(one.checkpoint.files[name] != other.checkpoint.files[name] for name in names[0]):
        return False
    return all(one.checkpoint.read(name) == other.checkpoint.read(name) for name in names[0])


def _template(recipe: Recipe, inputs: Sequence[PlanInput], members: Sequence[int], donor: int) -> str | None:
    """The chat template to write; ``None`` where the donor's own stays."""
    if recipe.chat_template is None:
        return None
    found = [read_chat_template(inputs[number].checkpoint) for number in members]
    place = members.index(donor)
    template = chosen_template(recipe, found, place)
    return None if template == found[place] else template


def _unknown_tokens(template: str | None, item: PlanInput, union: Union | None) -> list[str]:
    """A warning for what a template that is written anew takes for special tokens and the vocabulary lacks."""
    wanted = special_tokens(template or "")
    if not wanted:
        return []
    known = union.vocabulary.tokens if union else read_tokenizer(item.checkpoint).ids
    lacking = [token for token in wanted if token not in known]
    if not lacking:
        return []
    return [
        f"the chat template writes {', '.join(lacking)}, which are no tokens of the vocabulary; a model that has them "
        "can give them under tokenizer.tokens"
    ]


def _written(
    recipe: Recipe, item: PlanInput, donor: int, union: Union | None, template: str | None
) -> tuple[WrittenFile, ...]:
    """The files made anew, after those that the donor, if it is not stored, has made anew itself."""
    inherited = {file.file: file for file in (item.folded.written if item.folded is not None else ())}
    new = union.new if union else ()
    if new or template is not None:
        tokenizers: Mapping[int, Tokenizer] = (
            union.tokenizers if union else {donor: Tokenizer.of_settings(item.checkpoint)}
        )
        texts = written_texts(tokenizers[donor], tokenizers, new, template, tuple(item.checkpoint.files))
        inherited |= {
            name: WrittenFile(name, text, hashlib.sha256(text.encode()).hexdigest()) for name, text in texts.items()
        }
    return tuple(inherited[name] for name in sorted(inherited))
