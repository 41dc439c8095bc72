"""The key tables of ``docs/recipes.md``, generated from the schema.

``python -m tests.recipe_page`` rewrites the tables of the page in place. The text around the tables is
written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from merge_assets import recipe
from merge_assets.recipe.problems import HIDDEN_KEYS

PAGE = Path("docs/recipes.md")

_BLOCK = re.compile(r"(<!-- keys: (?P<model>\w+)(?P<only>(?: \w+)*) -->\n).*?(<!-- end of keys -->)", re.DOTALL)
_LINKS = {
    "parameter setting": "[parameter setting](#parameters)",
    "model reference": "[model reference](#model-references)",
}
_PLAIN = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


def render(page: str) -> str:
    """The page with its tables as the schema has them now.

    A table stands between ``<!-- keys: Model [key …] -->`` and ``<!-- end of keys -->``; named keys pick some of the
    model's.

    Raises:
        KeyError: if a table names a model or key that does not exist.
    """
    return _BLOCK.sub(lambda match: match[1] + key_table(match["model"], match["only"].split()) + match[4], page)


def key_table(model: str, only: list[str]) -> str:
    """Markdown table of the keys of one model of the schema: key, value, default, meaning."""
    cls: type[BaseModel] = getattr(recipe, model)
    properties = cls.model_json_schema()["properties"]
    keys = only or [key for key in properties if not (cls is recipe.Recipe and key in HIDDEN_KEYS)]
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        field = cls.model_fields[key]
        default = "**required**" if _is_required(cls, key) else _default(field.get_default(call_default_factory=True))
        rows.append(f"| `{key}` | {_value(properties[key])} | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def described_keys(page: str) -> set[tuple[str, str]]:
    """Every (model, key) that a table of the page shows."""
    found: set[tuple[str, str]] = set()
    for match in _BLOCK.finditer(render(page)):
        found |= {(match["model"], key) for key in re.findall(r"^\| `(\w+)`", match[0], re.MULTILINE)}
    return found


def _is_required(cls: type[BaseModel], key: str) -> bool:
    # The loader fills the name in from the file.
    return cls.model_fields[key].is_required() and (cls, key) != (recipe.Recipe, "name")


def _default(value: Any) -> str:
    if isinstance(value, (bool, int)) or (isinstance(value, str) and value):
        return f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return ""


def _value(node: dict[str, Any]) -> str:
    if "$ref" in node:
        return f"[{node['$ref'].rsplit('/', 1)[1]}](#{node['$ref'].rsplit('/', 1)[1].lower()})"
    if not node:
        return "any value"
    if "format" in node:
        return _LINKS.get(node["format"], str(node["format"]))
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_value(side) for side in node["anyOf"] if side.get("type") != "null"))
    if node.get("type") == "array":
        return f"list of {_value(node['items'])}" if "items" in node else "list"
    if node.get("type") == "object":
        inner = node.get("additionalProperties")
        return f"mapping of names to {_value(inner)}" if isinstance(inner, dict) else "mapping"
    return _PLAIN[node["type"]]


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
