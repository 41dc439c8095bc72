"""One architecture under the name of another: where names, shapes and arithmetic of both agree, a config can say either.

Which agree is a table made of transformers itself: small models with the same weights that give the very same logits.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from merge_assets.architecture.tables import read_table
from merge_assets.errors import CheckpointError, did_you_mean

TABLE = "classes.json"
_WINDOW = "sliding_window"
_CONTEXT = "max_position_embeddings"


@dataclass(frozen=True)
class _Kind:
    """A model type: its name, its class, and the keys of its config with their defaults."""

    name: str
    architecture: str
    defaults: Mapping[str, Any]
    alike: Collection[str]


def relabelled(
    config: Mapping[str, Any], architecture: str, without: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """A copy of a config for a model of another class that computes the same with the same tensors.

    Keys that only the old class knows are left out, as long as that changes nothing: they have their default, or are a window
    that no text is longer than. Keys that only the new one knows get their default, and a default that differs is written out.

    Args:
        config: content of ``config.json``.
        architecture: the new class, as ``architectures`` names it.
        without: keys that are left out even if the model computes otherwise without them.

    Returns:
        The config, and a sentence for everything that was left out or written.

    Raises:
        CheckpointError: if the classes are not known to agree, or the config asks for what the new class has not.
    """
    if config.get("architectures") == [architecture] and not without:
        return copy.deepcopy(dict(config)), ["the models are of it anyway"]
    old, new = _kinds(config, architecture)
    made, told = copy.deepcopy(dict(config)), list[str]()
    for key in old.defaults.keys() - new.defaults.keys():
        told += _left_out(made, config, key, old, new, key in without)
    for key in new.defaults.keys() - old.defaults.keys():
        if key == _WINDOW and new.defaults[key] is not None:
            made[key] = None
            told.append(f"{key} null is written, which {old.architecture} has not")
        elif key in made and made.pop(key) != new.defaults[key]:
            told.append(f"{key} {_shown(config[key])} is left out, which {old.architecture} reads past")
    for key in old.defaults.keys() & new.defaults.keys() - made.keys():
        if _differs(made, key, old, new):
            made[key] = old.defaults[key]
            told.append(f"{key} {_shown(made[key])} is written, the default of {old.architecture}")
    if useless := sorted(set(without) - (old.defaults.keys() - new.defaults.keys())):
        known = sorted(old.defaults.keys() - new.defaults.keys())
        raise CheckpointError(
            f"{', '.join(useless)} cannot be left out, as {architecture} knows it or {old.architecture} does not; "
            f"what can be: {', '.join(known) or 'nothing'}"
        )
    made |= {"model_type": new.name, "architectures": [architecture]}
    return made, sorted(told)


def _kinds(config: Mapping[str, Any], architecture: str) -> tuple[_Kind, _Kind]:
    """The model's own type and the one of a class."""
    old = next((kind for kind in _known() if kind.name == config.get("model_type")), None)
    if old is None:
        raise CheckpointError(
            f"no other class is known to compute as a model of type {config.get('model_type')!r} does; "
            f"types that have one: {', '.join(kind.name for kind in _known())}"
        )
    named = config.get("architectures") or [old.architecture]
    if named != [old.architecture]:
        raise CheckpointError(
            f"it is of {', '.join(map(str, named))}; only models of {old.architecture} can be relabelled"
        )
    if "auto_map" in config:
        raise CheckpointError("it names code of its own (auto_map), of which nothing is known; leave architecture out")
    others = [kind for kind in _known() if kind.name in old.alike]
    new = next((kind for kind in others if kind.architecture == architecture), None)
    if new is None:
        classes = [kind.architecture for kind in others]
        raise CheckpointError(
            f"{architecture} is not known to compute as {old.architecture} does{did_you_mean(architecture, classes)}; "
            f"classes that do: {', '.join(classes)}"
        )
    return old, new


def _left_out(
    made: dict[str, Any], config: Mapping[str, Any], key: str, old: _Kind, new: _Kind, is_wanted: bool
) -> Iterator[str]:
    """Take out a key that the new class does not know."""
    value, default = config.get(key, old.defaults[key]), old.defaults[key]
    made.pop(key, None)
    context = config.get(_CONTEXT, old.defaults.get(_CONTEXT))
    if key == _WINDOW and value is not None:
        if isinstance(context, int) and isinstance(value, int) and value >= context:
            yield f"{key} {_shown(value)} is left out: no text is longer ({_CONTEXT} {context})"
            return
        otherwise = f"beyond {_shown(value)} tokens, of {context} at most, every token is then seen"
    elif key == _WINDOW or value == default:
        return
    else:
        otherwise = f"{old.architecture} computes with it, {new.architecture} has not got it"
    if not is_wanted:
        raise CheckpointError(
            f"{key} {_shown(value)} cannot be said to {new.architecture}, and the model would compute otherwise: {otherwise}; "
            f"write architecture: {{load_as: {new.architecture}, without: [{key}]}} if that is meant"
        )
    yield f"{key} {_shown(value)} is left out, as the recipe says: {otherwise}"


def _differs(config: Mapping[str, Any], key: str, old: _Kind, new: _Kind) -> bool:
    """Whether a key that is not written means something else to the new class."""
    if key == "rope_parameters" and {"rope_theta", "rope_scaling"} & config.keys():  # the older way to write them
        if old.defaults[key].get("rope_type") != new.defaults[key].get("rope_type"):
            raise CheckpointError(
                f"rope_theta means something else to {new.architecture}; write rope_parameters into the model's config.json"
            )
        return "rope_theta" not in config and old.defaults[key] != new.defaults[key]
    return bool(old.defaults[key] != new.defaults[key])


def _known() -> list[_Kind]:
    return [_Kind(name, entry["class"], entry["defaults"], entry["alike"]) for name, entry in read_table(TABLE).items()]


def _shown(value: Any) -> str:
    return json.dumps(value)
