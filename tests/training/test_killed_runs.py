"""Runs that are really killed, and continued by fresh processes, end in the same bytes as the unbroken run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(*words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, words)], env=environment, stderr=subprocess.PIPE)


def run(*words: object, killed: bool = False) -> None:
    process = start(*words)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if killed else 0), errors.decode()


def kill_at_random(*words: object, within_seconds: float) -> None:
    """Kill a run at any moment: while it imports, in a step, in a write, or not at all."""
    process = start(*words)
    time.sleep(random.Random("kill").uniform(0.5, 1.0) * within_seconds)
    process.kill()
    process.communicate()


# "score" has 7 steps per epoch, "tune" has 5; both have 2 epochs and a checkpoint every 3 steps.
@pytest.mark.parametrize(
    ("optimizer", "deaths"),
    [("sgd", ["score:5", "write:2", "tune:2", "write:1"]), ("adamw", ["score:9", "random", "tune:4"])],
)
def test_killed_and_continued_equals_unbroken(tmp_path: Path, optimizer: str, deaths: list[str]) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    began = time.monotonic()
    run(tmp_path / "one", unbroken, optimizer)
    seconds = time.monotonic() - began
    for death in deaths:
        if death == "random":
            kill_at_random(tmp_path / "other", tmp_path / "any", optimizer, within_seconds=seconds)
        elif death == "tune:4" and (tmp_path / "any").exists():
            break  # the random moment was after the end, so nothing is left to be killed
        else:
            run(tmp_path / "other", continued, optimizer, death, killed=True)
    assert not continued.exists()
    run(tmp_path / "other", continued, optimizer)
    assert continued.read_bytes() == unbroken.read_bytes()
    with safe_open(continued, "pt") as file:
        assert file.get_tensor("sums").sum() > 0
    assert not list((tmp_path / "other").rglob("*.part"))
