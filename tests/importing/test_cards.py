"""Sixty cards that were made out of recipes by dressing and damaging them: what comes back is the recipe, or an honest failure.

A card has one to three configs, in a dress (a fence, a page, a notebook, a shell, a table of lines, …) and with a wound (lost
indentation, typographic quotes, a stray backtick, …). Where several are made of each other, the last names the others by one of
the ways that people have. What comes back must be that tree, or say that not all was read: never "all" with something missing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from merge_assets.errors import RecipeError
from merge_assets.importing.config import import_text
from merge_assets.importing.mending import Imported
from merge_assets.plan import check_alone
from merge_assets.recipe import Recipe
from merge_assets.recipe.load import BrokenRecipe, read_recipes
from tests.importing.test_config import PARAMETERS, SLERP, flat

TIES = """models:
  - model: org/a
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: org/b
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""
STACK = """slices:
  - sources:
      - model: org/a
        layer_range: [0, 24]
  - sources:
      - model: org/b
        layer_range: [8, 32]
        parameters:
          scale:
            - filter: o_proj
              value: 0.5
            - value: 1.0
merge_method: passthrough
dtype: bfloat16
"""
LINEAR = """models:
  - model: org/a
    parameters:
      weight: 0.5
  - model: org/b@v1.1
    parameters:
      weight: 0.5
merge_method: linear
dtype: bfloat16
tokenizer_source: union
"""
STOCK = (
    "models:\n  - model: org/a\n  - model: org/b\n  - model: org/c\nmerge_method: model_stock\nbase_model: org/base\n"
)
TEMPLATE = """models:
  - model: org/a
    parameters:
      weight: 0.5
  - model: org/b
    parameters:
      weight: 1.0
merge_method: linear
chat_template: |
  {%- for message in messages
      if message.role != "tool" %}
    model: {{ message.role }} value: 1

    {%- if message.tool %}
      dtype: {{ message.tool }}
    {%- endif %}
  {%- endfor %}
dtype: float16
"""
CONFIGS = {"ties": TIES, "slerp": SLERP, "stack": STACK, "linear": LINEAR, "stock": STOCK}


# -- dresses -----------------------------------------------------------------------------------------------------------


def _fenced(config: str) -> str:
    return f"```yaml\n{config}```"


def _tilde(config: str) -> str:
    return f"~~~yml\n{config}~~~"


def _quoted(config: str) -> str:
    return "\n".join(f"> {line}" for line in _fenced(config).splitlines())


def _listed(config: str) -> str:
    return "1. The config:\n\n" + "\n".join(f"   {line}" for line in _fenced(config).splitlines())


def _folded(config: str) -> str:
    return f"<details><summary>Config</summary>\n\n{_fenced(config)}\n\n</details>"


def _shell(config: str) -> str:
    return f"```bash\ncat > config.yaml << 'EOF'\n{config}EOF\nmergekit-yaml config.yaml out --cuda\n```"


def _python(config: str) -> str:
    return f'```python\nyaml_config = """\n{config}"""\n```'


def _bare(config: str) -> str:
    return f"\n{config}\n"


DRESSES = [_fenced, _tilde, _quoted, _listed, _folded, _shell, _python, _bare]


def _page(text: str, configs: list[str]) -> str:
    blocks = "".join(f"<pre><code>{html.escape(config)}</code></pre><p>and</p>" for config in configs)
    return f"<!doctype html><html><body><h1>Merge</h1>{blocks}</body></html>"


def _notebook(text: str, configs: list[str]) -> str:
    cells = [{"cell_type": "code", "source": [f'config = """\n{config}"""\n']} for config in configs]
    return json.dumps({"cells": cells, "nbformat": 4})


# -- wounds ------------------------------------------------------------------------------------------------------------

WOUNDS: dict[str, Callable[[str], str]] = {
    "whole": lambda text: text,
    "flat": flat,
    "tabs": lambda text: text.replace("  ", "\t"),
    "quotes": lambda text: text.replace("org/a\n", "“org/a”\n"),
    "bullets": lambda text: text.replace("- ", "• "),
    "spaces": lambda text: text.replace("  ", "\u00a0\u00a0"),
    "backticks": lambda text: text.replace("merge_method: ", "merge_method: `").replace("\ndtype", "`\ndtype", 1),
    "ignored": lambda text: text + "embed_slerp: true\n",
    "unaligned": lambda text: text.replace("\n    ", "\n     ", 1),
}
FATAL = {
    "slip": lambda text: text.replace("merge_method", "merge_methud"),
    "cut": lambda text: text[: text.index("merge_method")],
    "key": lambda text: text.replace("model:", "modle:", 1),
}
"""Wounds that nothing can be read of: the config is missed, and that is said."""

# -- chains ------------------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[int, str], str]] = {
    "name": lambda step, block: block,
    "heading": lambda step, block: f"## part-{step}\n\n{block}",
    "arrow": lambda step, block: f"a + b → part-{step}\n\n{block}",
    "sentence": lambda step, block: f"This gives **part-{step}**:\n\n{block}",
    "command": lambda step, block: f"{block}\n\n    mergekit-yaml config.yml ./part-{step}\n",
}


def _chain(way: str, size: int) -> list[str]:
    """Configs of which each is made of the one before."""
    local = "part-{}" if way == "name" else "./part-{}"
    configs = [LINEAR.replace("tokenizer_source: union\n", "")]
    configs += [SLERP.replace("org/b", local.format(step)) for step in range(1, size)]
    return [f"name: part-{step}\n{config}" for step, config in enumerate(configs, 1)] if way == "name" else configs


def meanings(recipes: tuple[Recipe, ...]) -> list[dict[str, object]]:
    return [recipe.model_dump(mode="json", exclude={"name"}) for recipe in recipes]


def sound(config: str) -> Recipe:
    (recipe,) = read_recipes(config, Path("x.yaml"), "card")
    assert not isinstance(recipe, BrokenRecipe)
    return recipe


def read(text: str) -> Imported:
    return import_text(text, Path("card.md"), "card", PARAMETERS)


def single() -> Iterator[tuple[str, str, str]]:
    """Forty cards of one config: every config in every dress, each with another wound."""
    wounds = list(WOUNDS)
    for number, (name, config) in enumerate(CONFIGS.items()):
        for place, dress in enumerate(DRESSES):
            wound = wounds[(number * 3 + place) % len(wounds)]
            card = f"---\ntags:\n- merge\n---\n# Merge\n\nSome words.\n\n{dress(WOUNDS[wound](config))}\n\nThe end.\n"
            yield f"{name} {dress.__name__} {wound}", card, config


SINGLE = list(single())
CHAINS = [(way, size) for way in WAYS for size in (2, 3)]
BROKEN = [(way, wound) for way in ("name", "heading", "arrow") for wound in FATAL]


def test_there_are_sixty() -> None:
    assert len(SINGLE) + len(CHAINS) + len(BROKEN) + 2 >= 60


@pytest.mark.parametrize(("card", "config"), [card[1:] for card in SINGLE], ids=[card[0] for card in SINGLE])
def test_the_config_of_a_card_comes_back(card: str, config: str) -> None:
    found = read(card)
    assert meanings(found.recipes) == meanings((sound(config),))
    check_alone(found.recipes[0])
    assert found.unread == ()


def _outside_the_text(wound: Callable[[str], str]) -> Callable[[str], str]:
    def made(config: str) -> str:
        before, key, rest = config.partition("chat_template")
        return wound(before) + key + rest

    return made


TEXT_WOUNDS: dict[str, Callable[[str], str]] = {
    "keys flat above": _outside_the_text(flat),
    "a dash left": lambda text: text.replace("  - model: org/a", "- model: org/a"),
    "a dash right": lambda text: text.replace("  - model: org/b", "      - model: org/b"),
    "a key right": lambda text: text.replace("    parameters", "     parameters", 1),
    "text further right": lambda text: "".join(
        f"    {line}" if "{" in line or "model: {" in line or "if message" in line else line
        for line in text.replace("merge_method", " merge_method", 1).splitlines(keepends=True)
    ),
}
"""Wounds beside a text, which leave one reading of it."""

LOST_TEXTS: dict[str, Callable[[str], str]] = {
    "all flat": flat,
    "text at the margin": lambda text: text.replace("\n  {%- for", "\n{%- for"),
    "a line of it left": lambda text: text.replace("    {%- endif", "{%- endif"),
    "its first line right": lambda text: text.replace("  {%- for", "         {%- for"),
}
"""Wounds of a text itself: what of its indentation is lost cannot be known."""

SHIFTED: dict[str, tuple[str, Callable[[str], str]]] = {
    "numbers": (
        "parameters:\n  t:\n    - filter: mlp\n      value:\n        - 0\n        - 0.5\n        - 1\n    - value: 0.5\n",
        lambda text: text.replace("        - 0.5", "          - 0.5"),
    ),
    "filters": (
        "parameters:\n  t:\n    - filter: mlp\n      value: [0, 1]\n    - value: 0.5\n",
        lambda text: text.replace("    - filter", "- filter"),
    ),
    "the last filter": (
        "parameters:\n  t:\n    - filter: mlp\n      value: [0, 1]\n    - value: 0.5\n",
        lambda text: text.replace("    - value", "        - value"),
    ),
}


@pytest.mark.parametrize("wound", TEXT_WOUNDS)
def test_a_text_keeps_the_indentation_that_it_has(wound: str) -> None:
    damaged = TEXT_WOUNDS[wound](TEMPLATE)
    assert isinstance(next(iter(read_recipes(damaged, Path("x.yaml"), "card"))), BrokenRecipe), "the wound is one"
    found = read(f"# Card\n{_fenced(damaged)}\n")
    assert meanings(found.recipes) == meanings((sound(TEMPLATE),))
    assert not [choice for choice in found.choices if "chat_template" in choice]


@pytest.mark.parametrize("wound", LOST_TEXTS)
def test_a_text_whose_indentation_is_lost_is_said_to_be_not_certain(wound: str) -> None:
    found = read(f"# Card\n{_fenced(LOST_TEXTS[wound](TEMPLATE))}\n")
    (recipe,), whole = found.recipes, sound(TEMPLATE)
    assert recipe.merge_method == whole.merge_method and recipe.models == whole.models
    assert any("the text of chat_template is indented" in choice for choice in found.choices)


@pytest.mark.parametrize("name", SHIFTED)
def test_dashes_that_were_shifted(name: str) -> None:
    more, wound = SHIFTED[name]
    config = SLERP[: SLERP.index("parameters:")] + more
    damaged = SLERP[: SLERP.index("parameters:")] + wound(more)
    assert damaged != config
    found = read(f"# Card\n{_fenced(damaged)}\n")
    assert meanings(found.recipes) == meanings((sound(config),)) and found.choices == ()


@pytest.mark.parametrize(("way", "size"), CHAINS)
def test_a_chain_comes_back_whole(way: str, size: int) -> None:
    found = read("\n\nThen:\n\n".join(WAYS[way](step, _fenced(c)) for step, c in enumerate(_chain(way, size), 1)))
    assert len(found.recipes) == size
    names = [recipe.name for recipe in found.recipes]
    for place, recipe in enumerate(found.recipes[1:], 1):
        assert names[place - 1] in [model.path for model in recipe.references()]
    assert found.place.startswith(f"all {size} configs") and found.unread == ()


@pytest.mark.parametrize(("way", "wound"), BROKEN)
def test_a_step_that_is_lost_is_never_all(way: str, wound: str) -> None:
    configs = _chain(way, 3)
    configs[1] = FATAL[wound](configs[1])
    try:
        found = read("\n\nThen:\n\n".join(WAYS[way](step, _fenced(c)) for step, c in enumerate(configs, 1)))
    except RecipeError:
        return
    assert len(found.recipes) < 3
    assert not found.place.startswith("all ")
    last = found.recipes[-1]
    left = [model.path for model in last.references() if "part-" in model.path]
    assert found.unread or left, "what is missing is said, or stays to be seen as a local model"


@pytest.mark.parametrize("dress", [_page, _notebook])
def test_pages_and_notebooks_of_several(dress: Callable[[str, list[str]], str]) -> None:
    found = read(dress("", [f"name: part-1\n{STOCK}", SLERP.replace("org/b", "part-1")]))
    assert meanings(found.recipes) == meanings((sound(STOCK), sound(SLERP.replace("org/b", "part-1"))))
    assert found.place.startswith("all 2 configs")
