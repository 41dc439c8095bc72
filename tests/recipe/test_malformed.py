"""Contract: every wrong recipe gives one message that names file, line and key path and says what to do.

What needs the method or the checkpoints to be seen is tested where recipes are planned.
"""

import copy

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.errors import RecipeError
from merge_assets.recipe import load_recipe, load_recipes
from merge_assets.recipe.fields import check_cron
from tests.recipe_support import MINIMAL, write

PRUNE = "merge_method: passthrough\nprune_layers:\n  model: m\n"
AVERAGE = "merge_method: linear\naverage_checkpoints:\n"

MALFORMED = {
    "typo in a key": ("merge_method: linear\nmodel: []\nmodels: [{model: a}]", 2, "model", "did you mean 'models'?"),
    "typo in a nested key": (
        "merge_method: linear\nmodels:\n  - model: a\n    paramters: {}",
        4,
        "models[0].paramters",
        "did you mean 'parameters'?",
    ),
    "typo in a source": (
        "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_rnage: [0, 1]}",
        4,
        "slices[0].sources[0].layer_rnage",
        "did you mean 'layer_range'?",
    ),
    "typo in a module": (
        "merge_method: linear\nmodules:\n  text:\n    slice: []\n    models: [{model: a}]",
        4,
        "modules.text.slice",
        "did you mean 'slices'?",
    ),
    "typo in a filter": (
        "merge_method: linear\nmodels: [{model: a}]\nparameters:\n  t:\n    - {value: 1, fliter: x}",
        5,
        "parameters.t[0]",
        "unknown key 'fliter'",
    ),
    "unrelated key": ("merge_method: linear\nmodels: [{model: a}]\nzzz: 1", 3, "zzz", "start with x-"),
    "internal name": ("merge_method: linear\nmodels: [{model: a}]\nsource: {}", 3, "source", "unknown key"),
    "no method": ("models: [{model: a}]", 1, "merge_method", "the key is required"),
    "method of a wrong type": ("merge_method: 3\nmodels: [{model: a}]", 1, "merge_method", "3 is not text"),
    "nothing to merge": ("merge_method: linear\ndtype: float32", 1, "", "write one of models, slices, modules"),
    "two bodies": (
        "merge_method: linear\nmodels: [{model: a}]\nslices: [{sources: [{model: a}]}]",
        3,
        "slices",
        "models and slices exclude each other",
    ),
    "body beside a template": (
        "merge_method: passthrough\ndepth_upscale: {model: a, overlap: 1}\nmodels: [{model: a}]",
        2,
        "depth_upscale",
        "exclude each other",
    ),
    "empty models": ("merge_method: linear\nmodels: []", 2, "models", "is empty"),
    "empty sources": ("merge_method: linear\nslices: [{sources: []}]", 2, "slices[0].sources", "is empty"),
    "models is a mapping": ("merge_method: linear\nmodels: {model: a}", 2, "models", "is not a list"),
    "model entry is text": ("merge_method: linear\nmodels: [a]", 2, "models[0]", "'a' is not a mapping"),
    "entry without a model": (
        "merge_method: linear\nmodels:\n  - parameters: {weight: 1}",
        3,
        "models[0].model",
        "the key is required",
    ),
    "reference of wrong grammar": (
        "merge_method: linear\nmodels:\n  - model: 'a@b@c'",
        3,
        "models[0].model",
        "'a@b@c' is not a model reference",
    ),
    "reference is a number": ("merge_method: linear\nmodels: [{model: 7}]", 2, "models[0].model", "7 is not a model"),
    "mapping reference with an unknown key": (
        "merge_method: linear\nbase_model:\n  model: {path: a, revison: b}\nmodels: [{model: a}]",
        3,
        "base_model.model.revison",
        "known keys: path, revision",
    ),
    "one-number range": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [3]}]}]",
        2,
        "slices[0].sources[0].layer_range[1]",
        "required",
    ),
    "reversed range": (
        "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: [8, 4]}",
        4,
        "slices[0].sources[0].layer_range",
        "[8, 4] is reversed",
    ),
    "empty range": (
        "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: [4, 4]}",
        4,
        "slices[0].sources[0].layer_range",
        "layer 4 alone is [4, 5]",
    ),
    "negative range": (
        "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: [-1, 4]}",
        4,
        "slices[0].sources[0].layer_range",
        "starts at -1",
    ),
    "fractional range": (
        "merge_method: linear\nslices:\n- sources:\n  - {model: a, layer_range: [0, 4.5]}",
        4,
        "slices[0].sources[0].layer_range[1]",
        "4.5 is not a whole number",
    ),
    "sources of different length": (
        "merge_method: slerp\nslices:\n- sources:\n  - {model: a, layer_range: [0, 4]}\n  - {model: b, layer_range: [0, 5]}",
        5,
        "slices[0].sources[1].layer_range",
        "has 5 layers, the slice's first source has 4",
    ),
    "module with two bodies": (
        "merge_method: linear\nmodules:\n  text: {models: [{model: a}], slices: [{sources: [{model: a}]}]}",
        3,
        "modules.text",
        "exactly one of slices and models",
    ),
    "parameter is text": (
        "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: '0.5'}",
        4,
        "models[0].parameters.weight",
        "'0.5' is not a number",
    ),
    "parameter is empty": (
        "merge_method: linear\nmodels: [{model: a}]\nparameters:\n  t:\n",
        4,
        "parameters.t",
        "an empty value is not a number",
    ),
    "parameter is not finite": (
        "merge_method: linear\nmodels: [{model: a}]\nparameters: {t: .nan}",
        3,
        "parameters.t",
        "nan is not a finite number",
    ),
    "empty gradient": ("merge_method: linear\nmodels: [{model: a}]\nparameters: {t: []}", 3, "parameters.t", "empty"),
    "text in a gradient": (
        "merge_method: linear\nmodels: [{model: a}]\nparameters:\n  t:\n  - 0\n  - x",
        6,
        "parameters.t[1]",
        "'x' is not a number",
    ),
    "text in a filtered gradient": (
        "merge_method: linear\nmodels: [{model: a}]\nparameters:\n  t:\n  - filter: m\n    value:\n    - 0\n    - x",
        8,
        "parameters.t[0].value[1]",
        "'x' is not a number",
    ),
    "parameters is a list": (
        "merge_method: linear\nmodels: [{model: a}]\nparameters: [1]",
        3,
        "parameters",
        "[1] is not a mapping",
    ),
    "unknown dtype": (
        "merge_method: linear\nmodels: [{model: a}]\ndtype: bfloat61",
        3,
        "dtype",
        "did you mean 'bfloat16'?",
    ),
    "short dtype": ("merge_method: linear\nmodels: [{model: a}]\nout_dtype: bf16", 3, "out_dtype", "'bfloat16'?"),
    "both tokenizer keys": (
        "merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: union\ntokenizer: {source: union}",
        3,
        "tokenizer_source",
        "exclude each other",
    ),
    "tokenizer source of wrong grammar": (
        "merge_method: linear\nmodels: [{model: a}]\ntokenizer:\n  source: '@x'",
        4,
        "tokenizer.source",
        "neither union nor base",
    ),
    "token kind": (
        "merge_method: linear\nmodels: [{model: a}]\ntokenizer:\n  tokens:\n    <s>: {source: {kind: none}}",
        5,
        "tokenizer.tokens.<s>.source.kind",
        "'none' is not one of 'zero' or 'model_token'",
    ),
    "token without a model": (
        "merge_method: linear\nmodels: [{model: a}]\ntokenizer:\n  tokens:\n    <s>: {source: {kind: model_token, token: a}}",
        5,
        "tokenizer.tokens.<s>.source",
        "needs model, and exactly one of token and token_id",
    ),
    "template with another method": (
        "merge_method: linear\ndepth_upscale: {model: a, overlap: 8}",
        1,
        "merge_method",
        "write merge_method: passthrough, not linear",
    ),
    "template without a method": ("depth_upscale: {model: a, overlap: 8}", 1, "merge_method", "the key is required"),
    "template without overlap": (
        "merge_method: passthrough\ndepth_upscale: {model: a}",
        2,
        "depth_upscale.overlap",
        "the key is required",
    ),
    "block of zero": (
        "merge_method: passthrough\ndepth_upscale: {model: a, overlap: 8, block: 0}",
        2,
        "depth_upscale.block",
        "0: input should be greater than or equal to 1",
    ),
    "overlap is text": (
        "merge_method: passthrough\ndepth_upscale: {model: a, overlap: '8'}",
        2,
        "depth_upscale.overlap",
        "'8' is not a whole number",
    ),
    "unknown metric": (PRUNE + "  by: srn\n  remove: 3", 4, "prune_layers.by", "'srn' is not one of 'snr'"),
    "metric without a tensor": (PRUNE + "  by: snr\n  remove: infinite", 2, "prune_layers.tensor", "self_attn.v_proj"),
    "tensor without need": (
        PRUNE + "  by: reverse_order\n  remove: 3\n  tensor: v_proj",
        6,
        "prune_layers.tensor",
        "leave it out",
    ),
    "remove is a word": (PRUNE + "  by: snr\n  tensor: v\n  remove: all", 6, "prune_layers.remove", "'all' is neither"),
    "remove is nothing": (PRUNE + "  by: snr\n  tensor: v\n  remove: 0", 6, "prune_layers.remove", "0 is neither"),
    "remove is a wrong mapping": (
        PRUNE + "  by: snr\n  tensor: v\n  remove: {highest: 3}",
        6,
        "prune_layers.remove.highest",
        "write {lowest: N}",
    ),
    "layer named twice": (PRUNE + "  by: list\n  remove: [3, 3]", 5, "prune_layers.remove", "each once"),
    "list without by": (PRUNE + "  by: margin\n  tensor: v\n  remove: [3]", 6, "prune_layers.remove", "by: list"),
    "at_most without need": (
        PRUNE + "  by: reverse_order\n  remove: 3\n  at_most: 2",
        6,
        "prune_layers.at_most",
        "leave it out",
    ),
    "infinite without SNR": (
        PRUNE + "  by: block_influence\n  text: t\n  remove: infinite",
        6,
        "prune_layers.remove",
        "by: snr",
    ),
    "no text to run on": (
        PRUNE + "  by: perplexity\n  remove: 3",
        2,
        "prune_layers.text",
        "by: perplexity needs a text to run the model on",
    ),
    "text without need": (
        PRUNE + "  by: reverse_order\n  remove: 3\n  text: t",
        6,
        "prune_layers.text",
        "leave it out",
    ),
    "too few tokens": (
        PRUNE + "  by: perplexity\n  remove: 3\n  text: {file: t, tokens: 1}",
        6,
        "prune_layers.text.tokens",
        "greater than or equal to 2",
    ),
    "average by another method": (
        "merge_method: slerp\naverage_checkpoints: {folder: runs}",
        1,
        "merge_method",
        "write merge_method: linear, not slerp",
    ),
    "average with parameters": (
        AVERAGE + "  folder: runs\nparameters: {weight: 1}",
        4,
        "parameters",
        "average_checkpoints gives the weights itself; leave parameters out",
    ),
    "average of nothing": (AVERAGE + "  last: 2", 2, "average_checkpoints", "write one of folder and models"),
    "average of both": (
        AVERAGE + "  folder: runs\n  models: [a, b]",
        2,
        "average_checkpoints",
        "write one of folder and models, and not both",
    ),
    "average of one": (AVERAGE + "  models: [a]", 3, "average_checkpoints.models", "takes two or more"),
    "average of no models": (AVERAGE + "  models: []", 3, "average_checkpoints.models", "is empty"),
    "checkpoint listed twice": (
        AVERAGE + "  models:\n  - a\n  - b\n  - a",
        6,
        "average_checkpoints.models[2]",
        "a is listed twice",
    ),
    "more than are listed": (
        AVERAGE + "  models: [a, b]\n  last: 3",
        4,
        "average_checkpoints.last",
        "takes more than the 2 checkpoints that are listed",
    ),
    "the last one": (
        AVERAGE + "  folder: runs\n  last: 1",
        4,
        "average_checkpoints.last",
        "1: input should be greater than or equal to 2",
    ),
    "folder in a bucket": (
        AVERAGE + "  folder: s3://bucket/runs",
        3,
        "average_checkpoints.folder",
        "'s3://bucket/runs' is a URL; only folders of this machine are listed",
    ),
    "folder of no name": (
        AVERAGE + "  folder: ' '",
        3,
        "average_checkpoints.folder",
        "' ' cannot be the path of a folder",
    ),
    "unknown decay": (
        AVERAGE + "  folder: runs\n  decay: sqrt",
        4,
        "average_checkpoints.decay",
        "'sqrt' is none of constant, linear, cosine and {exponential: R}",
    ),
    "exponential decay without its factor": (
        AVERAGE + "  folder: runs\n  decay: exponential",
        4,
        "average_checkpoints.decay",
        "exponential needs its factor; write {exponential: 0.9}",
    ),
    "exponential decay that stays": (
        AVERAGE + "  folder: runs\n  decay: {exponential: 1}",
        4,
        "average_checkpoints.decay",
        "write {exponential: R} with R more than 0 and less than 1",
    ),
    "exponential decay by text": (
        AVERAGE + "  folder: runs\n  decay: {exponential: '0.9'}",
        4,
        "average_checkpoints.decay",
        "write {exponential: R}",
    ),
    "decay with another key": (
        AVERAGE + "  folder: runs\n  decay: {exponental: 0.9}",
        4,
        "average_checkpoints.decay.exponental",
        "write {exponential: R}",
    ),
    "name with a path": (MINIMAL + "    name: ../up\n", 6, "name", "'../up' is not allowed"),
    "name is a number": (MINIMAL + "    name: 12\n", 6, "name", "12 is not text; write it in quotes"),
    "name too long": (MINIMAL + f"    name: {'x' * 101}\n", 6, "name", "at most 100"),
    "group with a dash": (MINIMAL + "    group: a-b\n", 6, "group", "letters, digits and _"),
    "tag value with a space": (MINIMAL + "    tags: {a: b c}\n", 6, "tags.a", "'b c' is not allowed"),
    "tag key with a space": (MINIMAL + "    tags: {a b: c}\n", 6, "tags.a b", "'a b' is not allowed"),
    "tag is a number": (MINIMAL + "    tags: {a: 1}\n", 6, "tags.a", "1 is not text; write it in quotes"),
    "owner": (MINIMAL + "    owners: [me]\n", 6, "owners[0]", "an e-mail address or team:NAME"),
    "owners is text": (MINIMAL + "    owners: team:me\n", 6, "owners", "'team:me' is not a list"),
    "seed": (MINIMAL + "    seed: -1\n", 6, "seed", "-1: input should be greater than or equal to 0"),
    "seed is true": (MINIMAL + "    seed: true\n", 6, "seed", "True is not a whole number"),
    "evaluate is text": (MINIMAL + "    evaluate: demo\n", 6, "evaluate", "'demo' is not a list"),
    "device": (MINIMAL + "    device: gpu\n", 6, "device", "'gpu' is not one of 'auto', 'cpu', 'cuda' or 'cuda:N'"),
    "publish": (MINIMAL + "    publish: {repo_id: me}\n", 6, "publish.repo_id", "OWNER/NAME"),
    "private": (
        MINIMAL + "    publish: {repo_id: a/b, private: 'no'}\n",
        6,
        "publish.private",
        "'no' is not true or false",
    ),
    "schedule": (MINIMAL + "    schedule: daily\n", 6, "schedule", "a cron line has five"),
    "nothing to evaluate": (
        MINIMAL + "    materialize: false\n    evaluate: [demo]\n",
        7,
        "evaluate",
        "nothing is stored (materialize: false), so there is nothing to evaluate",
    ),
    "nothing to publish": (
        MINIMAL + "    materialize: false\n    publish: {repo_id: a/b}\n",
        7,
        "publish",
        "so there is nothing to publish",
    ),
    "nothing to schedule": (
        MINIMAL + "    schedule: 0 3 * * *\n    materialize: false\n",
        6,
        "schedule",
        "so there is nothing to build on a schedule",
    ),
    "materialize is text": (MINIMAL + "    materialize: 'no'\n", 6, "materialize", "'no' is not true or false"),
    "freshness": (MINIMAL + "    freshness: weekly\n", 6, "freshness", "write for example 12h, 7d or 2w"),
    "freshness of a second": (MINIMAL + "    freshness: 0d\n", 6, "freshness", "no time from 1min to 3650d"),
    "kept by no rule": (
        MINIMAL + "    keep: best three\n",
        6,
        "keep",
        "'best three' is no rule; write best N or last N",
    ),
    "kept none": (MINIMAL + "    keep: last 0\n", 6, "keep", "with N from 1 to 1000"),
    "published kept": (MINIMAL + "    keep: [best 3, published]\n", 6, "keep[1]", "'published' is no rule"),
    "kept twice": (MINIMAL + "    keep: [last 3, last 5]\n", 6, "keep[1]", "last is given twice; keep one"),
    "kept by nothing": (MINIMAL + "    keep: []\n", 6, "keep", "is empty; write best N, last N or both"),
    "best by no suite": (MINIMAL + "    evaluate: []\n    keep: best 3\n", 7, "keep", "scores tell which are best"),
    "nothing to keep": (
        MINIMAL + "    materialize: false\n    keep: last 3\n",
        7,
        "keep",
        "so there is nothing to keep",
    ),
    "points that go and are looked at": (
        MINIMAL + "    keep: best 3\n    freshness: 7d\n    sweep: {seed: [1, 2]}\n",
        7,
        "freshness",
        "points that are not among the best go",
    ),
    "published without a source": (
        MINIMAL + "    published: [{values: {a: 1}}]\n",
        6,
        "published[0].source",
        "required",
    ),
    "published words": (
        MINIMAL + "    published: [{source: s, values: {a: high}}]\n",
        6,
        "published[0].values.a",
        "'high' is no number; write it as it was published, accuracies in percent",
    ),
    "published nothing": (MINIMAL + "    published: [{source: s, values: {}}]\n", 6, "published[0].values", "is empty"),
    "schedule out of range": (MINIMAL + "    schedule: 0 25 * * *\n", 6, "schedule", "'25' is not a hour (0 to 23"),
    "document is a list": ("- a\n- b", 1, "", "a recipe is a mapping"),
    "document is text": ("just words", 1, "", "a recipe is a mapping"),
    "duplicate key": ("merge_method: linear\nmerge_method: ties\nmodels: []", 2, "merge_method", "written twice"),
    "broken YAML": ("merge_method: linear\nmodels: [\n", 3, "", "not YAML"),
    "tab": ("merge_method: linear\nmodels:\n\t- model: a", 3, "", "not YAML"),
    "python tag": ("merge_method: !!python/name:os.system\nmodels: [{model: a}]", 1, "merge_method", "not allowed"),
    "recursive alias": ("merge_method: linear\nmodels: &m [*m]", 2, "models[0]", "inside its own anchor"),
    "unknown alias": ("merge_method: *m", 1, "merge_method", "alias *m has no anchor"),
    "nested name without documents' names": (
        "name: a\nmerge_method: linear\nmodels: [{model: x}]\n---\nmerge_method: linear\nmodels: [{model: x}]",
        5,
        "name",
        "has no name",
    ),
}


@pytest.mark.parametrize(("text", "line", "key", "problem"), MALFORMED.values(), ids=MALFORMED.keys())
def test_one_clear_message(tmp_path, text, line, key, problem):
    file = write(tmp_path, text, "wrong.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipes(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: {key}: " if key else f"{file}:{line}: ")
    assert problem in message
    assert caught.value.key == (key or None)
    assert len(message.splitlines()) == 1 and "pydantic" not in message
    assert len(message) < len(str(file)) + 480


def test_no_file(tmp_path):
    with pytest.raises(RecipeError, match=r"gone.yaml: the file does not exist"):
        load_recipe(tmp_path / "gone.yaml")


def test_an_empty_file(tmp_path):
    with pytest.raises(RecipeError, match=r"empty.yaml: holds no recipe"):
        load_recipe(write(tmp_path, "# nothing\n", "empty.yaml"))


def test_several_problems_are_listed_with_their_lines(tmp_path):
    file = write(tmp_path, "merge_method: linear\nmodels:\n  - modle: a\n  - model: 3\nseed: x\ndtype: int4\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert str(caught.value).splitlines() == [
        f"{file}: 5 problems:",
        "  line 3: models[0].model: is missing; the key is required",
        "  line 3: models[0].modle: unknown key, did you mean 'model'?",
        "  line 4: models[1].model: 3 is not a model reference; write PATH[@REVISION][+LORA[@REVISION]]",
        "  line 6: dtype: unknown dtype 'int4'; one of bfloat16, float16, float32, float64",
        "  line 5: seed: 'x' is not a whole number",
    ]


def test_at_most_five_problems_are_listed(tmp_path):
    file = write(tmp_path, "merge_method: linear\nmodels:\n" + "  - {}\n" * 40)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("40 problems:") and len(lines) == 7 and lines[-1] == "  and 35 more"


def test_dagster_accepts_what_the_schema_accepts(tmp_path):
    """Names of groups, tags, owners and schedules go to Dagster as they are."""
    from dagster._core.definitions.utils import is_valid_owner
    from dagster._utils.schedules import is_valid_cron_string

    lines = ["0 3 * * *", "*/15 3-5 1,15 jan-mar sun", "0 0 1 1 0", "5-59/10 * * * mon-fri", "0 0 * * 7"]
    for line in lines:
        assert check_cron(line) == line and is_valid_cron_string(line), line
    for owner in ["team:merges", "a.b+c@example.org"]:
        assert is_valid_owner(owner)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "* * * 13 *",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "1-2-3 * * * *",
        "² * * * *",
    ],
)
def test_wrong_cron_lines(line):
    with pytest.raises(ValueError):
        check_cron(line)


_words = st.sampled_from(
    ["model", "models", "slices", "sources", "layer_range", "parameters", "merge_method", "linear", "passthrough", "t",
     "value", "filter", "tokenizer", "tokens", "source", "kind", "prune_layers", "by", "remove", "list", "tags", "name", "a"]
)  # fmt: skip
_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | _words | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)
_VALID = [
    {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": [{"value": 1, "filter": "x"}]}}]},
    {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 4]}]}]},
    {"merge_method": "passthrough", "prune_layers": {"model": "a", "by": "list", "remove": [1]}},
    {"merge_method": "linear", "average_checkpoints": {"models": ["a", "b"], "last": 2, "decay": {"exponential": 0.5}}},
    {
        "merge_method": "linear",
        "models": [{"model": "a"}],
        "tokenizer": {"tokens": {"x": {"source": {"kind": "zero"}}}},
    },
]


def _places(node, path=()):
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield from _places(child, (*path, key))


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(_VALID), st.data())
def test_whatever_stands_in_one_place_is_read_or_refused_with_a_message(tmp_path_factory, valid, data):
    recipe = copy.deepcopy(valid)
    *above, last = data.draw(st.sampled_from([path for path in _places(recipe) if path]))
    node = recipe
    for key in above:
        node = node[key]
    node[last] = data.draw(_anything)
    file = tmp_path_factory.getbasetemp() / "mutant.yaml"
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    try:
        assert load_recipe(file).digest
    except RecipeError as error:
        assert str(error).startswith(str(file)) and len(str(error)) < 2000
