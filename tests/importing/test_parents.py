"""A merge is imported with the merges that it is made of, down to real checkpoints, as one tree."""

from __future__ import annotations

import re
from pathlib import Path

from merge_assets import api
from merge_assets.api import Found
from merge_assets.recipe import load_recipes
from merge_assets.settings import Settings
from tests.hub_server import HubServer
from tests.importing.test_chains import lineage, slerp
from tests.importing.test_config import LINEAR


def card(config: str, title: str = "A merge") -> dict[str, bytes | None]:
    return {"README.md": f"# {title}\n\n```yaml\n{config}```\n".encode()}


def found(tmp_path: Path, hub: HubServer, source: str) -> tuple[api.Workspace, Found]:
    settings = Settings(
        root=tmp_path, hub_endpoint=hub.url, hub_cache=tmp_path / "cache", store=str(tmp_path / "store")
    )
    workspace = api.Workspace.open(settings)
    return workspace, api.import_recipe(workspace, source, with_parents=True)


def test_a_lineage_down_to_real_checkpoints(tmp_path: Path) -> None:
    """As StrangeMerges_34 is made of StrangeMerges_30, which is made of 21, and so on."""
    with HubServer() as hub:
        hub.commit("g/s-34", card(slerp("c/contextual", "g/s-30")))
        thirty = hub.commit("g/s-30", {"mergekit_config.yml": slerp("g/s-21", "y/ultra").encode()})
        hub.commit("g/s-21", card(slerp("g/s-20", "g/s-20@v1")))
        hub.commit("g/s-20", card(LINEAR))
        hub.tag("g/s-20", "v1", hub.commit("g/s-20", {"README.md": b"# trained from scratch\n"}))
        hub.commit("g/s-20", card(LINEAR))
        hub.commit("c/contextual", {"README.md": b"# a model\n", "config.json": b"{}"})
        hub.commit("y/ultra", {"config.json": b"{}"})
        hub.commit("org/a", {"config.json": b"{}"})
        workspace, imported = found(tmp_path, hub, "g/s-34")
    recipes = imported.imported.recipes
    assert [recipe.name for recipe in recipes] == ["s-20", "s-21", "s-30", "s-34"]
    assert lineage(recipes) == "[c/contextual [[[org/a org/b] g/s-20] y/ultra]]"
    assert [str(model) for model in recipes[1].references()] == ["s-20", "g/s-20@v1"]
    assert [recipe.materialize for recipe in recipes] == [False, False, False, True]
    assert f"# g/s-30: mergekit_config.yml of g/s-30 on the Hub (commit {thirty})\n" in imported.imported.text
    (left,) = imported.imported.unread
    assert left.startswith("org/b stays a checkpoint: ") and "no such model" in left
    file = api.write_recipe(workspace, imported)
    assert file.name == "s-34.yaml"
    assert [recipe.name for recipe in load_recipes(file)] == ["s-20", "s-21", "s-30", "s-34"]


def test_circles_and_depth_are_bounded(tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.commit("g/one", card(slerp("g/two")))
        hub.commit("g/two", card(slerp("g/three")))
        hub.commit("g/three", card(slerp("g/two")))
        hub.commit("org/z", {"config.json": b"{}"})
        _, imported = found(tmp_path, hub, "g/one")
        assert lineage(imported.imported.recipes) == "[[[g/two org/z] org/z] org/z]"
        assert imported.imported.unread == ("g/two is made of itself (g/two → g/three → g/two); it stays a checkpoint",)
        for number in range(20):
            hub.commit(f"g/n{number}", card(slerp(f"g/n{number + 1}")))
        _, imported = found(tmp_path, hub, "g/n0")
    assert len(imported.imported.recipes) == 13
    assert imported.imported.unread == ("g/n13 was not looked at: 12 generations are imported at most",)


def test_names_that_are_taken_and_configs_that_cannot_be_read(tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.commit("g/merge", card(slerp("h/merge", "h/broken")))
        hub.commit("h/merge", card(LINEAR))
        hub.commit("h/broken", card(LINEAR.replace("models", "modles")))
        hub.commit("org/a", {"config.json": b"{}"})
        hub.commit("org/b", {"README.md": b"experts:\n  - source_model: x\nbase_model: y\n"})
        _, imported = found(tmp_path, hub, "g/merge")
    assert lineage(imported.imported.recipes) == "[[org/a org/b] h/broken]"
    assert [recipe.name for recipe in imported.imported.recipes] == ["h--merge", "merge"]
    (left,) = imported.imported.unread
    assert re.match(r"h/broken stays a checkpoint: .*README.md:4: modles: unknown key", left)
