"""What two scores were not measured alike with is said, and what measuring again changed."""

from __future__ import annotations

import pytest

from merge_assets.evaluation.circumstances import changes, differences, row_differences
from merge_assets.evaluation.data import data_of, fetching, revision_of
from merge_assets.evaluation.results import Circumstances
from merge_assets.evaluation.scores import Scores, TaskScore
from tests.leaderboard_support import row, scores

MADE = Circumstances(
    versions={"torch": "2.6.0", "transformers": "5.1.0"},
    device="cpu",
    dtype="float32",
    data={"arc": "a" * 64},
    revisions={"arc": "1" * 40},
)


def measured(value: float = 0.5, **made: object) -> TaskScore:
    return row("arc", "acc", value).model_copy(update={"made": MADE.model_copy(update=made)})


def board(*rows: TaskScore) -> Scores:
    return scores("m", *rows)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, ()),
        ({"versions": {"torch": "2.7.0", "transformers": "5.1.0"}}, ("torch 2.6.0 and 2.7.0",)),
        ({"versions": {"torch": "2.6.0"}}, ("transformers 5.1.0 and unknown",)),
        ({"device": "cuda"}, ("device cpu and cuda",)),
        ({"dtype": "bfloat16"}, ("dtype float32 and bfloat16",)),
        ({"data": {"arc": "b" * 64}}, ("the data of arc aaaaaaaaaaaa and bbbbbbbbbbbb",)),
        (
            {"data": {"arc": "b" * 64}, "revisions": {"arc": "2" * 40}},
            ("the data of arc 111111111111 and 222222222222",),
        ),
        ({"revisions": {"arc": "2" * 40}}, ()),  # another commit, in which these documents are the same
        ({"data": {}, "revisions": {}}, ("the data of arc aaaaaaaaaaaa and unknown",)),
    ],
)
def test_every_circumstance_that_differs_is_said(made: dict[str, object], said: tuple[str, ...]) -> None:
    assert row_differences(measured(), measured(0.75, **made)) == said
    assert differences(board(measured()), board(measured(0.75, **made))) == said


def test_shots_documents_and_files_are_said_too() -> None:
    one = measured()
    other = one.model_copy(update={"shots": 5, "n": 20, "task_digest": "u"})
    assert row_differences(one, other) == ("shots of arc 0 and 5", "documents of arc 50 and 20", "the files of arc")


def test_what_several_tasks_share_is_said_once_and_tasks_of_one_alone_are_left_out() -> None:
    newer = {"versions": {"torch": "2.7.0", "transformers": "5.1.0"}}
    one = board(measured(), measured().model_copy(update={"metric": "acc_norm"}))
    other = board(
        measured(**newer),
        measured(**newer).model_copy(update={"metric": "acc_norm"}),
        measured(device="cuda").model_copy(update={"task": "alone"}),
    )
    assert differences(one, other) == ("torch 2.6.0 and 2.7.0",)


def test_measuring_again_says_which_values_changed_and_with_what() -> None:
    before = board(measured(0.5))
    assert changes(before, board(measured(0.5))) == ()
    assert changes(before, board(measured(0.625, device="cuda"))) == ("arc acc: 50.0 → 62.5", "device cpu and cuda")
    assert changes(before, board(measured(0.5 + 1e-7))) == ("arc acc: 50.0 → 50.0 (+1e-07)",)


# -- data ----------------------------------------------------------------------------------------------------------------

SAMPLES = [
    {"doc_id": 0, "doc_hash": "a", "prompt_hash": "p", "target_hash": "t", "filter": "none"},
    {"doc_id": 1, "doc_hash": "b", "prompt_hash": "q", "target_hash": "u", "filter": "none"},
]


def test_data_are_told_by_what_was_evaluated_in_any_order_and_through_any_filter() -> None:
    again = [*reversed(SAMPLES), {**SAMPLES[0], "filter": "strict", "acc": 1.0}]
    assert data_of({"arc": SAMPLES}) == data_of({"arc": again})


@pytest.mark.parametrize("field", ["doc_hash", "prompt_hash", "target_hash"])
def test_another_document_prompt_or_target_is_other_data(field: str) -> None:
    assert data_of({"arc": SAMPLES}) != data_of({"arc": [{**SAMPLES[0], field: "other"}, SAMPLES[1]]})


class Split:
    """What ``datasets`` tells of a split."""

    def __init__(self, *urls: str, cached: str = "") -> None:
        self.info = type("Info", (), {"download_checksums": {url: {"num_bytes": 1} for url in urls}})()
        self.cache_files = [{"filename": cached}] if cached else []


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("dataset", "commit"),
    [
        ({"test": Split(f"hf://datasets/org/name@{COMMIT}/test.parquet")}, COMMIT),
        ({"test": Split(cached=f"/cache/org___name/default/0.0.0/{COMMIT}/name-test.arrow")}, COMMIT),
        ({"test": Split(cached=f"/cache/json/default-1/0.0.0/{'f' * 64}/json-test.arrow")}, None),
        ({"a": Split(f"hf://datasets/o/n@{COMMIT}/a"), "b": Split(f"hf://datasets/o/n@{COMMIT[::-1]}/b")}, None),
        ({"test": [{"text": "a"}]}, None),
        (None, None),
    ],
    ids=["addresses", "folder", "local", "two", "rows", "none"],
)
def test_the_commit_of_loaded_data_is_found_where_there_is_one(dataset: object, commit: str | None) -> None:
    assert revision_of(dataset) == commit


def test_pinned_data_are_loaded_at_their_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[dict[str, object]] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda **options: asked.append(options))
    for revision in (None, COMMIT):
        with fetching(revision):
            datasets.load_dataset(path="org/name", revision="main")
    datasets.load_dataset(path="org/name")
    assert [options.get("revision") for options in asked] == ["main", COMMIT, None]
