"""A command in two processes, of which the first takes over what the second says, and ends what it leaves."""

import subprocess
import sys

import psutil
import pytest

PROGRAM = """\
import os, signal, subprocess, sys
from merge_assets.errors import SettingsError
from merge_assets.pipeline.front.warden import watched
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever runs the tests may ignore it
mine = subprocess.Popen(["sleep", "600"])
def command():
    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("left", left.pid, flush=True)
    {body}
try:
    print("code", watched(command))
except SettingsError as error:
    print("error", error, error.kind)
print("mine", mine.poll())
mine.kill()
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 3", "code 3"),
        ("raise SettingsError('ui_token: is too short')", "error ui_token: is too short settings"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "code 137"),
        ("raise ValueError('a defect')", "code 1"),
    ],
)
def test_how_a_command_ended_is_told_once_and_what_it_left_is_ended(body: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=True, timeout=300
    )
    left, *rest = done.stdout.splitlines()
    assert rest == [said, "mine None"], "a child that was there before is nobody's business"
    assert not psutil.pid_exists(int(left.split()[1]))
    assert ("a defect" in done.stderr) == ("defect" in body)
