"""A merge config is found wherever people publish it, mended where copying broke it, and refused with line and reason."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from merge_assets.errors import RecipeError
from merge_assets.importing.config import import_text
from merge_assets.importing.mending import Imported
from merge_assets.importing.operations import OPERATIONAL
from merge_assets.importing.shapes import Shape, recipe_shape
from merge_assets.methods import methods
from merge_assets.recipe import Recipe, load_recipe, load_recipes
from tests.recipe_support import ROOT, write

PARAMETERS = {m.name: {p.name: p.per_model for p in m.parameters} for m in methods().values()}
TWELVE_SLICES = ROOT / "recipes" / "hub" / "fimbulvetr-11b-enhanced.yaml"

LINEAR = """models:
  - model: org/a
    parameters:
      weight: 0.25
  - model: org/b
    parameters:
      weight: 0.75
merge_method: linear
dtype: float16
"""
SLERP = """slices:
  - sources:
      - model: org/a
        layer_range: [0, 32]
      - model: org/b
        layer_range: [0, 32]
merge_method: slerp
base_model: org/a
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
"""


def imported(
    text: str, file: str = "card.md", pick: int | None = None, keep: Collection[str] = OPERATIONAL
) -> Imported:
    return import_text(text, Path(file), "found", PARAMETERS, pick, keep)


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        imported(text)
    return str(caught.value)


def flat(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


def meaning(recipe: Recipe) -> dict[str, object]:
    return recipe.model_dump(mode="json", exclude={"name"})


def read(tmp_path: Path, text: str) -> dict[str, object]:
    return meaning(load_recipe(write(tmp_path, text)))


# -- lost indentation ------------------------------------------------------------------------------------------------


def test_the_twelve_slice_config_with_every_line_at_column_0() -> None:
    text = TWELVE_SLICES.read_text("utf-8")
    found = imported(flat(text), "page.txt")
    (recipe,) = found.recipes
    assert meaning(recipe) == meaning(load_recipe(TWELVE_SLICES))
    assert recipe.slices is not None and len(recipe.slices) == 12
    assert found.repairs == ("lost or wrong indentation",)
    assert found.choices == ("line 104: parameters is read as that of an item of sources, not of the recipe",)
    assert found.text == text, "the lines are the author's, comments included"


VARIANTS = [
    file
    for file in sorted((ROOT / "recipes").rglob("*.yaml"))
    if not {"sweep:", "search:"}.intersection(file.read_text("utf-8").split())  # which no published config has
]


@pytest.mark.parametrize("file", VARIANTS, ids=lambda file: file.stem)
def test_every_recipe_of_the_project_survives_the_loss_of_its_indentation(file: Path) -> None:
    found = imported(flat(file.read_text("utf-8")))
    assert [meaning(recipe) for recipe in found.recipes] == [meaning(recipe) for recipe in load_recipes(file)]


def test_parameters_of_the_whole_method_are_not_the_last_models(tmp_path: Path) -> None:
    text = "models:\n  - model: a\n  - model: b\nparameters:\n  t: 0.5\nbase_model: a\nmerge_method: slerp\n"
    found = imported(flat(text))
    assert meaning(found.recipes[0]) == read(tmp_path, text)
    assert found.choices == ("line 4: parameters is read as that of the recipe, not of an item of models",)


def test_parameters_of_one_input_are_the_last_models(tmp_path: Path) -> None:
    text = (
        "base_model: a\nmodels:\n  - model: a\n  - model: b\n    parameters:\n      weight: 0.5\nmerge_method: ties\n"
    )
    found = imported(flat(text))
    assert meaning(found.recipes[0]) == read(tmp_path, text)
    assert found.choices == ("line 5: parameters is read as that of an item of models, not of the recipe",)


def test_parameters_follow_the_items_before(tmp_path: Path) -> None:
    """``t`` is the whole method's, yet the slice before has its own, so the last slice does, too."""
    text = SLERP.partition("parameters:")[0] + "dtype: bfloat16\n"
    slices = text.partition("merge_method")[0]
    both = (
        slices
        + "    parameters:\n      t: 0.1\n"
        + slices.removeprefix("slices:\n")
        + "    parameters:\n      t: 0.9\n"
    )
    text = both + "merge_method: slerp\nbase_model: org/a\ndtype: bfloat16\n"
    assert meaning(imported(flat(text)).recipes[0]) == read(tmp_path, text)


def test_a_base_model_is_the_recipes(tmp_path: Path) -> None:
    text = SLERP.replace("merge_method: slerp\nbase_model: org/a\n", "base_model: org/a\nmerge_method: slerp\n")
    found = imported(flat(text))
    assert meaning(found.recipes[0]) == read(tmp_path, text)
    assert found.choices == ("line 7: base_model is read as that of the recipe, not of an item of slices",)


PLAIN = "models: [{model: org/a}]\nmerge_method: linear\n"
TOKENIZER = PLAIN + "tokenizer:\n  tokens:\n    <s>:\n      force: false\n  source: union\n"


def test_a_source_that_is_no_model_is_the_tokenizers(tmp_path: Path) -> None:
    for text in (TOKENIZER, TOKENIZER.replace("union", "base  # the first"), TOKENIZER.replace("union", '"union"')):
        found = imported(flat(text))
        assert meaning(found.recipes[0]) == read(tmp_path, text)
        assert found.choices == ()


def test_a_source_that_is_a_model_is_the_tokens_and_that_is_said(tmp_path: Path) -> None:
    text = TOKENIZER.replace("  source: union", "      source: org/b")
    found = imported(flat(text))
    assert meaning(found.recipes[0]) == read(tmp_path, text)
    assert found.choices == ("line 7: source is read as that of <s>, not of tokenizer",)
    braces = TOKENIZER.replace("  source: union", "      source: {kind: zero}")
    assert imported(flat(braces)).choices == (), "a mapping is only ever a token's"


def test_a_tag_may_be_called_as_a_key_is(tmp_path: Path) -> None:
    text = PLAIN + "tags:\n  family: yi\n  device: a100\n  seed: none\ndevice: cpu\n"
    found = imported(flat(text))
    assert meaning(found.recipes[0]) == read(tmp_path, text)
    doubtful = imported(flat(PLAIN + "tags:\n  family: yi\n  device: cpu\n"))
    assert doubtful.recipes[0].device == "cpu"
    assert doubtful.choices == ("line 5: device is read as that of the recipe, not of tags",)
    named = PLAIN + "tags:\n  name: x\n  dtype: x\ntokenizer:\n  tokens:\n    <s>:\n      force: true\nname: y\n"
    assert meaning(imported(flat(named)).recipes[0]) == read(tmp_path, named), "the recipe's name comes later"
    last = imported(flat(PLAIN + "tags:\n  device: cpu\n"))
    assert last.recipes[0].tags == {"device": "cpu"}, "or tags would be empty"


def test_a_token_may_be_called_as_a_key_is(tmp_path: Path) -> None:
    text = PLAIN + "tokenizer:\n  tokens:\n    source:\n      source: org/a\n    models:\n      force: true\n"
    assert meaning(imported(flat(text)).recipes[0]) == read(tmp_path, text)


def test_every_key_that_may_stand_in_two_places_is_known() -> None:
    """Where a key is added to the schema that an outer mapping has too, say which reading is right, and test it."""

    def doubles(shape: Shape | None, around: frozenset[str] = frozenset()) -> Iterator[str]:
        if shape is not None:
            yield from shape.keys.keys() & around
            for below in (*shape.keys.values(), shape.values, shape.item):
                yield from doubles(below, around | shape.keys.keys())

    by_their_owner = {"parameters", "base_model", "models", "slices"}
    by_their_value = {"source"}
    of_a_reference = {"model", "lora", "override_architecture", "path", "revision"}
    of_an_entry = {"value", "filter"}
    of_a_text = {"dtype"}  # within a mapping `text`, which no published config has
    of_an_evaluation = {"chat_template"}  # within an entry of `evaluate`, which no published config has
    of_a_search = {"seed"}  # within `search` and a sweep's `random`, which no published config has
    known = by_their_owner | by_their_value | of_a_reference | of_an_entry | of_a_text | of_an_evaluation | of_a_search
    assert set(doubles(recipe_shape())) == known


def test_a_choice_that_leads_nowhere_is_taken_back(tmp_path: Path) -> None:
    """base_model of the first slice cannot be the recipe's, because another slice follows."""
    text = """
    merge_method: slerp
    slices:
      - sources: [{model: org/a}, {model: org/b}]
        base_model: org/a
        parameters:
          t: 0.5
      - sources: [{model: org/a}, {model: org/b}]
        base_model: org/b
        parameters:
          t: 0.5
    """
    assert meaning(imported(flat(text)).recipes[0]) == read(tmp_path, text)


def test_modules_and_tokens_have_free_names(tmp_path: Path) -> None:
    text = """
    merge_method: linear
    modules:
      text_decoder:
        models:
          - model: org/a
          - model: org/b
        parameters:
          normalize: true
      vision_tower:
        models:
          - model: org/a
        parameters:
          normalize: false
    tokenizer:
      source: union
      tokens:
        <|im_start|>:
          source:
            kind: model_token
            model: org/a
            token_id: 7
          force: true
        "[PAD]":
          source:
            kind: zero
    """
    assert meaning(imported(flat(text)).recipes[0]) == read(tmp_path, text)


def test_values_that_go_on_over_lines(tmp_path: Path) -> None:
    text = """
    description: one line
      and the next
    merge_method: passthrough
    slices:
      - sources:
          - model:
              model:
                path: org/a
                revision: main
            layer_range:
              - 0
              - 4
      - sources:
          - model: org/a
            layer_range: [4,
              8]
            parameters:
              scale:
                filter: o_proj
                value:
                  2.0
    chat_template: |
      {% for m in messages %}
      {{ m.content }}: x
      {% endfor %}
    dtype: float32
    """
    assert meaning(imported(flat(text)).recipes[0]) == read(tmp_path, text)


def test_several_documents(tmp_path: Path) -> None:
    text = "name: one\n" + LINEAR + "---\n" + SLERP.replace("org/b", "one")
    found = imported(flat(text))
    assert [recipe.name for recipe in found.recipes] == ["one", "found"], "the last one may lack a name"
    assert meaning(found.recipes[1]) == read(tmp_path, SLERP.replace("org/b", "one"))


def test_comments_stay_above_their_lines() -> None:
    text = LINEAR.replace("  - model: org/b\n", "  # the better one\n  - model: org/b  # really\n")
    assert imported(flat(text)).text == text


def test_lines_glued_together(tmp_path: Path) -> None:
    glued = "slices: - sources: - model: org/a layer_range: [0, 32] - model: org/b layer_range: [0, 32] merge_method: slerp "
    glued += "base_model: org/a parameters: t: - filter: self_attn value: [0, 0.5, 0.3, 0.7, 1] - filter: mlp "
    glued += "value: [1, 0.5, 0.7, 0.3, 0] - value: 0.5 dtype: bfloat16"
    assert meaning(imported(glued).recipes[0]) == read(tmp_path, SLERP)


# -- characters ------------------------------------------------------------------------------------------------------

MANGLED = {
    "tabs": LINEAR.replace("  ", "\t"),
    "non-breaking spaces": LINEAR.replace("  ", "\u00a0\u00a0"),
    "non-breaking spaces behind colons": LINEAR.replace(": ", ":\u00a0"),
    "zero-width characters": "\ufeff" + LINEAR.replace("model", "mod\u200bel"),
    "typographic double quotes": LINEAR.replace("org/a", "“org/a”").replace("float16", "”float16”"),
    "typographic single quotes": LINEAR.replace("org/a", "‘org/a’"),
    "HTML entities": LINEAR.replace("  ", "&nbsp;&nbsp;").replace(
        "org/a", "&quot;org/a&#39;".replace("&#39;", "&quot;")
    ),
    "entities escaped twice": LINEAR.replace("org/a", "&amp;quot;org/a&amp;quot;"),
    "line numbers": "".join(f"{n:2} {line}\n" for n, line in enumerate(LINEAR.splitlines(), 1)),
    "line numbers with a bar": "".join(f"{n} | {line}\n" for n, line in enumerate(LINEAR.splitlines(), 41)),
    "line numbers first": "".join(f"{n}\n" for n in range(1, 10)) + LINEAR,
    "button": "yaml\nCopy code\n" + LINEAR,
    "button on the first line": "yamlCopy code" + LINEAR,
    "button at the end": LINEAR + "Copied!\n",
    "quotation": "".join(f"> {line}\n" for line in LINEAR.splitlines()),
    "Markdown's backslashes": LINEAR.replace("_", "\\_").replace("- ", "\\- "),
    "dashes for hyphens": LINEAR.replace("- ", "– "),
    "bullets": LINEAR.replace("- ", "• "),
    "no space behind the hyphen": LINEAR.replace("- ", "-"),
    "wide colons": LINEAR.replace(": ", "："),
    "carriage returns": LINEAR.replace("\n", "\r\n"),
    "partly lost indentation": LINEAR.replace("\n    ", "\n"),
    "everything at once": "Copy\n"
    + flat(LINEAR).replace("org/a", "“org/a”").replace(": ", ":\u00a0").replace("- ", "• "),
}


@pytest.mark.parametrize("case", MANGLED)
def test_what_copying_does_to_a_config_is_mended(case: str, tmp_path: Path) -> None:
    found = imported(MANGLED[case])
    assert meaning(found.recipes[0]) == read(tmp_path, LINEAR)
    assert bool(found.repairs) == (case not in ("carriage returns", "button", "line numbers first"))


def test_a_sound_config_is_taken_as_it_is() -> None:
    text = LINEAR + "description: it’s “good” — 1 | 2\ntokenizer: {tokens: {“: {source: org/a}}}\n"
    found = imported(text)
    assert (found.text, found.repairs, found.choices) == (text, (), ())


def test_keys_that_mergekit_reads_past_become_comments(tmp_path: Path) -> None:
    """Many published configs have parameters at the top level, where mergekit ignores them."""
    text = LINEAR + "int8_mask: true\nrescale:\n  - 1\n\nseed: 3\n"
    found = imported(text)
    assert found.text == LINEAR + "# int8_mask: true\n# rescale:\n#   - 1\n\nseed: 3\n"
    assert found.repairs == ("keys that no recipe has, now comments (int8_mask, rescale)",)
    assert meaning(found.recipes[0]) == read(tmp_path, LINEAR + "seed: 3\n")
    assert "did you mean 'dtype'" in refusal(LINEAR.replace("dtype", "dtypo"))
    assert "write key paths with their values" in refusal(LINEAR + "sweep: {}\n")


# -- places ----------------------------------------------------------------------------------------------------------

CARD = f"""---
license: apache-2.0
base_model:
- org/a
- org/b
tags:
- merge
---
# My merge

Some words: models are merged. `merge_method: slerp` it is.

```python
print("merge_method: nothing")
```

First try:

```yaml
{LINEAR}```

Then:

~~~yml
{SLERP}~~~

The end.
"""


def test_the_last_of_several_configs_of_a_model_card(tmp_path: Path) -> None:
    found = imported(CARD)
    assert meaning(found.recipes[0]) == read(tmp_path, SLERP)
    assert found.place == "code block at line 34, the last of 3; --pick takes another"
    assert found.repairs == ()


def test_another_one_is_picked(tmp_path: Path) -> None:
    assert meaning(imported(CARD, pick=2).recipes[0]) == read(tmp_path, LINEAR)
    with pytest.raises(RecipeError, match=r"card.md: has 3 configs, so there is no number 9"):
        imported(CARD, pick=9)


def test_a_config_that_is_cut_off_gives_way_to_a_whole_one(tmp_path: Path) -> None:
    found = imported(CARD.replace("layer_range: [0, 32]", "layer_range: [0,"))
    assert meaning(found.recipes[0]) == read(tmp_path, LINEAR)
    assert found.place.endswith("the only whole one of 3")


def test_configs_made_of_each_other_become_one_file() -> None:
    card = f"```yaml\nname: half\n{LINEAR}```\nand\n```yaml\n{SLERP.replace('org/b', 'half')}```\n"
    found = imported(card)
    assert [recipe.name for recipe in found.recipes] == ["half", "found"]
    assert found.place == "all 2 configs, which are made of each other"


def test_a_config_in_a_quotation(tmp_path: Path) -> None:
    quoted = "".join(f"> {line}\n" for line in f"Try this:\n\n```\n{flat(SLERP)}```\n\nthanks".splitlines())
    assert meaning(imported(quoted).recipes[0]) == read(tmp_path, SLERP)


def test_an_indented_fence_that_is_never_closed(tmp_path: Path) -> None:
    text = "1. Step\n\n   ```yaml\n" + "".join(f"   {line}\n" for line in LINEAR.splitlines())
    assert meaning(imported(text).recipes[0]) == read(tmp_path, LINEAR)


def test_a_config_in_running_text(tmp_path: Path) -> None:
    text = f"Here is what I did.\nIt works: see below.\n{flat(SLERP)}\nHave fun: it is good.\nSource: https://example.org\n"
    found = imported(text)
    assert meaning(found.recipes[0]) == read(tmp_path, SLERP)
    assert found.place == "text at line 3"


def test_a_code_block_of_a_web_page(tmp_path: Path) -> None:
    lines = [f'<span class="hljs-attr">{html.escape(line)}</span>' for line in SLERP.splitlines()]
    page = f"""<!doctype html><html><head><title>merge_method: x</title><script>var a = "merge_method: b";</script></head>
<body><p>Configuration</p><div class="code"><pre><code class="language-yaml">{chr(10).join(lines)}
</code></pre><button>Copy merge_method: c</button></div><p>more</p></body></html>"""
    found = imported(page, "page.html")
    assert meaning(found.recipes[0]) == read(tmp_path, SLERP)
    assert found.repairs == ()


def test_a_table_with_line_numbers_that_lost_its_indentation(tmp_path: Path) -> None:
    rows = "\n".join(
        f'<tr><td class="blob-num">{n}</td>\n<td class="blob-code">{html.escape(line.strip())}</td></tr>'
        for n, line in enumerate(TWELVE_SLICES.read_text("utf-8").splitlines(), 1)
    )
    page = f"<html><body><h1>A page</h1><div>words</div><table>{rows}</table><p>Copyright</p></body></html>"
    (recipe,) = imported(page, "page.html").recipes
    assert meaning(recipe) == meaning(load_recipe(TWELVE_SLICES))


def test_lines_that_are_elements_of_a_page(tmp_path: Path) -> None:
    page = "<pre>" + "".join(f"<div>{html.escape(line)}</div>" for line in LINEAR.splitlines()) + "</pre>"
    assert meaning(imported(page, "page.html").recipes[0]) == read(tmp_path, LINEAR)
    page = "<p>" + "<br>".join(html.escape(line) for line in flat(LINEAR).splitlines()) + "</p>"
    assert meaning(imported(page, "page.html").recipes[0]) == read(tmp_path, LINEAR)


def test_a_model_card_in_a_table_of_its_lines(tmp_path: Path) -> None:
    """As pages that show the source of a file are copied: every line a row, the indentation gone."""
    card = f"---\ntags:\n- merge\n---\n# merge\n\n```yaml\n{flat(SLERP)}```\n"
    rows = "".join(f"{line} | |\n" for line in card.splitlines())
    assert meaning(imported(rows).recipes[0]) == read(tmp_path, SLERP)


def test_a_model_card_in_one_line(tmp_path: Path) -> None:
    card = " ".join(f"---\nbase_model:\n- org/a\ntags:\n- merge\n---\n# merge\n```yaml\n{SLERP}```\nThe end.\n".split())
    assert meaning(imported(card).recipes[0]) == read(tmp_path, SLERP)


def test_a_config_in_a_single_pair_of_backticks(tmp_path: Path) -> None:
    card = f"# merge\n\nPlain textCSSYAMLXML`  {LINEAR.replace(chr(10), '  ')}  `\n\n- **models** are listed\n"
    assert meaning(imported(card).recipes[0]) == read(tmp_path, LINEAR)


# -- what is the author's ---------------------------------------------------------------------------------------------

OPERATED = """name: x
owners:   # us
  - team:merges

# nightly
schedule: "0 3 * * *"
evaluate: [demo]
"""


def test_what_only_the_author_operates_is_left_out() -> None:
    found = imported(
        OPERATED + LINEAR + "publish:\n  repo_id: me/x\nallow_nonfinite: true\ntrust_remote_code: [org/a]", keep=()
    )
    assert found.text == "name: x\n\n# nightly\n" + LINEAR
    assert found.dropped == ("schedule", "publish", "evaluate", "allow_nonfinite", "owners", "trust_remote_code")
    assert found.repairs == ()
    recipe = found.recipes[0]
    assert (recipe.schedule, recipe.publish, recipe.evaluate, recipe.owners) == (None, None, None, ())


def test_named_keys_are_kept() -> None:
    found = imported(OPERATED + LINEAR, keep=("schedule",))
    assert found.dropped == ("evaluate", "owners")
    assert found.recipes[0].schedule == "0 3 * * *"
    assert imported(OPERATED + LINEAR).text == OPERATED + LINEAR


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"schedule": "0 3 * * *", "merge_method": "linear", "models": [{"model": "org/a"}], "owners": ["team:a"]}\n',
         '{"merge_method": "linear", "models": [{"model": "org/a"}]}\n'),
        ("{owners: ['team:a'], device: cpu, models: [{model: org/a}], merge_method: linear, evaluate: [], publish: null}\n",
         "{models: [{model: org/a}], merge_method: linear}\n"),
        ("  merge_method: linear\n  evaluate: &e\n  - demo\n  # why\n  models: [{model: org/a}]\n  owners: []\n",
         "  merge_method: linear\n  # why\n  models: [{model: org/a}]\n"),
        ("x-all: &all {device: cpu, schedule: 0 3 * * *}\n<<: *all\nmerge_method: linear\nmodels: [{model: org/a}]\n",
         "device: auto\nschedule: null\nx-all: &all {device: cpu, schedule: 0 3 * * *}\n<<: *all\nmerge_method: linear\n"
         "models: [{model: org/a}]\n"),
        ("x-o: &o ['team:a']\nowners: *o\nmerge_method: linear\nmodels:\n- model: org/a\ndevice: cpu  # here",
         "x-o: &o ['team:a']\nmerge_method: linear\nmodels:\n- model: org/a\n"),
        (f"name: a\ndevice: cpu\n{LINEAR}---\n# second\nname: b\n{LINEAR}evaluate:\n  - demo\n",
         f"name: a\n{LINEAR}---\n# second\nname: b\n{LINEAR}"),
    ],
    ids=["JSON", "braces", "indented", "merged in", "an alias", "two documents"],
)  # fmt: skip
def test_keys_are_left_out_however_they_are_written(text: str, left: str) -> None:
    found = import_text(text, Path("x.yaml"), "x", PARAMETERS)
    assert found.text == left
    assert all(recipe.device == "auto" and not recipe.evaluate for recipe in found.recipes)


def test_a_key_that_others_refer_to_cannot_be_left_out() -> None:
    text = f"evaluate: &e [demo]\n{LINEAR}x-more: *e\n"
    with pytest.raises(RecipeError, match=r"evaluate cannot be left out, since other keys refer .*--keep"):
        imported(text, keep=())
    assert imported(text, keep=("evaluate",)).text == text


def test_passwords_in_addresses_are_never_read() -> None:
    text = (
        LINEAR.replace("org/a", "s3://key:hunter2@bucket/a")
        + "# https://me:hunter2@example.org/x and http://host:80/y@z\n"
    )
    found = imported(text)
    assert "hunter2" not in found.text and "http://host:80/y@z" in found.text
    assert found.repairs == ("passwords in addresses, now asterisks",)
    assert "hunter2" not in refusal(flat(text).replace("model: s3", "modl: s3"))


# -- what cannot be mended -------------------------------------------------------------------------------------------


def test_nothing_found() -> None:
    assert refusal("# A model\n\n```python\nprint()\n```\n").startswith("card.md: no merge config was found")
    assert refusal("").startswith("card.md: no merge config was found")


def test_a_mixture_of_experts_is_not_a_merge() -> None:
    text = "base_model: a\ngate_mode: hidden\nexperts:\n  - source_model: b\n    positive_prompts: [x]\n"
    assert "mergekit-moe" in refusal(text)


def test_errors_of_the_schema_have_the_line_of_the_source() -> None:
    card = f"# Title\n\n```yaml\n{SLERP}```\n"
    assert refusal(card.replace("[0, 32]\n      - model: org/b", "[32, 0]\n      - model: org/b")).startswith(
        "card.md:7: slices[0].sources[0].layer_range: [32, 0] is reversed"
    )
    assert "did you mean 'layer_range'" in refusal(card.replace("layer_range", "layer_rang"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("layer_range", "layer_rang"), "card.md:4: unknown key 'layer_rang', did you mean 'layer_range'?"),
        (
            ("- sources:\n", ""),
            "card.md:2: '- model: org/a' fits nowhere behind what stands above it (slices, the recipe)",
        ),
        (("base_model: org/a", "merge_method: slerp"), "card.md:8: the recipe has the key merge_method already"),
        (("[0, 32]\n- model", "[32, 0]\n- model"), "card.md:4: slices[0].sources[0].layer_range: [32, 0] is reversed"),
        (("dtype: bfloat16", "dtype: bfloat15"), "card.md:16: dtype: unknown dtype 'bfloat15'"),
        (("parameters:\n", "Some words.\n"), "card.md:10: unknown key 't'"),
        (("t:\n", "tt: 1\n"), "card.md:10: unknown key 'tt', did you mean 't'?"),
    ],
)
def test_a_flat_config_broken_beyond_repair(change: tuple[str, str], says: str) -> None:
    message = refusal(flat(SLERP).replace(*change))
    assert message.startswith(says), message


def test_a_config_without_a_method() -> None:
    message = refusal("```yaml\nmerge_method:\nmodels:\n  - model: org/a\n```\n")
    assert message.startswith("card.md:2: merge_method: ")


def test_too_many_lines() -> None:
    assert "more than the 2000" in refusal("merge_method: linear\nmodels:\n" + "- modle: a\n" * 5000)
