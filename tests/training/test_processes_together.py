import ast
import socket
from pathlib import Path

import pytest
from own_process import start
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

SCRIPT = Path(__file__).with_name("parallel_run.py")


def header(path: Path) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        return {key: ast.literal_eval(value) for key, value in file.metadata().items()}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path: Path, free_port: int) -> None:
    alone, together = tmp_path / "alone.safetensors", tmp_path / "together.safetensors"
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    processes = [start(SCRIPT, tmp_path / "two", together, RANK=rank, LOCAL_RANK=rank, **shared) for rank in (0, 1)]
    processes.append(start(SCRIPT, tmp_path / "one", alone))
    for process in processes:
        process.end()
    assert_close(load_file(together), load_file(alone), rtol=1e-4, atol=1e-6)
    one, two = header(alone), header(together)
    assert (one["samples"], two["samples"]) == ([37] * 3, [37] * 3)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["evaluation"] == pytest.approx(one["evaluation"], rel=1e-5)
