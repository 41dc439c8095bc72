"""Contract: whatever strangers write, no verb lets it act on the terminal, break its JSON or grant access to anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_assets import api
from merge_assets.cli.compare import run_diff
from merge_assets.cli.console import console, err, print_fact
from merge_assets.cli.failure import fail
from merge_assets.cli.housekeeping import collect_garbage, list_store, show_version, verify_versions
from merge_assets.cli.repair import audit_versions, repair_versions
from merge_assets.cli.show import show_recipes
from merge_assets.errors import MergeAssetsError
from merge_assets.records import Check, Details, Geometry, Input
from merge_assets.settings import Settings
from merge_assets.shown import visible
from tests.commands import run_command
from tests.synthetic import write_llama

ACTING = "\x00\x07\x08\x1b[]0;x\r\x7f\x85\x9b\u202e\u2066\u2028\u200f\U000e0041"
SECRET = "hunter2-s3cr3t"
TEXTS = st.text(alphabet=ACTING + "ab/[]{}:,'\"\n\\", min_size=1, max_size=30)


def put(root: Path, version: str, text: str) -> None:
    """A version of which everything is a stranger's that can be, but the names of lines and files."""
    space = api.Workspace.open(Settings(root=root))
    check = Check(name=text, passed=False, description=text, metadata={text: text})
    details = Details(
        nonfinite={text: 1},
        geometry={text: Geometry(of="inputs", norms=(1.0,), cosines=(0.5,))},
        checks=[check.model_dump()],
    ).model_copy(update={text or "x": text, "method": text})
    item = Input(kind="hub", name=text, fingerprint="aa", revision=text, license=text, gated=True, base_models=(text,))
    with space.store.draft("variants/x") as draft:
        (draft.directory / "recipe.yaml").write_text(f"{version}{text}", "utf-8", newline="")
        draft.commit(version, key=f"{version}0", inputs=[item], details=details)


VERBS: dict[str, Callable[[bool], object]] = {
    "ls": lambda as_json: list_store([], as_json=as_json),
    "show": lambda as_json: show_version("variants/x", as_json=as_json),
    "verify": lambda as_json: verify_versions([], sampled=False, as_json=as_json),
    "gc": lambda as_json: collect_garbage(1, "0", yes=False, as_json=as_json),
    "audit": lambda as_json: audit_versions([], as_json=as_json),
    "repair": lambda as_json: repair_versions([], sampled=False, lost=False, yes=False, as_json=as_json),
    "diff": lambda as_json: run_diff("variants/x", None, as_json=as_json),
    "recipes": lambda as_json: show_recipes(as_json=as_json),
}


@given(TEXTS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_verb_lets_a_text_act(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    root = tmp_path_factory.mktemp("project")
    (root / "merge-assets.toml").write_text("")
    (root / "recipes").mkdir()
    description = json.dumps(text)
    (root / "recipes" / "r.yaml").write_text(
        f"description: {description}\nmerge_method: passthrough\nmodels: [{{model: nowhere}}]\n"
    )
    put(root, "aa", text)
    put(root, "bb", text)
    file = root / "var/store/variants/x/bb/recipe.yaml"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().swapcase() + b"!")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for as_json in (False, True):
            for name, verb in VERBS.items():
                console.cache_clear()
                err.cache_clear()
                with suppress(MergeAssetsError):
                    verb(as_json)
                out = capsys.readouterr()
                assert visible(out.out) == out.out, name
                assert visible(out.err) == out.err, name
                if as_json and out.out:
                    json.loads(out.out)
    console.cache_clear()
    err.cache_clear()


def test_an_error_is_shown_as_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["merge-assets", "--json"])
    with pytest.raises(SystemExit):
        fail(MergeAssetsError(f"[bold]{ACTING}\x1b]8;;https://u:{SECRET}@h\x07"))
    out = capsys.readouterr()
    assert visible(out.out + out.err) == out.out + out.err
    assert SECRET not in out.out + out.err
    assert "[bold]" in out.err


def test_a_fact_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.cache_clear()
    print_fact("x", f"[/]{ACTING} https://u:{SECRET}@h")
    out = capsys.readouterr().out
    console.cache_clear()
    assert visible(out) == out and SECRET not in out and "[/]" in out


@pytest.mark.slow
def test_no_secret_of_a_project_is_in_what_it_prints_and_keeps(tmp_path: Path) -> None:
    write_llama(tmp_path / "a", seed=1)
    (tmp_path / "merge-assets.toml").write_text("")
    address = f"https://user:{SECRET}@127.0.0.1:9"
    recipes = {
        "mine": f"# of {address}/x\ndescription: see {address}/x?token={SECRET}\n"
        "merge_method: passthrough\nmodels: [{model: ./a}]\n",
        "theirs": "merge_method: passthrough\nmodels: [{model: org/gone}]\n",
        "elsewhere": f"merge_method: passthrough\nmodels: [{{model: '{address}/x'}}]\n",
    }
    (tmp_path / "recipes").mkdir()
    (tmp_path / "suites").mkdir()
    for name, text in recipes.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    environment = {
        "MERGE_ASSETS_HUB_ENDPOINT": address,
        "MERGE_ASSETS_HUB_TOKEN": f"hub-{SECRET}",
        "MERGE_ASSETS_UI_TOKEN": f"ui-{SECRET}",
        "MERGE_ASSETS_STORE_OPTIONS": json.dumps({"secret": f"s3-{SECRET}"}),
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HOME": str(tmp_path),
        "DAGSTER_HOME": str(tmp_path / "dagster"),
    }
    (tmp_path / "dagster").mkdir()
    for arguments in (
        ("build", "mine", "--only-variants"),
        ("recipes", "--json"),
        ("settings",),
        ("plan", "theirs"),
        ("snr", f"{address}/x"),
        ("import", f"{address}/x?token={SECRET}"),
        ("store", "show", "variants/mine", "--json"),
    ):
        done = run_command(*arguments, root=tmp_path, environment=environment)
        assert SECRET not in done.stdout + done.stderr, arguments
        assert "Traceback" not in done.stderr, done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path / "recipes"]
    assert any(path.name == "manifest.json" for path in kept)
    assert any("dagster" in path.parts for path in kept)
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
