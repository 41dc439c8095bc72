"""What stored tensors are called in the model that transformers makes of them: a verb of the model worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from merge_assets.analysis.frame import class_of, without_weights
from merge_assets.model_worker import Desk


def parameter_names(desk: Desk, *, directory: str, names: Sequence[str]) -> dict[str, list[str]] | None:
    """The parameters that each stored tensor becomes, or is a part of.

    The library renames, fuses and splits stored tensors while it loads them: the experts of Mixtral become one parameter, and
    GPT-2's names get the prefix of the class with a head.

    Args:
        directory: folder of the config.
        names: of stored tensors.

    Returns:
        Names of parameters by stored name, none for tensors that the class does not read; ``None`` where transformers has no
        class for the model.
    """
    known = class_of(Path(directory))
    if known is None:
        return None
    model = without_weights(*known)
    there = {name for name, _ in model.named_parameters()}
    state = model.state_dict()
    mapping = get_model_conversion_mapping(model) or []
    renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
    converters = [one for one in mapping if isinstance(one, WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    found: dict[str, list[str]] = {}
    for name in names:
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if renamed not in state and name in state:
            renamed, pattern = name, None
        targets = by_pattern[pattern].target_patterns if pattern is not None else [""]
        found[name] = [one for target in targets if (one := renamed.replace(targets[0], target)) in there]
    return found
