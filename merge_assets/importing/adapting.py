"""What others wrote for mergekit, written so that it means the same here: misplaced, old and ignored keys, paths of caches.

Every change is said. Slips of the pen are none of them: a key that is nearly one that is known is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_assets.errors import nearest
from merge_assets.importing.edits import Edits, in_one_line
from merge_assets.importing.indentation import MethodParameters
from merge_assets.importing.shapes import recipe_shape
from merge_assets.recipe.fields import read_reference
from merge_assets.recipe.schema import TEMPLATES
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import Document, Path_, parse_documents, spell

IGNORED = "mergekit ignores this"
_CACHED = re.compile(r"(?:^|.*[/\\])models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]([0-9a-f]{7,40})[/\\]?$")
_OLD_SOURCE = "model:"
SLIP = 0.75
"""How alike a key and a known one are if it is a slip of the pen, 0 to 1."""
_MOVED = "moved into parameters"


def adapted(text: str, file: Path, parameters: MethodParameters) -> tuple[str, tuple[str, ...]]:
    """The text of recipes as it is written here, and what was changed, one sentence each.

    Args:
        text: YAML, one document or several.
        file: named in errors.
        parameters: of the methods; without any, parameters stay as they are.

    Raises:
        RecipeError: if it is no YAML.
    """
    documents = [document for document in parse_documents(text, file) if isinstance(document.data, dict)]
    work = [_Work(document, parameters, Edits(text)) for document in documents[:1]]
    if not work:
        return text, ()
    edits = work[0].edits
    notices = [notice for document in documents for notice in _Work(document, parameters, edits).notices()]
    return (edits.done(), tuple(dict.fromkeys(notices))) if notices else (text, ())


@dataclass(frozen=True)
class _Work:
    """One document, and the changes of its text."""

    document: Document
    parameters: MethodParameters
    edits: Edits

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document.data
        return found

    def notices(self) -> Iterator[str]:
        yield from self._top_level()
        yield from self._tokenizer()
        for path, item in self._items():
            yield from self._item(path, item)
        yield from self._references()
        yield from self._empty_slices()
        yield from self._adapter_alone()
        for path, scope in self._scopes():
            yield from self._scope(path, scope)

    @property
    def method(self) -> str:
        return str(self.data.get("merge_method"))

    @property
    def own(self) -> Mapping[str, bool]:
        """The method's parameters."""
        return self.parameters.get(self.method, {})

    def _top_level(self) -> Iterator[str]:
        moved = {key: value for key, value in self.data.items() if key in self.own and key not in recipe_shape().keys}
        scope = self.data.get("parameters")
        moved = {key: value for key, value in moved.items() if not (isinstance(scope, dict) and key in scope)}
        yield from self._moved((), moved, self.data)

    def _item(self, path: Path_, item: dict[str, Any]) -> Iterator[str]:
        known = ("model", "parameters", "layer_range")
        strange = {key: value for key, value in item.items() if key not in known}
        if isinstance(item.get("model"), str) and isinstance(strange.get("revision"), str | int):
            revision = str(strange.pop("revision"))
            if "@" not in item["model"]:
                model, plus, lora = item["model"].partition("+")
                if self.edits.replace(self._spot((*path, "model")), f"{model}@{revision}{plus}{lora}"):
                    self.edits.comment(self._spot((*path, "revision")), "now behind the model's name")
                    yield f"{spell((*path, 'revision'))}: {revision} now stands behind the model's name, as @{revision}"
        scope = item.get("parameters")
        taken = scope if isinstance(scope, dict) else {}
        moved = {key: value for key, value in strange.items() if key in self.own and key not in taken}
        yield from self._moved(path, moved, item)
        for key in strange.keys() - moved.keys():
            if not nearest(str(key), known, alike=SLIP) and self.edits.comment(self._spot((*path, key)), IGNORED):
                yield f"{spell((*path, key))} is no key of a model; mergekit ignores it, and it is a comment now"

    def _moved(self, path: Path_, moved: dict[str, Any], owner: dict[str, Any]) -> Iterator[str]:
        scope = owner.get("parameters", {})
        if not moved or not isinstance(scope, dict):  # an empty one stands before what lost its indentation
            return
        if "parameters" in owner:
            written = [self.edits.add(self._spot((*path, "parameters")), key, moved[key]) for key in moved]
        else:
            written = [self.edits.add(self._spot(path), "parameters", dict(moved))]
        if not all(written):
            return
        for key, value in moved.items():
            self.edits.comment(self._spot((*path, key)), _MOVED)
            yield (
                f"{spell((*path, key))}: {in_one_line(value)} is a parameter of {self.method}, {_MOVED}; mergekit reads it "
                "only there"
            )

    def _scope(self, path: Path_, scope: dict[str, Any]) -> Iterator[str]:
        if not self.parameters:
            return
        anywhere = {name for names in self.parameters.values() for name in names}
        for name in scope:
            slip = nearest(str(name), list(self.own) or list(anywhere), alike=SLIP)
            if name not in anywhere and not slip and self.edits.comment(self._spot((*path, name)), IGNORED):
                yield f"{spell((*path, name))} is a parameter of no method; mergekit ignores it, and it is a comment now"

    def _tokenizer(self) -> Iterator[str]:
        source = self.data.get("tokenizer_source")
        if isinstance(source, str) and source.startswith(_OLD_SOURCE) and source != _OLD_SOURCE:
            new = source.removeprefix(_OLD_SOURCE).strip()
            if self.edits.replace(self._spot(("tokenizer_source",)), new):
                yield f"tokenizer_source: {source} is an old way to write {new}"

    def _references(self) -> Iterator[str]:
        for path, value in (*self._models(), (("base_model",), self.data.get("base_model"))):
            if isinstance(value, str) and (found := _CACHED.match(value)):
                new = f"{found[1]}/{found[2]}@{found[3]}"
                if self.edits.replace(self._spot(path), new):
                    yield f"{spell(path)}: the path is one of the Hub's cache; written as {new}"

    def _empty_slices(self) -> Iterator[str]:
        for place, one in enumerate(_list(self.data.get("slices"))):
            sources = _list(_mapping(one).get("sources"))
            empty = all(map(_is_empty, sources)) if sources else False
            if empty and self.edits.comment(self._spot(("slices", place)), "no layers"):
                yield f"slices[{place}] takes no layers ({sources[0]['layer_range']}), and is a comment now"

    def _adapter_alone(self) -> Iterator[str]:
        """task_arithmetic of one model with an adapter and itself adds nothing but the adapter."""
        models = self.data.get("models")
        if self.method != "task_arithmetic" or not isinstance(models, list) or len(models) != 1:
            return
        (entry,) = models
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), str) or "+" not in entry["model"]:
            return
        whole = _reference(entry["model"])
        base = _reference(self.data.get("base_model", entry["model"]))
        scope = {**_mapping(self.data.get("parameters")), **_mapping(entry.get("parameters"))}
        weight = entry.get("weight", scope.get("weight", 1))
        if whole is None or base not in (whole, whole.model) or weight != 1 or scope.keys() - {"weight", "normalize"}:
            return
        if self.edits.replace(self._spot(("merge_method",)), "passthrough"):
            for path in (("parameters",), ("models", 0, "parameters"), ("models", 0, "weight")):
                self.edits.comment(self._spot(path), "passthrough has no weights")
            yield f"task_arithmetic of {whole} with itself is that model with its adapter: written as passthrough"

    def _items(self) -> Iterator[tuple[Path_, dict[str, Any]]]:
        """Every entry of ``models`` and ``sources``, and where it is."""
        for body, prefix in self._bodies():
            for place, entry in enumerate(_list(body.get("models"))):
                if isinstance(entry, dict):
                    yield (*prefix, "models", place), entry
            for place, one in enumerate(_list(body.get("slices"))):
                for number, source in enumerate(_list(one.get("sources")) if isinstance(one, dict) else ()):
                    if isinstance(source, dict):
                        yield (*prefix, "slices", place, "sources", number), source

    def _scopes(self) -> Iterator[tuple[Path_, dict[str, Any]]]:
        for body, prefix in self._bodies():
            yield (*prefix, "parameters"), _mapping(body.get("parameters"))
            for place, one in enumerate(_list(body.get("slices"))):
                yield (*prefix, "slices", place, "parameters"), _mapping(_mapping(one).get("parameters"))
        for path, item in self._items():
            yield (*path, "parameters"), _mapping(item.get("parameters"))

    def _bodies(self) -> Iterator[tuple[dict[str, Any], Path_]]:
        yield self.data, ()
        for name, module in _mapping(self.data.get("modules")).items():
            yield _mapping(module), ("modules", name)

    def _models(self) -> Iterator[tuple[Path_, Any]]:
        for path, item in self._items():
            yield (*path, "model"), item.get("model")
        for key in TEMPLATES:
            yield (key, "model"), _mapping(self.data.get(key)).get("model")

    def _spot(self, path: Path_) -> tuple[int, Path_]:
        return self.document.index, path


def _is_empty(source: Any) -> bool:
    layers = _mapping(source).get("layer_range")
    return isinstance(layers, list) and len(layers) == 2 and layers[0] == layers[1] and isinstance(layers[0], int)


def _reference(value: Any) -> ModelReference | None:
    try:
        return read_reference(value)
    except ValueError:
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
