"""``merge-assets import`` reads the Hub, files and standard input, writes a recipe, and never writes over anything unasked."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from merge_assets import api
from merge_assets.cli import main
from merge_assets.errors import HubError, RecipeError
from merge_assets.recipe import load_recipe, load_recipes
from merge_assets.settings import Settings
from tests.commands import command_environment, run_command
from tests.hub_server import HubServer
from tests.importing.test_config import CARD, LINEAR, SLERP, TWELVE_SLICES, flat
from tests.synthetic import write_llama

pytestmark = pytest.mark.slow

LOCAL = """models:
  - model: ./a
    parameters: {weight: 1}
  - model: ./b
    parameters: {weight: 1}
merge_method: linear
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "merge-assets.toml").write_text("")
    return tmp_path


def test_the_twelve_slice_config_becomes_a_recipe(project: Path) -> None:
    (project / "page.txt").write_text(flat(TWELVE_SLICES.read_text("utf-8")))
    done = run_command("import", "page.txt", root=project)
    assert done.code == 0, done.stderr
    assert "lost or wrong indentation" in done.stdout
    assert "47 layers of 12 slices" in done.stdout
    assert "merge-assets plan fimbulvetr-11b-enhanced" in done.stdout
    file = project / "recipes" / "fimbulvetr-11b-enhanced.yaml"
    assert file.read_text("utf-8").startswith(
        "# Imported by merge-assets from page.txt: text.\n# Mended: lost or wrong"
    )
    assert load_recipe(file).digest == load_recipe(TWELVE_SLICES).digest
    assert [path.name for path in (project / "recipes").iterdir()] == [file.name]


def test_layers_are_shown_where_the_models_are_at_hand(project: Path) -> None:
    write_llama(project / "a", 3)
    write_llama(project / "b", 3)
    (project / "mine.md").write_text(f"```yaml\n{LOCAL}```\n")
    done = run_command("import", "mine.md", root=project)
    assert done.code == 0, done.stderr
    assert "Layer map" in done.stdout and "a 0–2 + b 0–2" in done.stdout
    assert run_command("plan", "mine", root=project).code == 0


def test_layers_of_a_chain_are_shown(project: Path) -> None:
    write_llama(project / "a", 3)
    write_llama(project / "b", 3)
    (project / "mine.md").write_text(
        f"## half\n```yaml\n{LOCAL}```\n## end\n```yaml\n{LOCAL.replace('./b', './half')}```\n"
    )
    done = run_command("import", "mine.md", root=project)
    assert done.code == 0, done.stderr
    assert done.stdout.count("Layer map") == 2 and "a 0–2 + mine-half(a 0–2 + b 0–2)" in done.stdout
    assert "no plan yet" not in done.stdout and "local  models[0].model: ./a" in done.stdout


def test_a_model_that_is_missing_is_said_and_the_recipe_written(project: Path) -> None:
    (project / "mine.yaml").write_text(LOCAL)
    done = run_command("import", "mine.yaml", root=project)
    assert done.code == 0
    assert "no plan yet" in done.stdout and "./a" in done.stdout
    assert (project / "recipes" / "mine.yaml").exists()


def test_standard_input_is_printed_without_writing(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "merge_assets", "import", "-", "--print"],
        cwd=project,
        env=command_environment(project),
        input=flat(LINEAR).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.decode() == LINEAR
    assert b"standard input" in done.stderr
    assert not (project / "recipes").exists()


def test_what_is_the_authors_is_left_out_and_local_models_are_said(project: Path) -> None:
    write_llama(project / "b", 3)
    (project / "mine.yaml").write_text(LOCAL.replace("./a", "/home/me/a") + "schedule: 0 3 * * *\nowners: ['team:x']\n")
    done = run_command("import", "mine.yaml", root=project)
    assert done.code == 0, done.stderr
    assert "left out  schedule, owners (--keep takes one over)" in done.stdout
    assert (
        "local  models[0].model: /home/me/a is a path or a recipe of the author's machine; write where" in done.stdout
    )
    assert "local  models[1].model: ./b is a path of the author's that is here, too" in done.stdout
    head = [line for line in (project / "recipes" / "mine.yaml").read_text().splitlines() if line.startswith("# ")]
    assert head[1] == "# Left out: schedule, owners."
    assert head[2].startswith("# Local: models[0].model: /home/me/a ")
    recipe = load_recipe(project / "recipes" / "mine.yaml")
    assert (recipe.schedule, recipe.owners) == (None, ())
    done = run_command("import", "mine.yaml", "--keep", "owners", "--keep", "schedule", "--print", root=project)
    assert "team:x" in done.stdout and "left out" not in done.stderr
    assert "schedule" in run_command("import", "mine.yaml", "--keep", "all", "--print", root=project).stdout


def test_a_file_is_not_overwritten_unasked(project: Path) -> None:
    (project / "mine.yaml").write_text(LINEAR)
    target = project / "out.yaml"
    target.write_text("precious")
    done = run_command("import", "mine.yaml", "--to", "out.yaml", root=project)
    assert done.code == 2
    assert done.stderr.count("error: ") == 1
    assert "out.yaml: is there already; --overwrite replaces it" in done.stderr
    assert target.read_text() == "precious"
    assert run_command("import", "mine.yaml", "--to", "out.yaml", "--overwrite", root=project).code == 0
    assert load_recipe(target).merge_method == "linear"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.md"], "'nowhere.md' is neither a file, nor a folder, nor a repository on the Hub"),
        (["empty"], "empty: the folder has none of mergekit_config.yml"),
        (["prose.md"], "prose.md: no merge config was found"),
        (["broken.md"], "broken.md:2"),
        (["binary.md"], "binary.md: is not UTF-8 text"),
        (["https://example.org/a/b"], "only models on the Hub are fetched"),
        (["sound.yaml", "--to", "x.txt"], "x.txt: a recipe's file ends in .yaml"),
        (["sound.yaml", "--name", "a b"], "'a b' is not allowed"),
        (["sound.yaml", "--pick", "3"], "has 1 configs, so there is no number 3"),
        (
            ["sound.yaml", "--keep", "seed"],
            "--keep seed: an import leaves out no such key; write one of schedule, freshness, keep, publish",
        ),
        (["https://me:hunter2@example.org/a/b"], "error: https://******@example.org/a/b: only models"),
    ],
)
def test_errors_are_one_message_and_write_nothing(
    arguments: list[str],
    message: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / "empty").mkdir()
    (project / "prose.md").write_text("# words\n")
    (project / "broken.md").write_text("merge_method: linear\nmodles: [a]\n")
    (project / "binary.md").write_bytes(b"merge_method: \xff\xfe")
    (project / "sound.yaml").write_text(LINEAR)
    before = sorted(project.rglob("*"))
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["merge-assets", "import", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("error: ") == 1 and said.out == ""
    assert message in said.err
    assert sorted(project.rglob("*")) == before


# -- in the process --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def space(root: Path, hub: HubServer | None = None) -> api.Workspace:
    return api.Workspace.open(
        Settings(root=root, hub_endpoint=hub.url if hub else None, hub_cache=root / "cache", store=str(root / "store"))
    )


def test_a_repository_of_the_hub(tmp_path: Path, hub: HubServer) -> None:
    commit = hub.commit("org/my-merge", {"mergekit_config.yml": SLERP.encode(), "README.md": CARD.encode()})
    hub.commit("org/my-merge", {"mergekit_config.yml": LINEAR.encode()})
    workspace = space(tmp_path, hub)
    found = api.import_recipe(workspace, "org/my-merge")
    assert (found.name, found.imported.recipes[0].merge_method) == ("my-merge", "linear")
    for source in (f"org/my-merge@{commit}", f"{hub.url}/org/my-merge/tree/{commit}"):
        found = api.import_recipe(workspace, source)
        assert found.imported.recipes[0].merge_method == "slerp"
        assert found.origin == f"mergekit_config.yml of org/my-merge on the Hub (commit {commit})"
    target = api.write_recipe(workspace, found)
    assert target == tmp_path / "recipes" / "my-merge.yaml"
    assert f"(commit {commit})" in target.read_text("utf-8").splitlines()[0]


def test_the_model_card_of_a_repository_without_a_config(tmp_path: Path, hub: HubServer) -> None:
    hub.commit("org/my-merge", {"README.md": CARD.encode(), "model.safetensors": bytes(10_000)})
    found = api.import_recipe(space(tmp_path, hub), "org/my-merge", pick=2)
    assert found.imported.recipes[0].merge_method == "linear"
    assert hub.sent("model.safetensors") == 0
    found = api.import_recipe(space(tmp_path, hub), f"{hub.url}/org/my-merge/blob/main/README.md")
    assert found.imported.recipes[0].merge_method == "slerp"


def test_a_repository_without_either(tmp_path: Path, hub: HubServer) -> None:
    hub.commit("org/empty", {"config.json": b"{}"})
    with pytest.raises(RecipeError, match=r"org/empty@\w+ has no mergekit_config.yml and no .* and no README.md"):
        api.import_recipe(space(tmp_path, hub), "org/empty")
    with pytest.raises(HubError, match="no such model"):
        api.import_recipe(space(tmp_path, hub), "org/gone")


def test_a_folder_with_a_config(tmp_path: Path) -> None:
    (tmp_path / "my merge").mkdir()
    (tmp_path / "my merge" / "mergekit_config.yml").write_text(LINEAR)
    assert api.import_recipe(space(tmp_path), str(tmp_path / "my merge")).name == "my-merge"


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipes" / "deep").mkdir(parents=True)
    (tmp_path / "recipes" / "deep" / "mine.yaml").write_text(LINEAR)
    (tmp_path / "mine.yaml").write_text(SLERP)
    workspace = space(tmp_path)
    found = api.import_recipe(workspace, str(tmp_path / "mine.yaml"))
    with pytest.raises(RecipeError, match=r"'mine' is the name of the recipe in .*deep/mine.yaml already"):
        api.write_recipe(workspace, found)
    assert not (tmp_path / "recipes" / "mine.yaml").exists()
    found = api.import_recipe(workspace, str(tmp_path / "mine.yaml"), name="other")
    assert load_recipe(api.write_recipe(workspace, found)).name == "other"


def test_a_new_name_replaces_the_configs_own(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: old\n" + LINEAR)
    found = api.import_recipe(space(tmp_path), str(tmp_path / "x.yaml"), name="new")
    target = api.write_recipe(space(tmp_path), found, tmp_path / "file.yaml")
    assert load_recipe(target).name == "new"
    assert "old" not in target.read_text()


def test_the_name_is_written_where_the_file_is_called_otherwise(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(LINEAR)
    found = api.import_recipe(space(tmp_path), str(tmp_path / "mine.yaml"))
    assert load_recipe(api.write_recipe(space(tmp_path), found, tmp_path / "file.yaml")).name == "mine"


def test_the_command_reads_the_hub(project: Path, hub: HubServer) -> None:
    commit = hub.commit("org/my-merge", {"README.md": CARD.encode()})
    environment = {
        "MERGE_ASSETS_HUB_ENDPOINT": hub.url,
        "MERGE_ASSETS_HUB_CACHE": str(project / "cache"),
        "HF_HUB_OFFLINE": "0",
    }
    done = run_command("import", "org/my-merge", root=project, environment=environment)
    assert done.code == 0, done.stderr
    assert (
        f"README.md of org/my-merge on the Hub (commit {commit}): code block at line 34, the last of 3" in done.stdout
    )
    assert "32 layers of 1 slice\n" in done.stdout
    assert "merge-assets plan my-merge" in done.stdout
    assert load_recipe(project / "recipes" / "my-merge.yaml").merge_method == "slerp"


def test_the_steps_of_a_chain_are_folded_and_what_is_not_read_is_said(project: Path) -> None:
    broken = LINEAR.replace("models", "modles")
    configs = {"one": LINEAR, "two": SLERP.replace("org/b", "./one"), "draft": broken}
    card = "".join(f"## {title}\n```yaml\n{config}```\n" for title, config in configs.items())
    (project / "chain.md").write_text(card)
    done = run_command("import", "chain.md", root=project)
    assert done.code == 0, done.stderr
    assert "chain.md: 2 of 3 configs, which are made of each other" in done.stdout
    assert "not read  the config at line 34: modles: unknown key, did you mean 'modules'?" in done.stdout
    file = project / "recipes" / "chain.yaml"
    assert "# Not read: the config at line 34: modles: unknown key" in file.read_text()
    first, last = load_recipes(file)
    assert (first.name, first.materialize, last.name, last.materialize) == ("chain-one", False, "chain", True)
    stored = run_command("import", "chain.md", "--store-steps", "--print", root=project)
    assert "materialize" not in stored.stdout and "chain-one" in stored.stdout


def test_what_a_plan_would_refuse_is_said_at_once(project: Path) -> None:
    (project / "mine.yaml").write_text(
        SLERP.replace("  t:\n", "  tt:\n").replace("merge_method: slerp", "merge_method: ota")
    )
    done = run_command("import", "mine.yaml", root=project)
    assert done.code == 0, done.stderr
    assert "refused  by merge-assets plan: merge_method: unknown method 'ota'" in done.stdout.replace("\n", " ")
    moved = LINEAR.replace("org/a", "/home/me/a").replace("    parameters:\n      weight", "    weight")
    (project / "moved.yaml").write_text(moved)
    done = run_command("import", "moved.yaml", "--replace", "/home/me=org", root=project)
    assert done.code == 0, done.stderr
    assert "notice  models[0].weight: 0.25 is a parameter of linear, moved into parameters" in done.stdout
    assert "# Notice: models[1].weight: 0.75" in (project / "recipes" / "moved.yaml").read_text()
    assert "refused" not in done.stdout and "local" not in done.stdout
    assert "write OLD=NEW" in run_command("import", "moved.yaml", "--replace", "x", root=project).stderr
