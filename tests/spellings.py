"""Make the table of names that the installed transformers knows: ``python -m tests.spellings``."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import transformers
from transformers.conversion_mapping import _build_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from merge_assets.architecture.spelling import TABLE
from merge_assets.architecture.towers import tower_of

PREFIX = re.compile(r'^    base_model_prefix = "(\w+)"', re.MULTILINE)
BESIDE = {
    "encoder",
    "decoder",
    "encoder_decoder",
    "question_encoder",
    "ctx_encoder",
    "talker",
    "text_model",
    "semantic",
}
"""Modules that lie beside others of the same kind: without their names, roles would be mixed up."""

MORE = {"module", "thinker", "llm", "language_model"}
"""Wrappers that are the prefix of no class."""


def table() -> dict[str, Any]:
    """What ``spellings.json`` holds."""
    modeling = Path(transformers.__file__).parent / "models"
    prefixes = {found for file in modeling.glob("*/modeling_*.py") for found in PREFIX.findall(file.read_text())}
    renames: dict[str, list[tuple[str, str]]] = {}
    for kind, transforms in _build_checkpoint_conversion_mapping().items():
        for one in transforms:
            if type(one) is WeightRenaming and len(one.source_patterns) == len(one.target_patterns) == 1:
                renames.setdefault(kind, []).append((one.source_patterns[0], one.target_patterns[0]))
    wrappers = sorted(word for word in prefixes | MORE if tower_of(word) is None and word not in BESIDE)
    return {"wrappers": wrappers, "renames": dict(sorted(renames.items()))}


def main() -> None:
    """Write the file."""
    file = Path(str(files("merge_assets.architecture") / TABLE))
    file.write_text(json.dumps(table(), indent=1) + "\n")
    print(f"{file}: transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
