"""A recipe as the plain YAML config that mergekit reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from merge_assets.recipe.averaging import written_out
from merge_assets.recipe.schema import TEMPLATES, Recipe, Slice
from merge_assets.reference import ModelReference

_ORDER = (
    "slices",
    "models",
    "modules",
    "merge_method",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)


_SEPARATOR = "\n---\n"
_STAGES_NOTE = (
    "# For mergekit-multi, which stores the stages above, each rounded to its dtype. Here they were never stored, and\n"
    "# nothing was rounded before the end.\n"
)
_CLASS_NOTE = (
    "# mergekit cannot say that this is loaded as {}: its weights are the same, its config is of the models' class.\n"
)
_REFERENCE_KEYS = frozenset({"model", "base_model", "tokenizer_source", "source"})


def to_mergekit(recipe: Recipe, slices: Sequence[Slice] | None = None, places: Mapping[str, str] | None = None) -> str:
    """The recipe without extension keys, as YAML.

    Args:
        recipe: any recipe.
        slices: the expanded slices; required for a recipe with a template, and for one whose sources leave out
            ``layer_range``. They replace the recipe's own ``slices``.
        places: where mergekit finds models that it does not know by their reference, such as other recipes' variants.

    Returns:
        YAML text. References are written as in the recipe, save those in ``places``.

    Raises:
        ValueError: if slices are required and not given.
    """
    if slices is None and any(getattr(recipe, template) is not None for template in TEMPLATES):
        raise ValueError(f"{recipe.name}: a template must be expanded to slices first")
    recipe = written_out(recipe)
    body = slices if slices is not None else _own_slices(recipe)
    if any(source.layer_range is None for part in body for source in part.sources):
        raise ValueError(f"{recipe.name}: every source needs its layer_range")
    content = _plain(recipe)
    if slices is not None:
        content["slices"] = [_plain(part) for part in slices]
    # mergekit has no way to write these in one text.
    special = {str(one): _as_mapping(one) for one in recipe.references() if one.has_own_signs}
    config = _placed({key: content[key] for key in _ORDER if key in content}, special | dict(places or {}))
    note = _CLASS_NOTE.format(recipe.architecture.load_as) if recipe.architecture is not None else ""
    return note + plain_yaml(config)


def plain_yaml(content: Mapping[str, Any]) -> str:
    """Plain data as the YAML of a recipe."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def with_stages(config: str, name: str, stages: Sequence[str]) -> str:
    """The file for ``mergekit-multi`` of a recipe that others are folded into: one document per recipe.

    Args:
        config: the recipe's own document, from :func:`to_mergekit`.
        name: its name, by which the documents refer to each other.
        stages: files of the recipes folded in, each made by this function; documents that they share are written once.
    """
    # A line of three dashes ends a document wherever it stands, so no text inside one can hold it.
    documents = dict.fromkeys(document for stage in stages for document in stage.rstrip().split(_SEPARATOR))
    note = _STAGES_NOTE if stages else ""
    own = f"{note}{yaml.safe_dump({'name': name})}{config.rstrip()}"
    return _SEPARATOR.join([*documents, own]) + "\n"


def _as_mapping(reference: ModelReference) -> dict[str, Any]:
    parts = {"model": reference.model, "lora": reference.lora}
    return {
        key: {"path": one.path} | ({"revision": one.revision} if one.revision else {})
        for key, one in parts.items()
        if one is not None
    }


def _placed(content: Any, places: Mapping[str, Any]) -> Any:
    """``content`` with the references in ``places`` replaced."""
    if isinstance(content, dict):
        return {
            key: places.get(value, value)
            if key in _REFERENCE_KEYS and isinstance(value, str)
            else _placed(value, places)
            for key, value in content.items()
        }
    return [_placed(item, places) for item in content] if isinstance(content, list) else content


def _plain(part: BaseModel) -> dict[str, Any]:
    content: dict[str, Any] = part.model_dump(mode="json", exclude_defaults=True)
    return content


def _own_slices(recipe: Recipe) -> list[Slice]:
    modules = (recipe.modules or {}).values()
    return [*(recipe.slices or ()), *(part for module in modules for part in module.slices or ())]


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers on one line, as people write layer ranges and gradients."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    flat = all(isinstance(item, (int, float)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Dumper.add_representer(list, _represent_list)
