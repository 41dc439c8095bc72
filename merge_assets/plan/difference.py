"""What differs between a plan and the plan of an earlier build."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.plan.model import Plan


@dataclass(frozen=True)
class Difference:
    """Output tensors by what would happen to them.

    Attributes:
        unchanged: tensors with the key of the earlier build.
        changed: tensors of the same name with another key.
        added: tensors that the earlier build did not have.
        removed: tensors that only the earlier build has.
        reasons: why tensors changed, with how many did for that reason.
        config: top-level keys of ``config.json`` that differ.
    """

    unchanged: int
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    reasons: Mapping[str, int]
    config: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.changed or self.added or self.removed or self.config)


def difference(plan: Plan, earlier: str) -> Difference:
    """Compare with the ``plan.json`` of an earlier build."""
    old = json.loads(earlier)
    new = json.loads(plan.to_json())
    before = {tensor["name"]: tensor for tensor in old["tensors"]}
    after = {tensor["name"]: tensor for tensor in new["tensors"]}
    changed = [name for name, tensor in after.items() if name in before and tensor["key"] != before[name]["key"]]
    reasons: dict[str, int] = {}
    for name in changed:
        for reason in _reasons(before[name], after[name]):
            reasons[reason] = reasons.get(reason, 0) + 1
    keys = {*old["config"], *new["config"]}
    return Difference(
        unchanged=sum(name in before for name in after) - len(changed),
        changed=tuple(changed),
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        reasons=reasons,
        config=tuple(sorted(key for key in keys if old["config"].get(key) != new["config"].get(key))),
    )


def _reasons(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    reasons = []
    if old["method"] != new["method"]:
        reasons.append("method")
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
                reasons += _reasons_of_input(before, after)
    return list(dict.fromkeys(reasons)) or ["engine numerics"]


def _reasons_of_input(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why an input differs; for a tensor of a folded recipe, why its expression does."""
    if "nested" in old and "nested" in new:
        return _reasons(old["nested"], new["nested"])
    return ["bytes of an input"]
