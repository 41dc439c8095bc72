"""Contract: what is shown acts on nobody who reads it, and grants nobody access."""

from __future__ import annotations

import json
import pickle
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_assets.errors import HubError, MergeAssetsError, RecipeError, in_one_line, printable
from merge_assets.provenance import provenance
from merge_assets.recipe import load_recipe
from merge_assets.records import Input
from merge_assets.settings import Settings
from merge_assets.shown import visible, visible_json, without_credentials

SECRET = "hunter2-s3cr3t"
ADDRESSES = [
    f"https://user:{SECRET}@host/x",
    f"s3://key:{SECRET}@bucket/x",
    f"s3://{SECRET}@bucket",
    f"https://user:p@{SECRET}@host:8080/x?y=1",
    f"https://host/x?token={SECRET}",
    f"https://host/x?a=1&X-Amz-Signature={SECRET}&b=2",
    f"https://host/x?AWSAccessKeyId={SECRET}#c",
    f"https://host/x#access_token={SECRET}",
    f"https://host/x?sig={SECRET}",
    f"postgresql://dagster:{SECRET}@db/dagster",
    "hf_" + "abcdefghijklmnopqrstuvwxyz",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("around", ["{}", "a {} b", "'{}'", "({})", '["{}", "x@y"]', "model: {}\n"])
def test_what_grants_access_is_covered_and_the_rest_is_left(address: str, around: str) -> None:
    shown = without_credentials(around.format(address))
    assert SECRET not in shown and "abcdefgh" not in shown
    assert "******" in shown
    before, after = around.split("{}")
    assert shown.startswith(before) and shown.endswith(after)
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "org/name@v1.0",
        "hf://org/name@3f2a91c",
        "https://huggingface.co/org/name/tree/main?author=me&page=2",
        "s3://bucket/folder@rev",
        "a@b.org, see https://example.org/x",
        '{a: "https://host", b: "c@d"}',
        "token=abc, outside of any address",
    ],
)
def test_what_grants_nothing_is_left(text: str) -> None:
    assert without_credentials(text) == text


PARTS = st.text(alphabet="abcXYZ019-._~!$&()*+,;=%:", min_size=8, max_size=20)


@given(user=PARTS, password=PARTS, words=st.text(alphabet="ab .,:;\n@/", max_size=10))
def test_no_password_of_an_address_stays(user: str, password: str, words: str) -> None:
    shown = without_credentials(f"{words} https://{user}:{password}@host/path {words}")
    assert shown == f"{words} https://******@host/path {words}"


@given(st.text())
def test_nothing_that_acts_is_left(text: str) -> None:
    shown = visible(text)
    assert {unicodedata.category(char) for char in shown if char not in "\t\n"} & {"Cc", "Cs"} == set()
    assert not {
        char for char in shown if unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "FSI")
    }
    assert visible(shown) == shown


@given(st.text())
def test_json_says_the_same(text: str) -> None:
    shown = visible_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(shown) == [text]
    shown.encode()
    assert visible(shown) == shown


def test_letters_of_all_languages_are_left() -> None:
    text = "naïve Ελληνικά עברית العربية हिन्दी 日本語 👩\u200d🔬\t\n"
    assert visible(text) == text


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_error_tells(address: str) -> None:
    errors: list[MergeAssetsError] = [
        RecipeError(f"cannot read {address}", file=f"{address}.yaml", key="a"),
        HubError(address, f"{address} answers 500", "failing"),
    ]
    errors[0].prefix(f"{address}: ")
    texts = [str(error) for error in (*errors, *(pickle.loads(pickle.dumps(error)) for error in errors))]
    texts += [in_one_line(OSError(address)), printable(address)]
    for text in texts:
        assert SECRET not in text and "abcdefgh" not in text


def test_no_record_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/bin/merge-assets", "snr", ADDRESSES[0], "--out", f"x?{ADDRESSES[4]}", "\x1b[1m"]
    )
    command = provenance(datetime.now(UTC)).command
    assert SECRET not in command and "\x1b" not in command
    assert command.startswith("merge-assets snr ")
    assert SECRET not in Input(kind="hub", name=ADDRESSES[0], fingerprint="aa").model_dump_json()


def test_no_setting_tells() -> None:
    settings = Settings(
        store=ADDRESSES[3],
        hub_endpoint=ADDRESSES[0],
        hub_token=SECRET,
        ui_token=f"{SECRET}{SECRET}",
        store_options={"secret": SECRET, "endpoint_url": ADDRESSES[4], "client_kwargs": {"endpoint_url": ADDRESSES[0]}},
    )
    assert SECRET not in str(settings.describe())
    assert "https://host/x?token=******" in str(settings.describe())


def test_no_text_of_a_recipe_tells(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    models = "models: [{model: org/a}, {model: org/b}]"
    file.write_text(f"# from {ADDRESSES[0]}\ndescription: see {ADDRESSES[4]}\nmerge_method: linear\n{models}\n")
    recipe = load_recipe(file)
    assert SECRET not in recipe.model_dump_json()
    assert recipe.source.text.startswith("# from https://******@host/x\n")
    assert recipe.description == "see https://host/x?token=******"
