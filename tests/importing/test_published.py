"""Tables of scores on a card become `published` of its recipe, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge_assets.importing.publishing import with_layers_told, with_published
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


HTML = """
<table>
  <thead><tr><th colspan=4><b>Open LLM Leaderboard</b></th></tr>
  <tr><th>Model</th><th>Average</th><th>ARC&nbsp;(25-shot)</th><th>MMLU</th></tr></thead>
  <tr><td><a href="https://x">me/found</a></td><td>58.10</td><td><b>59.56</b></td><td>63.68%</td>
  <tr><td rowspan="2">Llama2_init_<br>Mistral<td>60.98<td>60.07<td>64.09
  <tr><td>1<td>2<td>3</tr>
</table>
"""
FRONT = """---
license: apache-2.0
model-index:
- name: found
  results:
  - task: {type: text-generation, name: Text Generation}
    dataset: {name: AI2 Reasoning Challenge (25-Shot), type: ai2_arc, args: {num_few_shot: 25}}
    metrics: [{type: acc_norm, value: 70.39, name: normalized accuracy}]
    source: {url: https://x, name: Open LLM Leaderboard}
  - dataset: {name: MMLU (5-Shot), type: cais/mmlu}
    metrics: [{type: acc, value: '64.98'}]
---
"""


def test_a_table_of_html() -> None:
    mine, base, below = published(HTML)
    assert (mine.model, mine.values) == (None, {"average": 58.1, "arc_challenge": 59.56, "mmlu": 63.68})
    assert (base.model, base.values["mmlu"], base.suite) == ("Llama2_init_ Mistral", 64.09, V1)
    assert (below.model, below.values) == (base.model, {"average": 1, "arc_challenge": 2, "mmlu": 3})


def of_front(front: str, more: str = "") -> tuple[Published, ...]:
    card = f"{front}# Card\n```yaml\n{LINEAR}```\n{more}"
    return with_published(imported(card), card, "card.md", ("found",), (V1,), Path("card.md")).recipes[-1].published


def test_the_front_matters_results() -> None:
    (line,) = of_front(FRONT)
    assert (line.values, line.suite, line.model) == ({"arc_challenge": 70.39, "mmlu": 64.98}, V1, None)
    assert line.source == "card.md, line 3"


def test_what_stands_in_front_matter_and_table_is_published_once() -> None:
    (line,) = of_front(FRONT, LEADERBOARD)
    assert line.values == VALUES
    two = of_front(FRONT.replace("70.39", "71.39"), LEADERBOARD)
    assert [one.values["arc_challenge"] for one in two] == [71.39, 70.39], "what differs is said as it is"


def test_results_of_other_data_have_free_names() -> None:
    front = """---
model-index:
- name: found
  results:
  - dataset: {name: My own set}
    metrics: [{type: acc, value: 0.5}, {type: f1, value: 0.4}, {type: note, value: soon}, {type: nan, value: .nan}]
  - dataset: {name: WER}
    metrics: [{type: wer, value: 0.1}]
---
"""
    (line,) = of_front(front)
    assert (line.suite, line.values) == (None, {"My own set acc": 0.5, "My own set f1": 0.4, "WER": 0.1})


@pytest.mark.parametrize(
    "index",
    ["", "- 1", "- {name: x, results: 3}", "- {results: [{dataset: x, metrics: [1]}]}", "{a: 1}", "- *x", "- [\n"],
)
def test_front_matter_without_results(index: str) -> None:
    assert of_front(f"---\nmodel-index:\n{index}\n---\n") == ()


def test_tables_of_html_that_never_end() -> None:
    assert published("<table><tr><td>ARC<td>MMLU<tr><td>1<td>2") == ()
    assert published("<table>" * 2000 + "<tr><td colspan=999999999 rowspan=99>ARC" * 100 + "</table>" * 2000) == ()


def test_layers_that_a_table_names_are_a_notice() -> None:
    card = f"```yaml\n{LINEAR}```\n| Layer | Removed |\n|---|---|\n| 3 | yes |\n| 4 | yes |\n| 5 | no |\n| 9 | ✓ |\n"
    found = with_layers_told(imported(card), card, ("found",))
    assert found.notices == ("the table at line 12 has layers removed: 3–4, 9",)


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
