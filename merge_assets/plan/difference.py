"""What differs between a plan and the plan of an earlier build, as far as it is known without reading weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from merge_assets.plan.inputs import is_digest, tensor_key
from merge_assets.plan.model import OutputTensor, Plan, TensorInput, strict_json


@dataclass(frozen=True)
class Difference:
    """Output tensors by what would happen to them, and what else of the variant would.

    Attributes:
        unchanged: tensors with the key of the earlier build.
        open: tensors that are unchanged if the bytes of their inputs are, which is not known: they were not digested since.
        changed: tensors of the same name with another key, whatever the bytes of undigested inputs.
        added: tensors that the earlier build did not have.
        removed: tensors that only the earlier build has.
        reasons: why tensors changed, with how many did for that reason.
        config: top-level keys of ``config.json`` that differ.
        files: other files beside the weights that differ, as far as their digests are known.
        shards: whether tensors are laid out in other files or places.
        undigested: models whose bytes are not known.
    """

    unchanged: int
    open: int
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    reasons: Mapping[str, int]
    config: tuple[str, ...]
    files: tuple[str, ...]
    shards: bool
    undigested: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the variant is certainly the same."""
        return not (self.is_other or self.undigested)

    @property
    def is_other(self) -> bool:
        """Whether the variant is certainly another one."""
        return bool(self.changed or self.added or self.removed or self.config or self.files or self.shards)


def difference(plan: Plan, earlier: str) -> Difference:
    """Compare with the ``plan.json`` of an earlier build."""
    old = json.loads(earlier)
    sight = _Sight(plan, old)
    before = {tensor["name"]: tensor for tensor in old["tensors"]}
    changed: list[str] = []
    unchanged = 0
    reasons: dict[str, int] = {}
    versions: dict[str, str] = old.get("methods", {})
    revised = {name for name, version in plan.methods.items() if versions.get(name, version) != version}
    for tensor in plan.tensors:
        was = before.get(tensor.name)
        if was is None:
            continue
        assumed, certain = sight.assuming(tensor, was)
        if tensor_key(assumed) != was["key"]:
            changed.append(tensor.name)
            for reason in _reasons(was, json.loads(json.dumps(asdict(assumed))), revised):
                reasons[reason] = reasons.get(reason, 0) + 1
        elif certain:
            unchanged += 1
    files = sight.files()
    names = {tensor.name for tensor in plan.tensors}
    keys = {*old["config"], *plan.config}
    config = json.loads(json.dumps(strict_json(plan.config)))
    return Difference(
        unchanged=unchanged,
        open=len(names & before.keys()) - len(changed) - unchanged,
        changed=tuple(changed),
        added=tuple(tensor.name for tensor in plan.tensors if tensor.name not in before),
        removed=tuple(name for name in before if name not in names),
        reasons=reasons,
        config=tuple(sorted(key for key in keys if old["config"].get(key) != config.get(key))),
        files=files,
        shards=[asdict(shard) for shard in plan.shards] != old["shards"],
        undigested=tuple(sight.undigested),
    )


class _Sight:
    """Two plans, and what is known of the bytes of their inputs.

    Attributes:
        undigested: references of the models of which the earlier plan's bytes had to be assumed.
    """

    def __init__(self, plan: Plan, old: Mapping[str, Any]) -> None:
        self._plan = plan
        self._old = old
        self.undigested: dict[str, None] = {}

    def assuming(self, tensor: OutputTensor, was: Mapping[str, Any]) -> tuple[OutputTensor, bool]:
        """The expression with the earlier digests where its own are not known, and whether these are certain."""
        if len(tensor.inputs) != len(was["inputs"]):
            return tensor, True
        pairs = [self._input(item, before) for item, before in zip(tensor.inputs, was["inputs"], strict=True)]
        return replace(tensor, inputs=tuple(item for item, _ in pairs)), all(certain for _, certain in pairs)

    def _input(self, item: TensorInput, was: Mapping[str, Any]) -> tuple[TensorInput, bool]:
        if item.nested is not None and "nested" in was:
            nested, certain = self.assuming(item.nested, was["nested"])
            key = tensor_key(nested)
            return replace(item, nested=replace(nested, key=key), digest=key), certain
        if is_digest(item.digest) or item.digest == was["digest"]:
            return item, True
        now, then = self._plan.models[item.model], self._old["models"][was["model"]]
        if (now.reference, item.header.name) != (then["reference"], was["header"]["name"]):
            return item, True
        return replace(item, digest=was["digest"]), self._same_bytes(item.model, then)

    def files(self) -> tuple[str, ...]:
        """Carried and written files that differ."""
        before = {file["file"]: file for file in (*self._old["carried"], *self._old.get("written", ()))}
        now: dict[str, str | None] = {file.file: file.digest for file in self._plan.written}
        for carried in self._plan.carried:
            now[carried.file] = carried.digest
            was = before.get(carried.file)
            if carried.digest is None and was is not None and was["digest"] is not None and "model" in was:
                then = self._old["models"][was["model"]]
                if self._plan.models[carried.model].reference != then["reference"]:
                    now[carried.file] = ""  # another model's
                elif was["size"] == carried.size:
                    self._same_bytes(carried.model, then)
                    now[carried.file] = was["digest"]
        return tuple(sorted(f for f in {*before, *now} if f not in before or now.get(f, "") != before[f]["digest"]))

    def _same_bytes(self, model: int, then: Mapping[str, Any]) -> bool:
        """Whether a model has the fingerprint that it had."""
        now = self._plan.models[model]
        same = now.fingerprint is not None and now.fingerprint == then["fingerprint"]
        if not same:
            self.undigested[now.reference] = None
        return same


def _reasons(old: Mapping[str, Any], new: Mapping[str, Any], revised: Collection[str]) -> list[str]:
    """Why a tensor has another key; ``revised`` are methods that have another version."""
    reasons = []
    if old["method"] != new["method"]:
        reasons.append("method")
    elif new["method"] in revised:
        reasons.append("version of the method")
    values = [[t["parameters"], [i["parameters"] for i in t["inputs"]], t["base"]] for t in (old, new)]
    if values[0] != values[1]:
        reasons.append("parameters")
    if old.get("rows") != new.get("rows"):
        reasons.append("vocabulary")
    if old["dtype"] != new["dtype"] or old["shape"] != new["shape"]:
        reasons.append("dtype or shape")
    names = [[(i["model"], i["header"]["name"]) for i in t["inputs"]] for t in (old, new)]
    if names[0] != names[1]:
        reasons.append("source tensors")
    else:
        for before, after in zip(old["inputs"], new["inputs"], strict=True):
            if before["digest"] != after["digest"]:
                reasons += _reasons_of_input(before, after, revised)
    return list(dict.fromkeys(reasons)) or ["engine numerics"]


def _reasons_of_input(old: Mapping[str, Any], new: Mapping[str, Any], revised: Collection[str]) -> list[str]:
    """Why an input differs; for a tensor of a folded recipe, why its expression does."""
    if "nested" in old and new["nested"] is not None:
        return _reasons(old["nested"], new["nested"], revised)
    return ["bytes of an input"]
