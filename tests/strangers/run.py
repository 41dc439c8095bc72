"""Take in every hostile checkpoint: ``python -m tests.strangers.run``; ends with 1 if one did what it must not."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.evaluation_support import write_checkpoint
from tests.strangers.checkpoints import STRANGERS
from tests.strangers.visit import visit


def main() -> None:
    """Print a row for every checkpoint and verb."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of checkpoints")
    only = parser.parse_args().only
    chosen = [stranger for stranger in STRANGERS if only in stranger.name]
    wrong = 0
    print("| checkpoint | verb | seconds | what was said |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sound = write_checkpoint(Path(folder, "sound"))
        for number, stranger in enumerate(chosen):
            root = Path(folder, str(number))
            root.mkdir()
            for outcome in visit(stranger, sound, root):
                wrong += bool(outcome.wrong)
                said = f"**{outcome.wrong}** {outcome.said}" if outcome.wrong else outcome.said or "done"
                said = said.replace(folder, "…").replace("|", "\\|")
                print(f"| {stranger.name} | {outcome.verb} | {outcome.seconds:.1f} | {said} |", flush=True)
    print(f"\n{len(chosen)} checkpoints, {wrong} verbs that ended wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
