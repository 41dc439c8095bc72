"""Hostile checkpoints, each through build, snr and evaluate: each ends within limits, with one clear message; nothing runs.

These are a few; ``make strangers`` takes in all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation_support import write_checkpoint
from tests.strangers.checkpoints import STRANGERS
from tests.strangers.visit import visit

pytestmark = pytest.mark.slow

SAID = {
    "tokenizer: a normalizer that doubles the text forty times": ("was ended", "was ended"),
    "tokenizer config: a class of its own code": ("which is not executed", "which is not executed"),
    "generation: a million beams": ("", ""),
    "config: a family of its own code": ("", "needs code that comes with the checkpoint, which is not executed"),
    "config: attention that is code of the Hub": ("", ""),
    "config: a billion labels": ("", ""),
}
"""Parts of what build and evaluate say; nothing is not looked at: what counts is how they end."""


def test_there_are_fifty_strangers_and_each_has_a_name() -> None:
    names = [stranger.name for stranger in STRANGERS]
    assert len(names) == len(set(names)) >= 50
    assert set(SAID) <= set(names)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sound") / "checkpoint")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if SAID[name][0] else name for name in SAID]
)
def test_a_stranger_does_no_harm(name: str, sound: Path, tmp_path: Path) -> None:
    (stranger,) = (one for one in STRANGERS if one.name == name)
    build, snr, evaluate = visit(stranger, sound, tmp_path)
    assert not (build.wrong or snr.wrong or evaluate.wrong), (build, snr, evaluate)
    assert SAID[name][0] in build.said
    assert SAID[name][1] in evaluate.said
