"""Write another model reference where a recipe names one."""

from __future__ import annotations

from collections.abc import Callable

from merge_assets.importing.edits import Edits
from merge_assets.recipe.fields import read_reference
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import Document, Path_, spell


def write_reference(
    edits: Edits, document: Document, key: str, change: Callable[[ModelReference], ModelReference]
) -> bool:
    """Change the reference at a key path, in the form that it has there.

    Args:
        edits: of the text that the document is of.
        document: a recipe.
        key: as :meth:`merge_assets.recipe.Recipe.mentions` gives it.
        change: the new reference of the old one.

    Returns:
        Whether it could be written.
    """
    spelled: dict[str, Path_] = {spell(path): path for path in document.lines}
    path = spelled.get(key)
    if path is None:
        return False
    value = document.data
    for part in path:
        value = value[part]
    new = change(read_reference(value))
    if isinstance(value, str):
        return edits.replace((document.index, path), str(new))
    parts = {"model": new.model, "lora": new.lora}
    mapping = {part: {"path": one.path, "revision": one.revision} for part, one in parts.items() if one is not None}
    return edits.replace((document.index, path), {**value, **mapping})
