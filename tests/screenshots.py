"""The pictures of docs/ui.md: pages of Dagster's UI on a project that was built, as a browser of 1440 pixels shows them.

    make demo && .venv/bin/python -m tests.screenshots          # all of them
    .venv/bin/python -m tests.screenshots variant --out /tmp    # some, elsewhere

A recipe with an error is added for the time, and a build is begun and cancelled, as two of the pages are of that.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import CHROMIUM

WIDTH, HEIGHT = 1440, 1000
MAX_BYTES = 200_000
PATIENCE = 300.0
IMAGES = Path(__file__).parents[1] / "docs" / "images"
TYPO = "merge_method: linear\nmodels:\n  - {model: examples/checkpoints/scripture, parameters: {wieght: 1}}\n"

# Page, words that are there when it is, and what comes to the top.
PAGES = {
    "ui-lineage": ("/assets/scores/demo/pruned?view=lineage&lineageScope=upstream&lineageDepth=5", "pruned", None),
    "ui-variant": ("/assets/variants/dus", "outcome", "Metadata"),
    "ui-snr": ("/assets/snr/examples/checkpoints/base", "outcome", "Metadata"),
    "ui-score": ("/assets/scores/demo/linear", "outcome", "Metadata"),
    "ui-broken": ("/assets/broken/typo", "BROKEN", None),
    "ui-runs": ("/runs", "merge-assets build", None),
    "ui-cancelled": ("/runs/RUN", "stopped because", "stopped because"),
}


@contextmanager
def ui() -> Iterator[str]:
    """The address of the UI of the project around the working directory."""
    command = [sys.executable, "-m", "merge_assets", "ui", "--port", "0", "--no-daemon"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.match(r"(http://\S+)", line):
                    yield found[1]
                    return
        finally:
            process.terminate()


def cancelled_run() -> str:
    """The id of a run that was cancelled while it merged."""
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        before = {run.run_id for run in instance.get_runs()}
        command = [sys.executable, "-m", "merge_assets", "build", "slerp-gradient", "--force"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and process.poll() is None:
                begun = [run for run in instance.get_runs() if run.run_id not in before]
                if begun and instance.all_logs(begun[0].run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION):
                    instance.run_launcher.terminate(begun[0].run_id)
                    process.wait(PATIENCE)
                    return begun[0].run_id
                time.sleep(0.5)
            process.terminate()
    raise SystemExit("no run that could be cancelled was begun")


def shoot(browser: Any, address: str, name: str, run_id: str) -> bytes:
    """A page as a PNG."""
    path, words, top = PAGES[name]
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(address + path.replace("RUN", run_id))
    page.get_by_text(words).first.wait_for()
    if top is not None:
        page.get_by_text(top, exact=top != words).first.evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(8000)  # graphs are laid out, and pictures in Markdown are loaded
    png: bytes = page.screenshot()
    page.close()
    return png


def reduced(png: bytes) -> bytes:
    """The picture in as many colours as fit."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 64, 16):
        out = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(out, "png", optimize=True)
        if len(out.getvalue()) <= MAX_BYTES:
            break
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of docs/ui.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PAGES)}; default: all")
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    names = asked.names or list(PAGES)
    os.environ.setdefault("DAGSTER_HOME", str(Path("var/dagster").resolve()))
    run_id = cancelled_run() if "ui-cancelled" in names else ""
    typo = Path("recipes/typo.yaml")
    typo.write_text(TYPO)
    try:
        with ui() as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
            for name in names:
                (asked.out / f"{name}.png").write_bytes(reduced(shoot(browser, address, name, run_id)))
                print(asked.out / f"{name}.png", flush=True)
            browser.close()
    finally:
        typo.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
