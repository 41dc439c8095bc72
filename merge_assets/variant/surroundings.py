"""Everything of a variant's folder that is not weights: config, index, tokenizer, recipe, plan and model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from merge_assets.errors import EngineError
from merge_assets.plan import Plan, index_json, index_name
from merge_assets.plan.describe import format_figure, human_bytes, layer_map, vocabulary_summary
from merge_assets.recipe import Recipe
from merge_assets.regular import open_regular


def read_local(location: str, file: str) -> bytes:
    """A file of a model in a local folder."""
    with open_regular(Path(location, file)) as opened:
        return opened.readall()


def write_surroundings(
    plan: Plan,
    recipe: Recipe,
    directory: Path,
    scores: Sequence[Mapping[str, object]] = (),
    read_file: Callable[[str, str], bytes] = read_local,
) -> None:
    """Write all files of a variant but its weight shards.

    Args:
        plan: what was built.
        recipe: its recipe.
        directory: the variant's folder.
        scores: for the model card; see :func:`model_card`.
        read_file: gives a small file of a model, by the model's location and the file's name.

    Raises:
        EngineError: if a file of the donor is gone or a file cannot be written.
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
                target.write_bytes(read_file(location, carried.file))
            except OSError as error:
                raise EngineError(f"{target}: copying {location}/{carried.file}: {error.strerror}") from error
        for written in plan.written:
            _write(directory / written.file, written.text)
        _write(directory / "recipe.yaml", recipe.source.text)
        _write(directory / "mergekit_config.yml", plan.mergekit_config)
        _write(directory / "plan.json", plan.to_json())
        _write(directory / "README.md", model_card(plan, recipe, scores))
    except OSError as error:
        raise EngineError(f"{error.filename or directory}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def model_card(plan: Plan, recipe: Recipe, scores: Sequence[Mapping[str, object]] = ()) -> str:
    """The Hub model card of a variant.

    Args:
        plan: what was built.
        recipe: its recipe.
        scores: rows with ``version`` (the variant evaluated), ``suite``, ``task``, ``metric`` and ``value``.
    """
    models = [model for model in plan.models if not model.folded]
    front = {
        # A model with an adapter counts as the two that it is made of, which is what the Hub can link to.
        "base_model": list(dict.fromkeys(m.reference.partition("+")[0] for m in models if "://" not in m.reference)),
        "library_name": "transformers",
        "tags": ["merge", "merge-assets", plan.method],
    }
    lines = ["---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "", f"# {recipe.name}", ""]
    if recipe.description:
        lines += [recipe.description, ""]
    lines += [
        f"A merge of {len(models)} checkpoint{'s'[: len(models) != 1]} by `{plan.method}`, "
        f"{plan.parameter_count:,} parameters in {plan.layer_count} layers, {human_bytes(plan.bytes_to_write)}.",
        "",
        "## Models",
        "",
        *(f"- `{m.reference}`" + (f" (fingerprint `{m.fingerprint[:12]}`)" if m.fingerprint else "") for m in models),
        "",
        "## Layers",
        "",
        "| output layers | made of | parameters |",
        "|---|---|---|",
        *(f"| {row.output} | {row.sources} | {row.values} |" for row in layer_map(plan)),
        "",
    ]
    if vocabulary := vocabulary_summary(plan):
        lines += ["## Vocabulary", "", f"{vocabulary}.", ""]
    if plan.removed_layers:
        lines += ["## Removed layers", "", "| layer | tensor | value | margin |", "|---|---|---|---|"]
        for figure in plan.removed_layers:
            value, margin = format_figure(figure["value"]), format_figure(figure["margin"])
            lines.append(f"| {figure['layer']} | {figure['tensor']} | {value} | {margin} |")
        lines.append("")
    if scores:
        lines += ["## Scores", "", f"Of version `{scores[0]['version']}`.", ""]
        lines += ["| suite | task | metric | value |", "|---|---|---|---|"]
        lines += [f"| {row['suite']} | {row['task']} | {row['metric']} | {row['value']} |" for row in scores]
        lines.append("")
    lines += ["## Recipe", "", "```yaml", recipe.source.text.rstrip(), "```", ""]
    return "\n".join(lines)
