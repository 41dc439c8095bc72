"""Everything of a variant's folder that is not weights: config, index, tokenizer, recipe, plan and model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

from merge_assets.errors import EngineError, InputError
from merge_assets.plan import Plan, index_json, index_name
from merge_assets.recipe import Recipe
from merge_assets.regular import open_regular
from merge_assets.variant.card import CARD, model_card


def read_local(location: str, file: str) -> bytes:
    """A file of a model in a local folder."""
    with open_regular(Path(location, file)) as opened:
        return opened.readall()


def write_surroundings(
    plan: Plan,
    recipe: Recipe,
    directory: Path,
    read_file: Callable[[str, str], bytes] = read_local,
    trusted: Collection[str] = (),
) -> None:
    """Write all files of a variant but its weight shards.

    Args:
        plan: what was built.
        recipe: its recipe.
        directory: the variant's folder.
        read_file: gives a small file of a model, by the model's location and the file's name.
        trusted: models whose code may be run, for the card.

    Raises:
        EngineError: if a file of the donor is gone or a file cannot be written.
        InputError: if a file of the donor is not what the plan says.
    """
    try:
        _write(directory / "config.json", json.dumps(plan.config, indent=2, ensure_ascii=False) + "\n")
        if len(plan.shards) > 1:
            places = {tensor.name: tensor.shard for tensor in plan.tensors}
            total = sum(tensor.nbytes for tensor in plan.tensors)
            _write(directory / index_name(plan.shards), index_json(plan.shards, places, total))
        for carried in plan.carried:
            target = directory / carried.file
            target.parent.mkdir(parents=True, exist_ok=True)
            location = plan.models[carried.model].location
            try:
                data = read_file(location, carried.file)
                if carried.digest not in (None, hashlib.sha256(data).hexdigest()):
                    raise InputError(
                        f"{location}/{carried.file}: changed since it was digested; nothing is published: run the command "
                        "again when it is written"
                    )
                target.write_bytes(data)
            except OSError as error:
                raise EngineError(f"{target}: copying {location}/{carried.file}: {error.strerror}") from error
        for written in plan.written:
            _write(directory / written.file, written.text)
        _write(directory / "recipe.yaml", recipe.source.text)
        _write(directory / "mergekit_config.yml", plan.mergekit_config)
        _write(directory / "plan.json", plan.to_json())
        _write(directory / CARD, model_card(plan, recipe, trusted))
    except OSError as error:
        raise EngineError(f"{error.filename or directory}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
