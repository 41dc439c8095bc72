"""An imported config as a recipe file, which says where it is from and what is not certain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from merge_assets.errors import RecipeError
from merge_assets.importing.config import renamed
from merge_assets.importing.mending import Imported, sound_recipes
from merge_assets.shown import without_credentials


def write_recipe_file(imported: Imported, origin: str, local: Sequence[str], target: Path) -> None:
    """Write an imported config, with a comment that names its source.

    Args:
        imported: the config.
        origin: where it was found, in words.
        local: one sentence for each model that is named as on the author's machine.
        target: the file; replaced if it is there, its folder is made if it is not.

    Raises:
        RecipeError: it is no recipe in this file, or the file cannot be written.
    """
    name = imported.recipes[-1].name
    if len(imported.recipes) == 1 and target.stem != name:  # the file's stem would be the name otherwise
        imported = renamed(imported, name, target)
    head = [f"Imported by merge-assets from {origin}: {imported.place}."]
    if imported.repairs:
        head.append(f"Mended: {', '.join(imported.repairs)}.")
    if imported.dropped:
        head.append(f"Left out: {', '.join(imported.dropped)}.")
    head += [f"Notice: {notice}." for notice in imported.notices]
    head += [f"Not read: {sentence}." for sentence in imported.unread]
    head += [f"Not certain: {choice}." for choice in imported.choices]
    head += [f"Local: {sentence}." for sentence in local]
    text = "".join(f"# {without_credentials(line)}\n" for line in head) + imported.text
    sound_recipes(text, target, target.stem)
    draft = target.with_name(f".{target.name}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, target)  # noqa: PTH105
    except OSError as error:
        raise RecipeError(f"cannot be written: {error.strerror or error}", file=target) from None
    finally:
        draft.unlink(missing_ok=True)
