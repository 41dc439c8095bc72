"""What becomes of a hostile checkpoint that is built from, analysed and evaluated: how each ended, and whether anything ran."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from merge_assets import api
from merge_assets.errors import MergeAssetsError
from merge_assets.reference import ModelReference
from merge_assets.settings import Settings
from merge_assets.workspace import Workspace
from tests.evaluation_support import write_suite
from tests.strangers.checkpoints import CANARY, Stranger, write

VERBS = ("build", "snr", "evaluate")
LIMITS = {"load_seconds": 60.0, "answer_seconds": 20.0, "silence_seconds": 60.0, "model_memory": "1GB"}
MOST_SECONDS = 400.0
"""Of a verb: two plans and a check of the config, one check of the model, and starting what imports transformers."""

_LONGEST = 1000


@dataclass(frozen=True)
class Outcome:
    """How one verb ended.

    Attributes:
        verb: one of :data:`VERBS`.
        said: what a person reads: the message of the error or of the failed checks; nothing where all went well.
        seconds: how long it took.
        wrong: what must not be; nothing where all is well.
    """

    verb: str
    said: str
    seconds: float
    wrong: str


def visit(stranger: Stranger, sound: Path, root: Path) -> list[Outcome]:
    """Take a stranger in, in a project of its own in ``root``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        write(stranger, sound, root / "stranger", listener.getsockname()[1])
        (root / "recipes").mkdir()
        (root / "recipes" / "copy.yaml").write_text("merge_method: passthrough\nmodels: [{model: ./stranger}]\n")
        write_suite(root / "suites", documents=2)
        space = api.Workspace.open(Settings.model_validate({"root": root, "device": "cpu", **LIMITS}))
        return [_ended(verb, space, root, listener) for verb in VERBS]


def _ended(verb: str, space: Workspace, root: Path, listener: socket.socket) -> Outcome:
    started, wrong, said = time.monotonic(), "", ""
    try:
        said = _done(verb, space, root)
    except MergeAssetsError as error:
        said = str(error)
        wrong = "may pass" if error.may_pass else ""
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    if seconds > MOST_SECONDS:
        wrong = "took too long"
    if "\n" in said or len(said) > _LONGEST:
        wrong = "no clear message"
    if list(root.rglob(CANARY)):
        wrong = "its code ran"
    try:
        listener.accept()[0].close()
        wrong = "it called"
    except BlockingIOError:
        pass
    return Outcome(verb, said, seconds, wrong)


def _done(verb: str, space: Workspace, root: Path) -> str:
    if verb == "build":
        checks = api.build(space, space.recipe("copy")).checks
        return "; ".join(f"{check.name}: {check.description}" for check in checks if not check.passed)
    if verb == "snr":
        api.snr(space, ModelReference("./stranger"), root / "snr", modules=["q_proj"])
        return ""
    api.evaluate(space, root / "stranger", "tiny", limit=1)
    return ""
