"""Contract: what a model needs to be loaded and asked is imported before model workers are forked: no model waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation_support import write_checkpoint

pytestmark = pytest.mark.slow

LOOK = """
import sys
from pathlib import Path
import merge_assets.evaluation.harness
there = set(sys.modules)
from merge_assets.evaluation.meter import Meter
from merge_assets.evaluation.watched import WatchedLM, loaded
class Nobody:
    def report(self, *_):
        pass
arguments = {"device": "cpu", "dtype": "float32", "batch_size": 1}
lm = loaded(WatchedLM, Path(sys.argv[1]), arguments, False, Meter(Nobody()))
lm.tok_encode("the king")
print(*sorted(set(sys.modules) - there))
"""


def test_loading_a_model_imports_no_other_package(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(model)], capture_output=True, text=True, timeout=900, check=True
    )
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {"tokenizers", "transformers"}
