"""Tables of scores on a card become `published` of its recipe, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets.importing.publishing import with_published
from merge_assets.importing.score_tables import V1, score_tables
from merge_assets.recipe import Published
from tests.importing.test_config import LINEAR, imported

LEADERBOARD = """# [Open LLM Leaderboard Evaluation Results](https://huggingface.co/spaces/x)
Detailed results can be found [here](https://huggingface.co/datasets/x)

|             Metric              |Value|
|---------------------------------|----:|
|Avg.                             |73.68|
|AI2 Reasoning Challenge (25-Shot)|70.39|
|HellaSwag (10-Shot)              |87.45|
|MMLU (5-Shot)                    |64.98|
|TruthfulQA (0-shot)              |65.44|
|Winogrande (5-shot)              |81.77|
|GSM8k (5-shot)                   |72.05|
"""
VALUES = {
    "average": 73.68,
    "arc_challenge": 70.39,
    "hellaswag": 87.45,
    "mmlu": 64.98,
    "truthfulqa_mc2": 65.44,
    "winogrande": 81.77,
    "gsm8k": 72.05,
}
MODELS = """
| Model | Average ⬆️ | ARC | HellaSwag | MMLU | TruthfulQA | Winogrande | GSM8K |
|---|---|---|---|---|---|---|---|
| [me/found](https://x) | **58.10** | 59.56 | 81.18 | 63.68 | 40.72 | 76.48 | 26.99 |
| Llama2_init_Mistral | 60.98 | 60.07 | 83.3 | 64.09 | 42.15 | 78.37 | 37.91 |
"""


def published(text: str, suites: tuple[str, ...] = (V1,)) -> tuple[Published, ...]:
    card = f"# Card\n```yaml\n{LINEAR}```\n{text}"
    return with_published(imported(card), card, "card.md", ("found",), suites, Path("card.md")).recipes[-1].published


def test_the_leaderboards_own_table() -> None:
    (line,) = published(LEADERBOARD)
    assert (line.values, line.suite, line.model) == (VALUES, V1, None)
    assert line.source == "card.md, line 16"
    (free,) = published(LEADERBOARD, suites=())
    assert free.suite is None and free.values == VALUES, "a suite that is not here is not named"


def test_a_table_of_models() -> None:
    mine, base = published(MODELS)
    assert (mine.model, mine.values["average"], mine.values["gsm8k"]) == (None, 58.1, 26.99)
    assert (base.model, base.values["hellaswag"]) == ("Llama2_init_Mistral", 83.3)
    assert mine.suite == base.suite == V1


def test_the_second_leaderboard_has_free_names() -> None:
    (line,) = published("|Metric|Value|\n|--|--:|\n|Avg.|20.8|\n|IFEval (0-Shot)|41.1|\n|MATH Lvl 5 (4-Shot)|6.2|\n")
    assert (line.suite, line.values) == (None, {"average": 20.8, "IFEval": 41.1, "MATH Lvl 5": 6.2})


def test_models_as_columns_and_values_with_errors() -> None:
    rows = (
        "| Task | Version | found | org/a |",
        "|---|---|---|---|",
        "| ARC | 1 | 0.551 ± 0.01 | **0.5** |",
        "| mmlu | 1 | 0.6 | 61 % |",
    )
    table = "\n".join(rows)
    mine, other = published(table)
    assert mine.values == {"arc_challenge": 55.1, "mmlu": 60.0}
    assert (other.model, other.values) == ("org/a", {"arc_challenge": 0.5, "mmlu": 61.0})


@pytest.mark.parametrize(
    "text",
    [
        "| Layer | SNR |\n|---|---|\n| 1 | 2.0 |\n",
        "| Model | Quant |\n|---|---|\n| found | Q4 |\n",
        "| Metric | Value |\n|---|---|\n| ARC | soon |\n| MMLU | - |\n",
        "ARC 59.1 HellaSwag 80.2\n",
        "| ARC |\n",
        "|" * 5000 + "\n" + "-|" * 3000 + "\n",
    ],
)
def test_what_is_no_table_of_scores(text: str) -> None:
    assert published(text) == ()
    assert score_tables(text, ()) == []


def test_a_recipe_keeps_what_it_publishes_itself() -> None:
    own = LINEAR + "published: [{source: me, values: {mmlu: 1}}]\n"
    card = f"```yaml\n{own}```\n{LEADERBOARD}"
    found = with_published(imported(card), card, "x", (), (), Path("x"))
    assert found.text == own


def test_it_is_written_behind_the_recipe_also_in_braces() -> None:
    braces = "{models: [{model: org/a}], merge_method: linear}\n"
    for config in (LINEAR, braces, f"name: one\n{LINEAR}---\nname: two\n{LINEAR.replace('org/b', 'one')}"):
        card = f"```yaml\n{config}```\n{LEADERBOARD}"
        found = with_published(imported(card), card, "x", (), (), Path("x"))
        assert len(found.recipes[-1].published) == 1
        assert found.notices[0].startswith("published: 7 values of 1 models, from tables at line ")
        assert all(not recipe.published for recipe in found.recipes[:-1])
