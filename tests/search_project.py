"""A search of a mix of two tiny models, written where a test asks for it; the suite is the test's own."""

from __future__ import annotations

from pathlib import Path

from tests.evaluation_support import write_checkpoint

RECIPE = """\
merge_method: slerp
models: [{model: a}, {model: b}]
base_model: a
parameters: {t: [{filter: self_attn, value: 0.5}, {value: 0.4}]}
evaluate: []
search:
  space: {"parameters.t[0].value": {low: 0, high: 1}}
  objective: {suite: tiny}
  trials: 4
  sampler: random
"""
PLACE = "parameters.t[0].value"


def write_search(root: Path) -> Path:
    """The models, the recipe and the settings of a project."""
    for seed, name in enumerate("ab"):
        write_checkpoint(root / name, seed=seed)
    (root / "recipes").mkdir()
    (root / "recipes/best.yaml").write_text(RECIPE)
    (root / "merge-assets.toml").write_text("default_suites = []\ndevice = 'cpu'\n")
    return root
