"""What a command begins with: the project, and that its store can be used."""

from __future__ import annotations

from merge_assets.workspace import Workspace


def opened() -> Workspace:
    """The project around the working directory.

    Raises:
        MergeAssetsError: if the settings are wrong, or its store cannot be reached or is of another format. Told once here,
            it is not told for each recipe.
    """
    workspace = Workspace.open()
    workspace.store.check()
    return workspace
