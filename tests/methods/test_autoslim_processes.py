"""AutoSlim in two processes of torchrun: both find the same, and what one process finds where batches do not matter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from autoslim_processes import front_of, task
from safetensors.torch import load_file

from secateur.methods.autoslim import Front


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("autoslim_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, str(script), str(folder)], env=environment, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr.decode()
    return folder


def test_two_processes_search_as_one(left: Path) -> None:
    both = [json.loads((left / f"front-None-{rank}.json").read_text()) for rank in (0, 1)]
    assert both[0] == both[1]
    found, alone = Front.from_json(both[0]), front_of(task(), None)
    # Every sample is counted once, by one of the processes; sums of counts are exact.
    assert found.configurations[0].samples == alone.configurations[0].samples == 24
    assert [dict(one.widths) for one in found.configurations] == [dict(one.widths) for one in alone.configurations]
    assert [one.right for one in found.configurations] == [one.right for one in alone.configurations]


def test_a_shortlist_is_the_same_on_both(left: Path) -> None:
    # It looks at the first batch of every process, so one process alone may choose others.
    fronts = [json.loads((left / f"front-1-{rank}.json").read_text()) for rank in (0, 1)]
    assert fronts[0] == fronts[1]
    tried = [[one for one in step["candidates"] if one["samples"]] for step in fronts[0]["configurations"][1:]]
    assert all(len(candidates) == 1 for candidates in tried)


def test_a_whole_run_ends_with_the_same_network_on_both(left: Path) -> None:
    plans = [(left / f"plan-{rank}.json").read_text() for rank in (0, 1)]
    assert plans[0] == plans[1]
    models = [load_file(left / f"model-{rank}.safetensors") for rank in (0, 1)]
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)
