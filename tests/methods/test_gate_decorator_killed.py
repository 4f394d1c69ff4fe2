"""Gate Decorator really killed, inside Tocks and inside Ticks, ends in the same plan and bytes as unbroken."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from secateur.training import Store

SCRIPT = Path(__file__).with_name("gate_decorator_run.py")


def run(*words: object, killed: bool = False) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], env=environment, stderr=subprocess.PIPE)
    assert process.returncode == (-signal.SIGKILL if killed else 0), process.stderr.decode()


def begun(folder: Path) -> tuple[str, int, int]:
    """Return the phase that was interrupted, and the epoch and step of its checkpoint."""
    for path in sorted((folder / "phases").glob("*.safetensors")):
        saved = Store(folder).phase(path.stem).load()
        assert saved is not None
        if not saved.state.done:
            return path.stem, saved.state.cursor.epoch, saved.state.cursor.step
    return "", 0, 0


def test_killed_inside_a_tock_and_inside_ticks(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    unbroken, continued = tmp_path / "unbroken.safetensors", tmp_path / "continued.safetensors"
    run(one, unbroken)
    # A Tock has 2 epochs of 7 steps, a Tick 5 steps; there is a checkpoint every 3 steps and at the end of an epoch.
    run(other, continued, 19, killed=True)  # 14 steps of the first Tock, and in the fifth of the first Tick
    assert begun(other) == ("tick-1", 0, 3)
    run(other, continued, 19, killed=True)  # 2 that are left, 5 of the second Tick, and in the twelfth of the Tock
    assert begun(other) == ("tock-2", 1, 3)
    assert not continued.exists()
    run(other, continued)
    assert continued.read_bytes() == unbroken.read_bytes()
    steps = [path.with_name(f"{path.name}.steps.json").read_bytes() for path in (unbroken, continued)]
    assert steps[0] == steps[1]
    with safe_open(continued, "pt") as file:
        decided = json.loads(file.metadata()["decided"])
    assert {"tock-0", "tick-1", "tick-2", "tock-2", "finetune", "cooldown"} <= set(decided["phases"])
    assert len(decided["plan"]["kept"]) > 1
