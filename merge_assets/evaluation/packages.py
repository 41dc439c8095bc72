"""What lm-eval's own tasks use of other packages: made to work beside what is installed, or said to be missing."""

from __future__ import annotations

import sys
from importlib.metadata import version

from merge_assets.errors import EvaluationError

_NEEDS_PUNKT = "lm_eval.tasks.ifeval.instructions_util"


def fit_packages() -> None:
    """Once a task is loaded, have what its code imported work, and the same each time.

    * sympy reads LaTeX by a parser that ANTLR 4.11 generated, and refuses runtimes of other versions. Since 4.10, ANTLR's
      serialised form is the same, and 4.13 runs the parser alike (``tests/evaluation/test_packages.py``). Without it, MATH's
      ``exact_match_original`` would silently count what is equal but spelt differently as wrong.
    * langdetect draws, without a seed; it gets one.

    Raises:
        EvaluationError: if data of NLTK are needed that are not there. Without them, answers could not be judged in the end.
    """
    if "sympy.parsing.latex" in sys.modules and version("antlr4-python3-runtime").startswith(("4.12.", "4.13.")):
        from sympy.parsing.latex import _parse_latex_antlr as parsing

        parsing.version = lambda package: "4.11"
        for kind in (parsing.LaTeXLexer, parsing.LaTeXParser):
            kind.checkVersion = lambda self, generated: None  # which prints, for every text
    if "langdetect" in sys.modules:
        sys.modules["langdetect"].DetectorFactory.seed = 0
    if _NEEDS_PUNKT in sys.modules:
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            raise EvaluationError(
                "this task needs NLTK's data punkt_tab, which could not be fetched: python -m nltk.downloader punkt_tab; "
                "or lay the folder tokenizers/punkt_tab into a folder that the environment variable NLTK_DATA names"
            ) from None
