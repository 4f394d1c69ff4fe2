"""Reading processes that die, are really killed, or have no memory to hand over what they read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from secateur.data import StreamingSource
from secateur.data.workers import _Deferring, _explanation
from secateur.errors import DataError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="there are no such signals here")


class Rows(Dataset[tuple[Tensor, int]]):
    """Rows of which one ends the process that reads it, or is very slow."""

    def __init__(self, count: int = 40, *, fatal: int | None = None, slow_from: int | None = None) -> None:
        self.targets = [row % 2 for row in range(count)]
        self.fatal, self.slow_from = fatal, slow_from
        self.main = os.getpid()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if os.getpid() != self.main:
            if row == self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.slow_from is not None and row >= self.slow_from:
                time.sleep(30)
        return torch.full((1, 4, 4), row, dtype=torch.uint8), self.targets[row]


def batches(train: Rows, workers: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    data = StreamingSource(name="made", train=train, test=Rows(4), workers=workers, validation_share=0.0)
    return data.batches("train", batch_size=4)


def worker_pids() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_a_worker_that_is_killed_while_it_is_waited_for_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"a reading process of made \(pid \d+\) was killed, .*fewer workers") as caught:
        list(batches(Rows(fatal=17)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_batches_come_over_as_they_were_read(kind: torch.dtype) -> None:
    images = torch.arange(7 * 2 * 3 * 5).view(7, 2, 3, 5).remainder(251).to(kind)
    rows = TensorDataset(images, torch.arange(7) % 2)
    found = []
    for workers in (0, 2):
        data = StreamingSource(name="made", train=rows, test=rows, workers=workers, validation_share=0.0, peak=1.0)
        found.append(torch.cat([x for x, _ in data.batches("train", batch_size=3)]))
    assert found[0].equal(found[1])
    assert found[0].equal(images.float())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found through /proc")
def test_a_worker_that_is_killed_meanwhile_does_not_disturb_the_main_process() -> None:
    made = batches(Rows(slow_from=4))
    before = set(worker_pids())
    next(made)
    (worker,) = set(worker_pids()) - before
    os.kill(worker, signal.SIGKILL)
    # The signal arrives in the middle of this, where torch alone would raise.
    ended = time.monotonic() + 0.5
    while time.monotonic() < ended:
        torch.ones(10).sum()
    with pytest.raises(DataError, match="was killed"):
        list(made)


def test_loaders_of_others_raise_as_they_always_did() -> None:
    def inner(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 4194999) is killed by signal: Killed. ")

    with pytest.raises(RuntimeError, match="pid 4194999"):
        _Deferring(inner)(signal.SIGCHLD, None)


@pytest.mark.parametrize(
    ("text", "ended", "hint"),
    [
        ("Connection reset by peer", (7, -signal.SIGBUS), "(pid 7) ran out of shared memory"),
        ("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)", None, "--shm-size"),
        ("Connection reset by peer", (7, -signal.SIGKILL), "(pid 7) was killed, as happens where memory runs out"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", (7, 3), "(pid 7) ended with exit code 3"),
        ("DataLoader worker (pid 7) is killed by signal", (7, -signal.SIGSEGV), "(pid 7) was ended by SIGSEGV"),
        ("Too many open files. Communication with the workers", None, "ulimit -n"),
        ("Caught ValueError in DataLoader worker process 0.\nTraceback\nValueError: odd", None, "ValueError: odd"),
    ],
)
def test_what_happened_becomes_what_to_do(text: str, ended: tuple[int, int] | None, hint: str) -> None:
    sentence = _explanation(RuntimeError(text), "made", ended)
    assert hint in sentence
    assert "workers" in sentence
    assert "\n" not in sentence


LIMITED = """
import resource, torch
from torch.utils.data import TensorDataset
from secateur.data import StreamingSource
from secateur.errors import DataError
rows = TensorDataset(torch.zeros(64, 3, 64, 64, dtype=torch.uint8), torch.arange(64) % 2)
data = StreamingSource(name="made", train=rows, test=rows, workers=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    list(data.batches("train", batch_size=32))
except DataError as error:
    print(error)
"""


def test_no_room_to_hand_over_a_batch_is_one_sentence_and_no_endless_waiting() -> None:
    """The limit on the size of a file stands for a full /dev/shm."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("a reading process of made"), done
    assert "ran out of shared memory" in done.stdout
    assert "Traceback" not in done.stderr
