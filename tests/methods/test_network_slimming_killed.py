"""A run of Network Slimming that is really killed, in a process of its own, and continued.

As a script: test_network_slimming_killed.py FOLDER OUT STEPS, killed after so many training steps of this process (0:
never).
"""

import json
import sys
from pathlib import Path

from own_process import run
from test_network_slimming_runs import QUICK, blobs_task, chain

from secateur.methods.network_slimming import NetworkSlimming
from secateur.training import Store


def killed_run(folder: str, out: str, kill_after: str) -> None:
    method = NetworkSlimming(
        ratio=0.4,
        start="scratch",
        passes=2,
        sparse_epochs=2,
        finetune_epochs=2,
        training=QUICK,
        penalty=1e-3,
        compensation="everywhere",
    )
    result = method.compress(chain(padding=1), blobs_task(int(kill_after)), None, store=Store(folder))
    content = {
        "plan": result.plan.to_json(),
        "weights": {name: value.tolist() for name, value in result.model.state_dict().items()},
        "steps": [[step.scores, step.kept, step.accuracy] for step in result.record.steps],
        "notes": result.record.notes,
    }
    Path(out).write_text(json.dumps(content))


def test_killed_and_continued_equals_unbroken(tmp_path: Path) -> None:
    broken = (Path(__file__), tmp_path / "broken", tmp_path / "broken.json")
    # A pass has 6 steps with the penalty and 6 of fine-tuning; a process counts its own steps.
    run(*broken, 4, killed=True)  # in the first sparse phase
    run(*broken, 11, killed=True)  # in the second one, after a cut
    assert not (tmp_path / "broken.json").exists()
    for folder in ("unbroken", "broken"):
        killed_run(str(tmp_path / folder), str(tmp_path / f"{folder}.json"), "0")
    assert (tmp_path / "broken.json").read_bytes() == (tmp_path / "unbroken.json").read_bytes()


if __name__ == "__main__":
    killed_run(*sys.argv[1:])
