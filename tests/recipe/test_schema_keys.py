"""Every key of a recipe, and every word that a key may take, does something: a small example of each shows what.

The walk takes all keys and words from the schema and fails where one has no example. An example is two recipes that differ
in this alone, and where to look: they must come out differently there. What is not built yet is refused, which is one such
difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from merge_assets import api
from merge_assets.api.halving import parts_of
from merge_assets.api.retention import Contender, fates
from merge_assets.api.search import Budget
from merge_assets.errors import EngineError, PlanError
from merge_assets.evaluation.sequential import PairedEvidence
from merge_assets.pipeline.assemble import build_definitions
from merge_assets.pipeline.graph import build_graph
from merge_assets.plan.vocabulary_templates import TEMPLATES
from merge_assets.recipe import Conditional, LayerFigure, Recipe, RecipeSource, load_recipe, load_recipes
from merge_assets.recipe.fields import RecipeMapping
from merge_assets.recipe.problems import HIDDEN_KEYS
from merge_assets.recipe.schema_search import Sampler
from merge_assets.recipe.schema_templates import Metric
from merge_assets.search.sampler import SeededSampler
from merge_assets.settings import Settings
from tests.merging import plan_text
from tests.synthetic import read_tensors, write_llama
from tests.vocabulary_support import word_model

Look = Callable[[str, Path], object]
WORDS = {  # of keys whose schema is text, because a model reference or a template may stand there, too
    "Recipe.tokenizer_source": ("union", "base"),
    "TokenizerSettings.source": ("union", "base"),
    "Recipe.chat_template": ("auto", *TEMPLATES),
    "Conditional.filter": ("*",),
    "EvaluateEntry.chat_template": ("auto", "on", "off"),
}
_numbers = count()


def walk() -> Iterator[str]:
    """``Model.key`` and ``Model.key: word`` for everything that a recipe may say."""
    for model in [*RecipeMapping.__subclasses__(), Conditional]:
        if model is RecipeSource:
            continue
        described = model.model_json_schema()["properties"]
        for key in model.model_fields:
            if model is Recipe and key in HIDDEN_KEYS:
                continue
            place = f"{model.__name__}.{key}"
            yield place
            yield from (f"{place}: {word}" for word in (*words(described[key]), *WORDS.get(place, ())))


def words(node: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(word) for word in node.get("enum", ()))
    if "const" in node:
        yield str(node["const"])
    for side in (*node.get("anyOf", ()), *node.get("oneOf", ()), *([node["items"]] if "items" in node else ())):
        yield from words(side)


# -- where to look -----------------------------------------------------------------------------------------------------


def planned(text: str, folder: Path) -> object:
    """The plan, without the recipe's name."""
    made = json.loads(plan_text(text, folder, figures=FIGURES if "prune_layers" in text else None).to_json())
    return {key: value for key, value in made.items() if key not in ("recipe", "mergekit_config")}


def shown(text: str, folder: Path) -> object:
    """What Dagster shows and runs by itself for a project with this recipe."""
    root = folder / f"project-{next(_numbers)}"
    (root / "recipes").mkdir(parents=True)
    (root / "recipes" / "mine.yaml").write_text(text)
    (root / "recipes" / "next.yaml").write_text("merge_method: passthrough\nmodels: [{model: mine}]\n")
    (root / "suites").mkdir()
    for suite in ("quick", "long"):
        (root / "suites" / f"{suite}.yaml").write_text("tasks: [{task: arc_easy, metric: acc}]\n")
    workspace = api.Workspace.open(Settings(root=root, default_suites=["quick"]))
    graph = build_graph(workspace)
    definitions = build_definitions(workspace, graph)
    specs = [
        [
            str(s.key),
            s.description,
            s.group_name,
            dict(s.tags),
            list(s.owners),
            str(s.freshness_policy),
            sorted(str(d.asset_key) for d in s.deps),
        ]
        for s in definitions.resolve_all_asset_specs()
    ]
    crons = [(s.name, s.cron_schedule) for s in definitions.schedules or ()]
    ops = [(a.op.name, a.op.pool) for a in definitions.assets or () if hasattr(a, "op")]
    return [sorted(specs, key=str), crons, ops, [(str(n.key), n.modules) for n in graph.analyses]]


def swept(text: str, folder: Path) -> object:
    """The recipes that a file makes."""
    file = folder / "swept.yaml"
    file.write_text(text)
    (folder / "points.csv").write_text("parameters.weight\n1\n2\n")
    return [(recipe.name, recipe.digest) for recipe in load_recipes(file)]


def searched(text: str, folder: Path) -> object:
    """What a search is for, who proposes, and what it tries where that takes no evaluation."""
    root = folder / f"project-{next(_numbers)}"
    for name in ("recipes", "suites", "var"):
        (root / name).mkdir(parents=True)
    (root / "recipes" / "mine.yaml").write_text(text)
    (root / "suites" / "quick.yaml").write_text(
        "confirm: 0.5\ntasks: [{task: arc_easy, metric: acc}, {task: arc_easy, metric: acc_norm}]\n"
    )
    workspace = api.Workspace.open(Settings(root=root, cache_dir=root / "cache"))
    if not workspace.book.searches:
        return None
    found = api.open_search(workspace, "mine")
    if "quick" not in text:
        api.search(workspace, "mine")
    tried = [(dict(trial.values), trial.objectives) for trial in found.trials.all()]
    halving = found.search.halving
    looked = parts_of(found), halving and PairedEvidence(halving.level)._tuned, Budget.of(found.search).documents
    return found.labels, found.higher, type(SeededSampler(found.search)._make(0)), tried, looked


def kept(text: str, folder: Path) -> object:
    """What becomes of three versions by what the recipe says."""
    file = folder / f"m{next(_numbers)}.yaml"
    file.write_text(text)
    of = [Contender(("variants/mine", str(age)), age, True, float(age)) for age in range(3)]
    return [fate.stays for fate in fates(load_recipe(file).keep or (), of, "quick headline").values()]


def reported(text: str, folder: Path) -> object:
    """What the leaderboard says of published values."""
    root = folder / f"project-{next(_numbers)}"
    (root / "recipes").mkdir(parents=True)
    (root / "recipes" / "mine.yaml").write_text(text)
    workspace = api.Workspace.open(Settings(root=root, store=str(root / "store"), cache_dir=root / "cache"))
    return [(value.model, value) for value in api.rank(workspace).leaderboard.published]


def merged(text: str, folder: Path) -> object:
    """The weights, or why there are none, on a machine that has no GPU and a project that asks for one."""
    file = folder / f"m{next(_numbers)}.yaml"
    file.write_text(text)
    workspace = api.Workspace.open(Settings(root=folder, recipes=[], device="cuda", threads=1))
    out = folder / f"{file.stem}-out"
    try:
        api.merge(workspace, load_recipe(file), out)
    except EngineError as error:
        return str(error).partition(";")[0]
    return sorted(read_tensors(out))


def loaded_otherwise(text: str, folder: Path) -> object:
    """The config of another class, or why it would compute otherwise."""
    try:
        return plan_text(text, folder).config
    except PlanError as error:
        assert error.key == "architecture"
        return str(error)


def refused(text: str, folder: Path) -> object:
    """The error of the plan, which must say that the key is not there yet."""
    try:
        return planned(text, folder)
    except PlanError as error:
        assert "is not built yet" in str(error)
        return str(error)


# -- examples ----------------------------------------------------------------------------------------------------------

FIGURES = [
    LayerFigure(layer, *values, "t")
    for layer, values in enumerate(
        [(float("inf"), True, 1.2), (5.0, False, 0.1), (1.0, False, 0.9), (float("inf"), True, 1.1)]
    )
]
VALUES = "published: [{source: a, suite: quick, values: {quiz: 5}}]"
PASS = "merge_method: passthrough\nmodels: [{model: A}]\n"
WINDOW = "merge_method: passthrough\nmodels: [{model: M}]\narchitecture: "
TWO = "merge_method: linear\nmodels: [{model: A}, {model: B}]\nparameters: {weight: 1}\n"
TIES = "merge_method: ties\nparameters: {weight: 1}\n"
PRUNE = "merge_method: passthrough\nprune_layers: {model: A, "
TEXT = f"{PRUNE}by: block_influence, remove: 1, text: "
WORDY = "merge_method: linear\nmodels: [{model: X}, {model: Y}]\nparameters: {weight: 1}\n"
TOKENS = f"{WORDY}tokenizer: {{source: union, tokens: {{dog: "
ASKED = f"{PASS}evaluate: [{{suite: quick, "
AVERAGE = "merge_method: linear\naverage_checkpoints: "
RUN = f"{AVERAGE}{{models: [{{model: A}}, {{model: B}}, {{model: C}}]"
DUS = "merge_method: passthrough\ndepth_upscale: "
SLICES = "merge_method: passthrough\nslices: "
MODULE = "merge_method: linear\nparameters: {weight: 1}\nmodules: {default: "


@dataclass(frozen=True)
class Example:
    """Two recipes that must come out differently where one looks."""

    look: Look
    one: str
    other: str


def each(place: str, look: Look, template: str, values: Sequence[str]) -> dict[str, Example]:
    """One example for every word: beside the next one."""
    others = [*values[1:], values[0]]
    texts = [(template.replace("<>", a), template.replace("<>", b)) for a, b in zip(values, others, strict=True)]
    return {f"{place}: {value}": Example(look, *pair) for value, pair in zip(values, texts, strict=True)}


def asked(owner: str, **values: str) -> dict[str, Example]:
    """One example for every key of how a variant is asked, beside a suite that is taken as it is."""
    inside = {"EvaluateEntry": "<>", "GenerationEntry": "generation: {<>}", "ModelArgumentsEntry": "model_args: {<>}"}
    made = {key: inside[owner].replace("<>", f"{key}: {value}") for key, value in values.items()}
    plain = f"{PASS}evaluate: [quick]"
    return {f"{owner}.{key}": Example(shown, plain, f"{ASKED}{text}}}]") for key, text in made.items()}


EXAMPLES: dict[str, Example] = {
    "Recipe.merge_method": Example(planned, TWO, TWO.replace("linear", "multislerp")),
    "Recipe.models": Example(planned, TWO, TWO.replace("B", "C")),
    "Recipe.slices": Example(planned, PASS, f"{SLICES}[{{sources: [{{model: A, layer_range: [0, 2]}}]}}]"),
    "Recipe.modules": Example(planned, TWO, f"{MODULE}{{models: [{{model: A}}, {{model: C}}]}}}}"),
    "Recipe.depth_upscale": Example(planned, PASS, f"{DUS}{{model: A, overlap: 1}}"),
    "Recipe.prune_layers": Example(planned, PASS, f"{PRUNE}by: list, remove: [1]}}"),
    "Recipe.average_checkpoints": Example(planned, TWO, f"{AVERAGE}{{models: [{{model: A}}, {{model: B}}]}}"),
    "Recipe.base_model": Example(planned, TWO, f"{TWO}base_model: C"),
    "Recipe.parameters": Example(planned, TWO, TWO.replace("weight: 1", "weight: 1, normalize: false")),
    "Recipe.missing": Example(planned, *(f"{TWO.replace('B', 'MTP')}missing: {word}" for word in ("carry", "drop"))),
    "Recipe.architecture": Example(planned, PASS, f"{PASS}architecture: MistralForCausalLM"),
    "ArchitectureEntry.load_as": Example(
        planned, *(f"{PASS}architecture: {{load_as: {name}}}" for name in ("MistralForCausalLM", "LlamaForCausalLM"))
    ),
    "ArchitectureEntry.without": Example(
        loaded_otherwise,
        *(f"{WINDOW}{{load_as: LlamaForCausalLM, without: [{keys}]}}" for keys in ("sliding_window", "")),
    ),
    "Recipe.dtype": Example(planned, TWO, f"{TWO}dtype: float32"),
    "Recipe.out_dtype": Example(planned, f"{TWO}dtype: float32", f"{TWO}dtype: float32\nout_dtype: float16"),
    "Recipe.tokenizer_source": Example(
        planned, WORDY.replace("Y", "Z"), f"{WORDY.replace('Y', 'Z')}tokenizer_source: union"
    ),
    "Recipe.tokenizer": Example(planned, f"{WORDY}tokenizer_source: union", f"{WORDY}tokenizer: {{source: base}}"),
    "Recipe.chat_template": Example(
        planned, WORDY.replace("Y", "Z"), f"{WORDY.replace('Y', 'Z')}chat_template: chatml"
    ),
    "Recipe.name": Example(shown, PASS, f"{PASS}name: other"),
    "Recipe.description": Example(shown, PASS, f"{PASS}description: Words"),
    "Recipe.group": Example(shown, PASS, f"{PASS}group: stacks"),
    "Recipe.tags": Example(shown, PASS, f"{PASS}tags: {{family: tiny}}"),
    "Recipe.owners": Example(shown, PASS, f"{PASS}owners: ['team:merges']"),
    "Recipe.seed": Example(planned, *(f"{TWO.replace('linear', 'dare_ties')}base_model: A\nseed: {n}" for n in (0, 1))),
    "Recipe.evaluate": Example(shown, PASS, f"{PASS}evaluate: [long]"),
    "EvaluateEntry.suite": Example(shown, *(f"{PASS}evaluate: [{{suite: {s}}}]" for s in ("quick", "long"))),
    **asked(
        "EvaluateEntry",
        chat_template="'{{ messages }}'",
        fewshot_as_multiturn="false",
        system_prompt="Be brief.",
        generation="{num_beams: 2}",
        max_length="64",
        dtype="float32",
        batch_size="4",
        model_args="{add_bos_token: true}",
    ),
    **asked(
        "GenerationEntry",
        max_gen_toks="5",
        until="[a]",
        do_sample="true",
        temperature="0.5, do_sample: true",
        top_p="0.5, do_sample: true",
        top_k="5, do_sample: true",
        num_beams="2",
        repetition_penalty="1.5",
    ),
    **asked(
        "ModelArgumentsEntry",
        add_bos_token="true",
        prefix_token_id="1",
        logits_cache="false",
        softmax_dtype="float64",
        enable_thinking="false",
        think_end_token="</think>",
    ),
    **each("EvaluateEntry.chat_template", shown, f"{ASKED}chat_template: <>}}]", ("auto", "on", "off")),
    **each("EvaluateEntry.dtype", shown, f"{ASKED}dtype: <>}}]", ("auto", "float32", "bfloat16", "float16")),
    **each(
        "ModelArgumentsEntry.softmax_dtype",
        shown,
        f"{ASKED}model_args: {{softmax_dtype: <>}}}}]",
        ("float32", "float64"),
    ),
    "EvaluateEntry.batch_size: auto": Example(shown, *(f"{ASKED}batch_size: {n}}}]" for n in ("auto", "1"))),
    "Recipe.publish": Example(refused, PASS, f"{PASS}publish: {{repo_id: me/mine}}"),
    "Recipe.published": Example(reported, PASS, f"{PASS}{VALUES}"),
    "Published.source": Example(reported, *(f"{PASS}{VALUES.replace('source: a', f'source: {s}')}" for s in "ab")),
    "Published.values": Example(reported, *(f"{PASS}{VALUES.replace('quiz: 5', f'quiz: {n}')}" for n in (5, 6))),
    "Published.suite": Example(
        reported, *(f"{PASS}{VALUES.replace('suite: quick', f'suite: {s}')}" for s in ("quick", "long"))
    ),
    "Published.model": Example(reported, f"{PASS}{VALUES}", f"{PASS}{VALUES.replace('suite', 'model: x, suite')}"),
    "Recipe.schedule": Example(shown, PASS, f"{PASS}schedule: '0 5 * * *'"),
    "Recipe.freshness": Example(shown, PASS, f"{PASS}freshness: 7d"),
    "Recipe.keep": Example(kept, *(f"{PASS}keep: {rule}" for rule in ("best 1", "last 1"))),
    "Recipe.device": Example(merged, f"{TWO}device: cpu", f"{TWO}device: cuda"),
    "Recipe.materialize": Example(shown, PASS, f"{PASS}materialize: false"),
    "Recipe.allow_nonfinite": Example(
        merged, *(f"{TWO.replace('B', 'NAN')}device: cpu{more}" for more in ("", "\nallow_nonfinite: true"))
    ),
    "Recipe.trust_remote_code": Example(shown, PASS, f"{PASS}trust_remote_code: [A]"),
    "ModelEntry.model": Example(planned, PASS, PASS.replace("A", "B")),
    "ModelEntry.parameters": Example(planned, PASS, PASS.replace("A", "A, parameters: {scale: 2}")),
    "Source.model": Example(planned, *(f"{SLICES}[{{sources: [{{model: {m}}}]}}]" for m in "AB")),
    "Source.layer_range": Example(
        planned, *(f"{SLICES}[{{sources: [{{model: A, layer_range: [0, {n}]}}]}}]" for n in (2, 3))
    ),
    "Source.parameters": Example(
        planned, *(f"{SLICES}[{{sources: [{{model: A, parameters: {{scale: {n}}}}}]}}]" for n in (2, 3))
    ),
    "Slice.sources": Example(
        planned, *(f"{TIES}base_model: A\nslices: [{{sources: [{{model: A}}, {{model: {m}}}]}}]" for m in "BC")
    ),
    "Slice.base_model": Example(
        planned, *(f"{TIES}slices: [{{base_model: {m}, sources: [{{model: A}}, {{model: B}}]}}]" for m in "AB")
    ),
    "Slice.parameters": Example(
        planned, *(f"{SLICES}[{{parameters: {{scale: {n}}}, sources: [{{model: A}}]}}]" for n in (2, 3))
    ),
    "Module.slices": Example(
        planned, *(f"{MODULE}{{slices: [{{sources: [{{model: A, layer_range: [0, {n}]}}]}}]}}}}" for n in (2, 3))
    ),
    "Module.models": Example(planned, *(f"{MODULE}{{models: [{{model: A}}, {{model: {m}}}]}}}}" for m in "BC")),
    "Module.parameters": Example(
        planned, *(f"{MODULE}{{models: [{{model: A}}, {{model: B}}], parameters: {{weight: {n}}}}}}}" for n in (2, 3))
    ),
    "TokenizerSettings.source": Example(planned, *(f"{WORDY}tokenizer: {{source: {s}}}" for s in ("union", "Y"))),
    "TokenizerSettings.tokens": Example(
        planned, f"{WORDY}tokenizer: {{source: union}}", f"{TOKENS}{{source: {{kind: zero}}}}}}}}"
    ),
    "TokenizerSettings.pad_to_multiple_of": Example(
        planned, *(f"{WORDY}tokenizer: {{source: union, pad_to_multiple_of: {n}}}" for n in (8, 16))
    ),
    "TokenSettings.source": Example(planned, f"{TOKENS}{{source: {{kind: zero}}}}}}}}", f"{TOKENS}{{source: Y}}}}}}"),
    "TokenSettings.force": Example(
        planned, *(f"{TOKENS}{{source: {{kind: zero}}, force: {w}}}}}}}" for w in ("false", "true"))
    ),
    "TokenSource.kind": Example(
        planned,
        *(f"{TOKENS}{{source: {{{s}}}}}}}}}" for s in ("kind: zero", "kind: model_token, model: Y, token: cat")),
    ),
    "TokenSource.model": Example(
        planned, *(f"{TOKENS}{{source: {{kind: model_token, model: {m}, token: cat}}}}}}}}" for m in "XY")
    ),
    "TokenSource.token": Example(
        planned, *(f"{TOKENS}{{source: {{kind: model_token, model: Y, token: {t}}}}}}}}}" for t in ("cat", "the"))
    ),
    "TokenSource.token_id": Example(
        planned, *(f"{TOKENS}{{source: {{kind: model_token, model: Y, token_id: {n}}}}}}}}}" for n in (1, 2))
    ),
    "DepthUpscale.model": Example(planned, *(f"{DUS}{{model: {m}, overlap: 1}}" for m in "AB")),
    "DepthUpscale.overlap": Example(planned, *(f"{DUS}{{model: A, overlap: {n}}}" for n in (1, 2))),
    "DepthUpscale.block": Example(
        planned, f"{DUS}{{model: A, overlap: 1}}", f"{DUS}{{model: A, overlap: 1, block: 1}}"
    ),
    "AverageCheckpoints.models": Example(
        planned, *(f"{AVERAGE}{{models: [{{model: A}}, {{model: {m}}}]}}" for m in "BC")
    ),
    "AverageCheckpoints.folder": Example(shown, *(f"{AVERAGE}{{folder: RUN{n}}}" for n in (1, 2))),
    "AverageCheckpoints.last": Example(planned, *(f"{RUN}, last: {n}}}" for n in (2, 3))),
    "AverageCheckpoints.decay": Example(planned, f"{RUN}}}", f"{RUN}, decay: cosine}}"),
    "AverageCheckpoints.decay: constant": Example(planned, *(f"{RUN}, decay: {d}}}" for d in ("constant", "cosine"))),
    "AverageCheckpoints.decay: linear": Example(planned, *(f"{RUN}, decay: {d}}}" for d in ("linear", "cosine"))),
    "AverageCheckpoints.decay: cosine": Example(planned, *(f"{RUN}, decay: {d}}}" for d in ("cosine", "constant"))),
    "Exponential.exponential": Example(planned, *(f"{RUN}, decay: {{exponential: {r}}}}}" for r in (0.5, 0.9))),
    "Lowest.lowest": Example(planned, *(f"{PRUNE}by: snr, tensor: t, remove: {{lowest: {n}}}}}" for n in (1, 2))),
    "Protect.first": Example(
        planned, *(f"{PRUNE}by: snr, tensor: t, remove: 1, protect: {{first: {n}}}}}" for n in (0, 1))
    ),
    "Protect.last": Example(
        planned, *(f"{PRUNE}by: reverse_order, remove: 1, protect: {{last: {n}}}}}" for n in (0, 1))
    ),
    "PruneLayers.model": Example(
        planned, *(f"merge_method: passthrough\nprune_layers: {{model: {m}, by: list, remove: [1]}}" for m in "AB")
    ),
    "PruneLayers.by": Example(
        planned, *(f"{PRUNE}{by}, remove: 2}}" for by in ("by: snr, tensor: t", "by: reverse_order"))
    ),
    "PruneLayers.text": Example(shown, f"{TEXT}t}}", f"{TEXT}u}}"),
    "TextSample.file": Example(shown, *(f"{TEXT}{{file: {name}}}}}" for name in "tu")),
    "TextSample.tokens": Example(shown, *(f"{TEXT}{{file: t, tokens: {n}}}}}" for n in (100, 200))),
    "TextSample.length": Example(shown, *(f"{TEXT}{{file: t{more}}}}}" for more in ("", ", length: 64"))),
    "TextSample.dtype": Example(shown, *(f"{TEXT}{{file: t{more}}}}}" for more in ("", ", dtype: bfloat16"))),
    "PruneLayers.tensor": Example(shown, *(f"{PRUNE}by: snr, tensor: {t}, remove: 1}}" for t in ("v_proj", "o_proj"))),
    "PruneLayers.remove": Example(planned, *(f"{PRUNE}by: list, remove: [{n}]}}" for n in (1, 2))),
    "PruneLayers.at_most": Example(
        planned, *(f"{PRUNE}by: snr, tensor: t, remove: infinite, at_most: {n}}}" for n in (1, 2))
    ),
    "PruneLayers.protect": Example(
        planned, *(f"{PRUNE}by: reverse_order, remove: 1{p}}}" for p in ("", ", protect: {last: 1}"))
    ),
    "Publish.repo_id": Example(refused, PASS, f"{PASS}publish: {{repo_id: me/mine}}"),
    "Publish.private": Example(refused, PASS, f"{PASS}publish: {{repo_id: me/mine, private: false}}"),
    "Conditional.value": Example(planned, *(TWO.replace("weight: 1", f"weight: [{{value: {n}}}]") for n in (2, 3))),
    "Conditional.filter": Example(
        planned,
        *(TWO.replace("weight: 1", f"weight: [{{filter: {f}, value: 3}}, {{value: 1}}]") for f in ("mlp", "q_proj")),
    ),
    "Conditional.filter: *": Example(
        planned,
        *(TWO.replace("weight: 1", f"weight: [{{filter: {f}, value: 3}}, {{value: 1}}]") for f in ("'*'", "mlp")),
    ),
    **each("Recipe.dtype", planned, f"{TWO}dtype: <>", ("bfloat16", "float16", "float32", "float64")),
    **each(
        "Recipe.out_dtype",
        planned,
        f"{TWO}dtype: float32\nout_dtype: <>",
        ("bfloat16", "float16", "float32", "float64"),
    ),
    **each("Recipe.device", merged, f"{TWO}device: <>", ("cpu", "cuda")),
    "Recipe.device: auto": Example(merged, f"{TWO}device: auto", f"{TWO}device: cpu"),  # as the setting says: cuda
    **each("Recipe.tokenizer_source", planned, f"{WORDY}tokenizer_source: <>", ("union", "base")),
    **each("TokenizerSettings.source", planned, f"{WORDY}tokenizer: {{source: <>}}", ("union", "base")),
    **each(
        "Recipe.chat_template",
        planned,
        f"{WORDY}tokenizer_source: union\nchat_template: <>",
        ("auto", "alpaca", "chatml", "exaone", "llama3", "mistral"),
    ),
    **each(
        "TokenSource.kind",
        planned,
        f"{TOKENS}{{source: {{kind: <>}}}}}}}}",
        ("zero", "model_token, model: Y, token: cat"),
    ),
    **each(
        "PruneLayers.by",
        planned,
        f"{PRUNE}by: <>, remove: 3}}",
        ("snr, tensor: t", "margin, tensor: t", "reverse_order"),
    ),
    "PruneLayers.by: list": Example(
        planned, f"{PRUNE}by: list, remove: [0, 1]}}", f"{PRUNE}by: reverse_order, remove: 2}}"
    ),
    **each(
        "PruneLayers.by",
        planned,
        f"{PRUNE}by: <>, remove: 2}}",
        ("block_influence, text: t", "angular_distance, text: t"),
    ),
    "PruneLayers.by: perplexity": Example(
        planned, f"{PRUNE}by: perplexity, text: t, remove: 2}}", f"{PRUNE}by: snr, tensor: t, remove: 2}}"
    ),
    **each("TextSample.dtype", shown, f"{TEXT}{{file: t, dtype: <>}}}}", ("float32", "float64", "bfloat16")),
    "PruneLayers.remove: infinite": Example(
        planned, *(f"{PRUNE}by: snr, tensor: t, remove: {r}}}" for r in ("infinite", 3))
    ),
}
EXAMPLES |= {
    place: Example(swept, TWO, f"{TWO}sweep: {text}")
    for place, text in {
        "Recipe.sweep": "{parameters.weight: [1, 2]}",
        "Sweep.grid": "{grid: {parameters.weight: [1, 2]}}",
        "Sweep.zip": "{zip: {parameters.weight: [1, 2], dtype: [float32, float16]}}",
        "Sweep.random": "{random: {points: 1, space: {parameters.weight: [1]}}}",
        "Sweep.table": "{table: points.csv}",
    }.items()
}
for owner, whole, changes in (
    ("Range", "{grid: {parameters.weight: {<>}}}", {"low": "1", "high": "9", "count": "3", "log": "true"}),
    (
        "Interval",
        "{random: {points: 3, space: {parameters.weight: {<>}}}}",
        {"low": "1", "high": "9", "log": "true", "whole": "true"},
    ),
    ("RandomPoints", "{random: {<>}}", {"points": "3", "seed": "1", "space": "{parameters.weight: [3, 4]}"}),
):
    plain = {
        "Range": {"low": "2", "high": "8", "count": "4"},
        "Interval": {"low": "2", "high": "8"},
        "RandomPoints": {"points": "2", "space": "{parameters.weight: {low: 1.5, high: 9}}"},
    }[owner]
    for key, value in changes.items():
        pair = (", ".join(f"{k}: {v}" for k, v in given.items()) for given in (plain, plain | {key: value}))
        EXAMPLES[f"{owner}.{key}"] = Example(swept, *(f"{TWO}sweep: {whole.replace('<>', one)}" for one in pair))
EXAMPLES["Range.step"] = Example(
    swept, *(f"{TWO}sweep: {{parameters.weight: {{low: 1, high: 3, step: {step}}}}}" for step in ("1", "2"))
)
SEARCH = f"{TWO}search: {{space: {{seed: [1, 2]}}, objective: {{size: parameters}}, trials: 2}}"
ASKS = SEARCH.replace("size: parameters", "<>")
HALVES = ASKS.replace("<>", "suite: quick").replace("trials", "halving: {}, trials")
EXAMPLES |= {
    "Recipe.search": Example(searched, TWO, SEARCH),
    "Search.space": Example(searched, SEARCH, SEARCH.replace("[1, 2]", "[3, 4]")),
    "Search.objective": Example(searched, SEARCH, ASKS.replace("<>", "suite: quick")),
    "Search.sampler": Example(searched, SEARCH, SEARCH.replace("trials", "sampler: random, trials")),
    **each("Search.sampler", searched, SEARCH.replace("trials", "sampler: <>, trials"), get_args(Sampler)),
    "Search.trials": Example(searched, SEARCH, SEARCH.replace("trials: 2", "trials: 3")),
    "Search.hours": Example(searched, SEARCH, SEARCH.replace("trials", "hours: 1.0e-9, trials")),
    "Search.documents": Example(
        searched, ASKS.replace("<>", "suite: quick"), HALVES.replace("halving: {}", "documents: 9")
    ),
    "Search.halving": Example(searched, ASKS.replace("<>", "suite: quick"), HALVES),
    "Halving.steps": Example(searched, HALVES, HALVES.replace("{}", "{steps: 2}")),
    "Halving.level": Example(searched, HALVES, HALVES.replace("{}", "{level: 0.1}")),
    "Search.seed": Example(searched, *(SEARCH.replace("trials: 2", f"seed: {n}, trials: 8") for n in (0, 1))),
    "Search.start": Example(
        searched, *(SEARCH.replace("trials: 2", f"start: [{{seed: {n}}}], trials: 1") for n in (1, 2))
    ),
    "Objective.suite": Example(searched, SEARCH, ASKS.replace("<>", "suite: quick")),
    "Objective.size": Example(searched, ASKS.replace("<>", "suite: quick"), SEARCH),
    "Objective.size: parameters": Example(searched, ASKS.replace("<>", "suite: quick"), SEARCH),
    "Objective.task": Example(
        searched, *(ASKS.replace("<>", f"suite: quick{more}") for more in ("", ", task: arc_easy, metric: acc"))
    ),
    "Objective.metric": Example(
        searched, *(ASKS.replace("<>", f"suite: quick, task: arc_easy, metric: {one}") for one in ("acc", "acc_norm"))
    ),
    "Objective.weight": Example(
        searched, *(SEARCH.replace("parameters}", f"parameters, weight: {one}}}") for one in (1, 2))
    ),
    "Choices.choices": Example(searched, SEARCH, SEARCH.replace("[1, 2]", "{choices: [3, 4]}")),
    "Choices.when": Example(
        searched,
        *(
            SEARCH.replace("seed: [1, 2]", f"seed: [1, 2], parameters.weight: {{choices: [2, 3]{more}}}")
            for more in ("", ", when: {seed: [1]}")
        ),
    ),
}
EXAMPLES = {
    place.replace(", model: Y, token: cat", "").replace(", tensor: t", "").replace(", text: t", ""): e
    for place, e in EXAMPLES.items()
}


def with_window(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    of = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(config | of))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    bad = {"model.norm.weight": torch.full((16,), torch.nan, dtype=torch.bfloat16)}
    runs = {f"RUN{n}": root / f"run{n}" for n in (1, 2)}
    for number, folder in enumerate(runs.values()):
        for step in (100, 200):
            write_llama(folder / f"checkpoint-{step + number}", 1)
    return {
        **runs,
        **{name: write_llama(root / name.lower(), 4, seed=seed) for seed, name in enumerate("ABC")},
        "MTP": write_llama(root / "mtp", 4, edit={"mtp.norm.weight": torch.ones(16)}),
        "NAN": write_llama(root / "bad", 4, edit=bad),
        "M": with_window(write_llama(root / "m", 1)),
        "X": word_model(root / "x", "<unk>", "the", "cat", settings={"chat_template": "{{ 'X' }}"}),
        "Y": word_model(root / "y", "<unk>", "cat", "the", "dog", "runs", hundreds=1),
        "Z": word_model(root / "z", "<unk>", "the", "cat", hundreds=2),
    }


def filled(text: str, models: Mapping[str, Path]) -> str:
    """The text with folders in place of the models' letters."""
    for name, folder in models.items():
        for key in ("model", "source", "folder"):
            text = text.replace(f"{key}: {name}", f"{key}: {folder}")
    return text


def test_every_key_and_every_word_of_the_schema_has_an_example() -> None:
    assert sorted(walk()) == sorted(EXAMPLES)
    assert set(get_args(Metric)) <= {place.partition(": ")[2] for place in walk()}  # the walk does see words


@pytest.mark.parametrize("place", EXAMPLES)
def test_it_does_something(place: str, models: dict[str, Path], tmp_path: Path) -> None:
    example = EXAMPLES[place]
    if example.look is merged and torch.cuda.is_available():
        pytest.skip("the examples tell CUDA from the CPU by its absence")
    one, other = (example.look(filled(text, models), tmp_path) for text in (example.one, example.other))
    assert one != other
