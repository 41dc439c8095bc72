"""Contract: what lm-eval's tasks use of other packages gives what it gives where lm-eval has the versions that it asks for."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from merge_assets.errors import EvaluationError
from merge_assets.evaluation.packages import fit_packages
from tests import needs
from tests.evaluation.standins import TASKS, write_punkt

PARSED = Path(__file__).with_name("latex_by_antlr_4_11.json")
"""LaTeX, and what sympy 1.14 with ANTLR 4.11.1, in an environment of these alone, made of it: an expression or an error."""


def test_sympy_reads_latex_as_with_the_antlr_that_it_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    import sympy
    from sympy.parsing.latex import parse_latex

    assert not version("antlr4-python3-runtime").startswith("4.11"), "there is nothing to fit"
    fit_packages()

    def parsed(text: str) -> str:
        try:
            return sympy.srepr(parse_latex(text))
        except Exception as error:
            return type(error).__name__

    expected = json.loads(PARSED.read_text())
    assert {text: parsed(text) for text in expected} == expected
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "original"),
    [
        ("$\\frac{1}{2}$", "\\frac{1}{2}", 1, 1),
        ("$0.5$", "\\frac{1}{2}", 1, 1),  # equal, spelt differently: for the original judgement LaTeX is read
        ("$\\frac{2}{4}$", "\\frac{1}{2}", 1, 1),
        ("$\\sqrt{8}$", "2\\sqrt{2}", 1, 1),
        ("$7$", "8", 0, 0),
    ],
)
def test_answers_of_math_are_judged_by_both_judges(answer: str, gold: str, exact: int, original: int) -> None:
    needs.module("math_verify")
    judges = importlib.util.spec_from_file_location("math_of_the_leaderboard", TASKS / "leaderboard/math/utils.py")
    assert judges is not None
    assert judges.loader is not None
    module = importlib.util.module_from_spec(judges)
    judges.loader.exec_module(module)
    fit_packages()
    (doc,) = [{"problem": "?", "solution": f"It is $\\boxed{{{gold}}}$.", "answer": gold}]
    said = f"So it is.\nFinal Answer: The final answer is {answer}. I hope it is correct."
    assert module.process_results(doc, [said]) == {"exact_match": exact, "exact_match_original": original}


def test_languages_are_told_the_same_each_time() -> None:
    langdetect = needs.module("langdetect")
    fit_packages()
    text = "no am die casa per los"  # of several languages: without a seed, the answer changes
    assert len({tuple(map(str, langdetect.detect_langs(text))) for _ in range(20)}) == 1


def test_data_of_nltk_that_are_not_there_are_asked_for_before_anything_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval.instructions_util", object())
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(EvaluationError, match=r"punkt_tab.*python -m nltk\.downloader punkt_tab.*NLTK_DATA"):
        fit_packages()
    write_punkt(tmp_path)
    fit_packages()


def test_an_extra_brings_what_the_shipped_suites_need() -> None:
    """lm-eval's own lists, but for ANTLR 4.11, beside which Dagster's runs the same parsers."""
    ours = [Requirement(text) for text in requires("merge-assets") or ()]
    names = {
        one.name.replace("_", "-") for one in ours if one.marker and one.marker.evaluate({"extra": "leaderboards"})
    }
    theirs = [Requirement(text) for text in requires("lm_eval") or ()]
    asked = {
        one.name.replace("_", "-")
        for one in theirs
        for extra in ("ifeval", "math")
        if one.marker and one.marker.evaluate({"extra": extra})
    }
    assert asked - {"antlr4-python3-runtime"} <= names
