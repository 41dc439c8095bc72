"""Whether the code that comes with a model may be run when it is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from merge_assets.identity import variant_line
from merge_assets.plan.code import is_trusted, trusted_in
from merge_assets.records import VariantDetails
from merge_assets.reference import ModelReference

if TYPE_CHECKING:
    from merge_assets.evaluation.suite import Suite
    from merge_assets.workspace.workspace import Workspace


def trusts(workspace: Workspace, suite: Suite, reference: ModelReference, fingerprint: str) -> bool:
    """Whether the suite names a model, or the recipe of a variant all models whose code this version carries.

    Args:
        workspace: whose recipes, and whose store.
        suite: on which the model is evaluated.
        reference: the model.
        fingerprint: which version of it.
    """
    if _is_named(workspace, suite, reference):
        return True
    recipe = workspace.book.resolve(reference)
    trusted = trusted_in(workspace.book, recipe) if recipe is not None else ()
    if recipe is None or not trusted:  # the rule: nothing is read
        return False
    stored = workspace.store.get(variant_line(recipe.name), fingerprint)
    return stored is not None and is_trusted(stored.manifest.described(VariantDetails).code_models, trusted)


def may_trust(workspace: Workspace, suite: Suite, reference: ModelReference) -> tuple[str, ...]:
    """The models whose code may be run when a model is evaluated, if it has any; nothing of the store is read."""
    if _is_named(workspace, suite, reference):
        return (str(reference),)
    recipe = workspace.book.resolve(reference)
    return tuple(sorted(trusted_in(workspace.book, recipe))) if recipe is not None else ()


def _is_named(workspace: Workspace, suite: Suite, reference: ModelReference) -> bool:
    """Whether the suite names a model."""
    return reference in suite.trust_remote_code or trusts_folder(
        workspace, suite, workspace.names.local_path(reference)
    )


def trusts_folder(workspace: Workspace, suite: Suite, folder: Path | None) -> bool:
    """Whether the suite names a folder, however it is written."""
    if folder is None:
        return False
    named = (workspace.names.local_path(reference) for reference in suite.trust_remote_code)
    return any(one is not None and one.resolve() == folder.resolve() for one in named)
