"""Writing recipe files for tests."""

from pathlib import Path
from textwrap import dedent

from merge_assets.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]

MINIMAL = """
    merge_method: linear
    models:
      - {model: org/a, parameters: {weight: 1}}
      - {model: org/b, parameters: {weight: 2}}
"""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text), encoding="utf-8")
    return file


def read(folder: Path, text: str, name: str = "recipe.yaml") -> Recipe:
    return load_recipe(write(folder, text, name))
