"""The capacity of oneDNN's cache counts if it is set before the first convolution, after torch is imported."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys
import torch
from secateur.slimmable import enlarge_primitive_cache
torch.set_num_threads(1)
print("set:", enlarge_primitive_cache(int(sys.argv[1])))
for _ in range(2):
    for channels in (8, 16, 24):
        torch.nn.functional.conv2d(torch.zeros(4, 8, 32, 32), torch.zeros(channels, 8, 3, 3))
"""


def run(capacity: int, **more: str) -> str:
    environment = {key: value for key, value in os.environ.items() if "PRIMITIVE_CACHE" not in key}
    environment.update(OMP_NUM_THREADS="1", ONEDNN_VERBOSE="profile_create", **more)
    command = [sys.executable, "-c", SCRIPT, str(capacity)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def compiled(output: str) -> int:
    return sum("cache_miss" in line and ",convolution," in line for line in output.splitlines())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch computes without oneDNN here")
def test_the_capacity_counts_and_a_users_own_stays() -> None:
    room = run(64)
    assert "set: True" in room
    assert compiled(room) == 3
    assert compiled(run(1)) == 6
    own = run(64, ONEDNN_PRIMITIVE_CACHE_CAPACITY="1")
    assert "set: False" in own
    assert compiled(own) == 6
