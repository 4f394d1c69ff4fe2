"""Gate Decorator really killed, inside Tocks and inside Ticks, ends in the same plan and bytes as unbroken."""

import json
from pathlib import Path

from own_process import run, run_here
from safetensors import safe_open

from secateur.training import Store

SCRIPT = Path(__file__).with_name("gate_decorator_run.py")


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
    run_here(SCRIPT, one, unbroken)
    # A Tock has 2 epochs of 7 steps, a Tick 5 steps; there is a checkpoint every 3 steps and at the end of an epoch.
    run(SCRIPT, other, continued, 19, killed=True)  # 14 of the first Tock, and in the fifth of the first Tick
    assert begun(other) == ("tick-1", 0, 3)
    run(SCRIPT, other, continued, 19, killed=True)  # 2 that are left, 5 of the second Tick, in the twelfth of the Tock
    assert begun(other) == ("tock-2", 1, 3)
    assert not continued.exists()
    run(SCRIPT, other, continued)
    assert continued.read_bytes() == unbroken.read_bytes()
    steps = [path.with_name(f"{path.name}.steps.json").read_bytes() for path in (unbroken, continued)]
    assert steps[0] == steps[1]
    with safe_open(continued, "pt") as file:
        decided = json.loads(file.metadata()["decided"])
    assert {"tock-0", "tick-1", "tick-2", "tock-2", "finetune", "cooldown"} <= set(decided["phases"])
    assert len(decided["plan"]["kept"]) > 1
