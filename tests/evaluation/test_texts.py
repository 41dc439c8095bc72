"""Texts as tasks: bits per byte and perplexity in lm-eval's windows, divergence from another model, tokens per answer.

Oracles: formulas in float64 on models that transformers loads, and lm-eval by itself.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_assets.errors import EvaluationError
from merge_assets.evaluation import runner
from merge_assets.evaluation.judge import Judge
from merge_assets.evaluation.results import TaskResults
from merge_assets.evaluation.runner import Evaluation, Other, evaluate_suite
from merge_assets.evaluation.samples import samples_of_results
from merge_assets.evaluation.suite import load_suite
from merge_assets.evaluation.text_task.pieces import cut
from merge_assets.evaluation.verdicts import Pair
from tests.evaluation_support import HereWorker, sentence, write_checkpoint, write_suite

SUITE = """\
include_path: tasks
dtype: float32
tasks:
  - {text: texts/poems.txt, metric: bits_per_byte, piece: 512}
  - {text: texts/poems.txt, metric: perplexity, piece: 512}
  - {text: texts/poems.txt, metric: kl, to: other, piece: 512}
  - {task: tiny_generate, metric: exact_match, shots: 0}
  - {task: tiny_generate, metric: tokens_per_answer, shots: 0}
"""
TEXT, KL = "texts/poems.txt", "texts/poems.txt to other"
CONTEXT = 64
"""Of the models."""


class Text:
    """A text, two models, and what evaluations of them found."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = [write_checkpoint(root / f"model{seed}", seed=seed) for seed in (0, 1)]
        write_suite(root).unlink()
        (root / "texts").mkdir()
        rng = random.Random(3)
        lines = [sentence(rng, rng.randrange(5, 30)) for _ in range(60)]
        (root / "texts" / "poems.txt").write_text("\n".join(lines) + "\n")
        self.file = root / "mine.yaml"
        self.file.write_text(SUITE)
        self.results = TaskResults(root / "results")

    def evaluated(self, model: int, other: int = 1, **options: Any) -> Evaluation:
        compared = Other(f"{other}" * 64, self.models[other], lambda: lambda: None)
        options = {"results": self.results, **options}
        return evaluate_suite(
            self.models[model],
            load_suite(self.file),
            fingerprint=f"{model}" * 64,
            device="cpu",
            others={"other": compared},
            **options,
        )

    @property
    def pieces(self) -> list[str]:
        return cut((self.root / TEXT).read_bytes(), 512)

    def log_probabilities(self, model: int, piece: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of each window of a piece, float64[positions, vocabulary], and the tokens that follow."""
        loaded = AutoModelForCausalLM.from_pretrained(self.models[model], dtype=torch.float64)
        tokens = AutoTokenizer.from_pretrained(self.models[model])(piece, add_special_tokens=False)["input_ids"]
        asked = [loaded.config.bos_token_id, *tokens]
        for start in range(0, len(tokens), CONTEXT):
            end = min(start + CONTEXT, len(tokens))
            with torch.no_grad():
                logits = loaded(torch.tensor([asked[max(end - CONTEXT, 0) : end]])).logits[0]
            yield logits[start - end :].log_softmax(-1), torch.tensor(tokens[start:end])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Text]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "ModelWorker", HereWorker)
        yield Text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def done(text: Text) -> Evaluation:
    return text.evaluated(0)


def value(evaluation: Evaluation, task: str, metric: str) -> float:
    assert not evaluation.scores.failures
    return next(row.value for row in evaluation.scores.tasks if (row.task, row.metric) == (task, metric))


def samples(evaluation: Evaluation, task: str) -> list[dict[str, Any]]:
    stored = next(one for one in evaluation.results if one.result.key.task == task)
    return [json.loads(line) for line in stored.sample_files()[task].read_text().splitlines()]


@pytest.mark.slow
def test_bits_per_byte_and_perplexity_are_the_formulas(text: Text, done: Evaluation) -> None:
    total, tokens = 0.0, 0
    for piece in text.pieces:
        for found, follow in text.log_probabilities(0, piece):
            total += float(found.gather(1, follow[:, None]).sum())
            tokens += len(follow)
    size = sum(len(piece.encode()) for piece in text.pieces)
    assert value(done, TEXT, "bits_per_byte") == pytest.approx(-total / size / math.log(2), rel=1e-5)
    assert value(done, TEXT, "perplexity") == pytest.approx(math.exp(-total / tokens), rel=1e-5)
    assert len(text.pieces) > 5 and any(len(piece.split()) > CONTEXT for piece in text.pieces)  # windows and pieces


@pytest.mark.slow
def test_lm_eval_by_itself_gives_the_same_bits_per_byte(
    text: Text, done: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    import lm_eval.api.task
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from tqdm import tqdm

    monkeypatch.setattr(lm_eval.api.task, "tqdm", tqdm)  # what is told of it here was told to a worker
    command = done.results[0].result.command
    said = {name: command[command.index(name) + 1] for name in ("--include_path", "--tasks", "--metadata")}
    found = lm_eval.simple_evaluate(
        HFLM(pretrained=str(text.models[0]), device="cpu", dtype="float32", batch_size=1),
        tasks=[said["--tasks"]],
        task_manager=TaskManager(
            include_path=said["--include_path"], include_defaults=False, metadata=json.loads(said["--metadata"])
        ),
    )
    theirs = found["results"][said["--tasks"]]
    assert value(done, TEXT, "bits_per_byte") == theirs["bits_per_byte,none"]


@pytest.mark.slow
def test_the_divergence_is_the_formula_and_its_largest_are_shown(text: Text, done: Evaluation) -> None:
    at: dict[tuple[int, int], float] = {}
    for number, piece in enumerate(text.pieces):
        pairs = zip(text.log_probabilities(0, piece), text.log_probabilities(1, piece), strict=True)
        found = torch.cat([(p.exp() * (p - q)).sum(-1) for (q, _), (p, _) in pairs])
        at |= {(number, position): float(one) for position, one in enumerate(found)}
    assert value(done, KL, "kl") == pytest.approx(sum(at.values()) / len(at), rel=1e-5)
    row = next(row for row in done.scores.tasks if row.task == KL)
    assert not row.higher_is_better and not row.headline
    shown = {(one.piece, one.position): one.kl for one in row.disagreements}
    assert shown == pytest.approx({place: at[place] for place in shown}, rel=1e-4)
    assert max(shown.values()) == pytest.approx(max(at.values()), rel=1e-4)
    worst = row.disagreements[0]
    assert worst.token == text.pieces[worst.piece].split()[worst.position]
    assert f"| {KL} | {worst.piece}:{worst.position} |" in done.scores.to_markdown()
    told = {one["position"] for one in samples(done, KL)[worst.piece]["disagreements"]}
    assert worst.position in told


@pytest.mark.slow
def test_pieces_tell_models_apart_and_equal_ones_not(text: Text, done: Evaluation) -> None:
    same, scores = text.evaluated(1), done.scores
    assert value(same, KL, "kl") == pytest.approx(0, abs=1e-12)
    found = {id(one.scores): samples_of_results(one.results) for one in (done, same)}
    verdict, none, bits = Judge(lambda of: found[id(of)]).verdicts(
        [
            Pair(scores, same.scores, KL, "kl", False),
            Pair(scores, scores, KL, "kl", False),
            Pair(scores, same.scores, TEXT, "bits_per_byte", False),
        ]
    )
    assert (verdict.word, none.word) == ("worse", "cannot tell")
    assert bits.found is not None  # the documents are matched, whatever they say


@pytest.mark.slow
def test_what_was_compared_is_not_asked_again(
    text: Text, done: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_assets.evaluation.divergence import Divergence

    shutil.copytree(text.results.directory / "answers", tmp_path / "answers")
    monkeypatch.setattr(Divergence, "answer", None)  # which cannot be called
    again = text.evaluated(0, results=TaskResults(tmp_path))
    assert value(again, KL, "kl") == value(done, KL, "kl")
    with pytest.raises(EvaluationError, match="not callable"):  # the other model has other bytes
        (tmp_path / "other").mkdir()
        kl_alone = SUITE.split("tasks:")[0] + "tasks: [{text: texts/poems.txt, metric: kl, to: other, piece: 512}]"
        text.file.write_text(kl_alone)
        try:
            text.evaluated(0, other=0, results=TaskResults(tmp_path))
        finally:
            text.file.write_text(SUITE)


@pytest.mark.slow
def test_models_of_other_vocabularies_are_not_compared(text: Text, tmp_path: Path) -> None:
    other = shutil.copytree(text.models[1], tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["king"], words["queen"] = words["queen"], words["king"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    compared = Other("2" * 64, other, lambda: lambda: None)
    done = evaluate_suite(
        text.models[0], load_suite(text.file), results=text.results, fingerprint="0" * 64, others={"other": compared}
    )
    assert [failure.task for failure in done.scores.failures] == [KL]
    assert "the vocabularies of the two models differ" in done.scores.failures[0].reason


@pytest.mark.slow
def test_tokens_per_answer_are_those_of_the_answers(text: Text, done: Evaluation) -> None:
    tokenizer = AutoTokenizer.from_pretrained(text.models[0])
    answers = [one["resps"][0][0] for one in samples(done, "tiny_generate")]
    counts = [len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers]
    assert value(done, "tiny_generate", "tokens_per_answer") == pytest.approx(sum(counts) / len(counts))
    assert sum(counts) > 0
    row = next(row for row in done.scores.tasks if row.metric == "tokens_per_answer")
    assert not row.headline and not row.higher_is_better


@given(st.text(alphabet=st.sampled_from("ab ö\n€"), max_size=600), st.integers(4, 200))
def test_a_text_is_cut_into_pieces_that_make_it_up(text: str, size: int) -> None:
    pieces = cut(text.encode(), size)
    assert all(0 < len(piece.encode()) <= size and piece.strip() for piece in pieces)
    assert "".join(pieces).split() == text.split() or "".join("".join(pieces).split()) == "".join(text.split())


def test_pieces_end_with_lines_then_with_words() -> None:
    assert cut(b"one two\nthree four five", 12) == ["one two\n", "three four ", "five"]
    assert cut("ääää".encode(), 5) == ["ää", "ää"]


@pytest.mark.parametrize(
    ("entry", "says"),
    {
        "{text: t.txt, metric: acc}": "a text has no metric 'acc'; it has: bits_per_byte, byte_perplexity",
        "{text: t.txt, task: own, metric: kl, to: m}": "an entry has a task or a text, not both",
        "{text: t.txt, metric: kl}": "kl compares with a model; name it with to: MODEL",
        "{text: t.txt, metric: perplexity, to: m}": "to is of the metric kl",
        "{text: t.txt, metric: perplexity, shots: 0}": "shots is of a task",
        "{text: t.txt, metric: perplexity, headline: true}": "headline is of a task",
        "{task: own, metric: acc, piece: 100}": "piece is of a text",
        "{task: own, metric: acc, to: m}": "to is of a text",
        "{task: own, metric: tokens_per_answer, headline: true}": "tokens_per_answer is no fraction",
        "{text: t.txt, metric: perplexity}, {text: t.txt, metric: bits_per_byte, piece: 99}": "different pieces",
        "{text: none.txt, metric: perplexity}": "tasks[0].text: .*none.txt cannot be read",
        "{text: blank.txt, metric: perplexity}": "tasks[0].text: .*blank.txt has no text",
        "{text: latin.txt, metric: perplexity}": "tasks[0].text: .*latin.txt is not UTF-8",
    }.items(),
)
def test_what_is_wrong_with_a_text_is_said(entry: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("words")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "mine.yaml").write_text(f"tasks: [{entry}]")
    with pytest.raises(EvaluationError, match=says.replace("[0]", r"\[0\]")):
        _ = load_suite(tmp_path / "mine.yaml").digest
