"""Runs that are really killed, and continued by fresh processes, end in the same bytes as the unbroken run."""

import random
import time
from pathlib import Path

import pytest
from own_process import run, run_here, start
from safetensors import safe_open

SCRIPT = Path(__file__).with_name("killed_run.py")


def kill_at_random(folder: Path, out: Path, optimizer: str) -> None:
    """Kill a run at any moment: before its first step, in a step, in a write, or not at all.

    Whichever it is, what follows must be the same; so it is the last death of a run.
    """
    began = time.monotonic()
    run(SCRIPT, f"{folder}-timed", f"{out}-timed", optimizer)
    seconds = time.monotonic() - began
    process = start(SCRIPT, folder, out, optimizer)
    time.sleep(random.Random("kill").uniform(0.5, 1.0) * seconds)
    process.kill()


# "score" has 7 steps per epoch, "tune" has 5; both have 2 epochs and a checkpoint every 3 steps.
@pytest.mark.parametrize(
    ("optimizer", "deaths"),
    [("sgd", ["score:5", "write:2", "tune:2", "write:1"]), ("adamw", ["score:9", "tune:4", "random"])],
)
def test_killed_and_continued_equals_unbroken(tmp_path: Path, optimizer: str, deaths: list[str]) -> None:
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run_here(SCRIPT, tmp_path / "one", unbroken, optimizer)
    for death in deaths:
        if death == "random":
            kill_at_random(tmp_path / "other", tmp_path / "any", optimizer)
        else:
            run(SCRIPT, tmp_path / "other", continued, optimizer, death, killed=True)
    assert not continued.exists()
    run(SCRIPT, tmp_path / "other", continued, optimizer)
    assert continued.read_bytes() == unbroken.read_bytes()
    with safe_open(continued, "pt") as file:
        assert file.get_tensor("sums").sum() > 0
    assert not list((tmp_path / "other").rglob("*.part"))
