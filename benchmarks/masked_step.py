"""Time a training step that keeps masks against the plain one, in turn: the aim is at most 1.10 times as long.

Run with `.venv/bin/python benchmarks/masked_step.py` from the checkout's root; a few minutes on two cores. Both are the
whole call of `SupervisedTask.train` on random images held in memory, quiet, without evaluation or checkpoints; one has
the hook `KeepMasks` at 90 % sparsity, which zeroes weights and the optimiser's state after every step. Both start each
round from the same masked weights, copied outside the timing, and rounds begin with the one and the other in turn. The
ratio is the median over paired rounds. `--rounds`, `--cases` and `--threads` shorten it. The record goes to
`benchmarks/records/masked_step.json`.
"""

import argparse
import copy
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from secateur.data import LabelledImages, MemorySource
from secateur.files import write_text
from secateur.models import build_model
from secateur.record import environment
from secateur.sparse import KeepMasks, by_global_share
from secateur.training import SupervisedTask, TrainSettings

BATCH_SIZE = 128
SPARSITY = 0.9
TARGET = 1.10


@dataclass(frozen=True)
class Case:
    """A network, its images, its optimiser, and how many steps a round has."""

    model: str
    shape: tuple[int, int, int]
    optimizer: Literal["sgd", "adamw"]
    steps: int


CASES = {
    "lenet-300-100": Case("lenet-300-100", (1, 28, 28), "sgd", 100),
    "lenet-300-100-adamw": Case("lenet-300-100", (1, 28, 28), "adamw", 100),
    "lenet5": Case("lenet5", (1, 28, 28), "sgd", 20),
    "lenet5-adamw": Case("lenet5", (1, 28, 28), "adamw", 20),
    "resnet20": Case("resnet20", (3, 32, 32), "sgd", 3),
    "vgg16-gd": Case("vgg16-gd", (3, 32, 32), "sgd", 1),
}


def compare(name: str, case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """Time both kinds of training on one network, in turn, and return a row."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    count = case.steps * BATCH_SIZE
    pixels = torch.randint(0, 256, (count, *case.shape), generator=generator, dtype=torch.uint8)
    images = LabelledImages(pixels, torch.arange(count) % 10)
    data = MemorySource(name="random", train=images, validation=images, test=images)
    torch.manual_seed(0)
    model = build_model(case.model)
    masks = by_global_share(model, SPARSITY)
    masks.apply_(model)
    settings = TrainSettings(
        batch_size=BATCH_SIZE, optimizer=case.optimizer, learning_rate=1e-3, augment=False, evaluate_every=0
    )
    task = SupervisedTask(data, settings=settings, device="cpu")
    loops: dict[str, Callable[[nn.Module], object]] = {
        "plain": lambda network: task.train(network, epochs=1),
        "masked": lambda network: task.train(network, epochs=1, hooks=[KeepMasks(masks)]),
    }
    seconds = time_in_turn(loops, model, rounds)
    per_step = {kind: statistics.median(found) / case.steps * 1000 for kind, found in seconds.items()}
    return {
        "case": name,
        "workload": f"{case.model}, {case.optimizer}",
        "threads": threads,
        "batch_size": BATCH_SIZE,
        "sparsity": SPARSITY,
        "masked_weights": masks.size(),
        "steps_per_round": case.steps,
        "plain_ms_per_step": per_step["plain"],
        "masked_ms_per_step": per_step["masked"],
        "ratio": statistics.median(m / p for p, m in zip(seconds["plain"], seconds["masked"], strict=True)),
        "target": TARGET,
        "plain_s": seconds["plain"],
        "masked_s": seconds["masked"],
    }


def time_in_turn(
    loops: dict[str, Callable[[nn.Module], object]], model: nn.Module, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each loop in each round after the first, which warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    gc.collect()
    gc.freeze()  # so that a collection before each measurement is a matter of microseconds
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            fresh = copy.deepcopy(model)
            gc.collect()
            start = time.perf_counter()
            loops[name](fresh)
            elapsed = time.perf_counter() - start
            if number > 0:
                seconds[name].append(elapsed)
    return seconds


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15, help="paired rounds after the warm-up")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "masked_step.json")
    options = parser.parse_args()
    began = time.perf_counter()
    rows = []
    for name in options.cases:
        for threads in options.threads:
            row = compare(name, CASES[name], threads, options.rounds)
            rows.append(row)
            print(
                f"{row['workload']:22} {threads} thread(s): {row['plain_ms_per_step']:8.2f} ms plain, "
                f"{row['masked_ms_per_step']:8.2f} ms masked, ratio {row['ratio']:.3f}, "
                f"target {TARGET:.2f} {'met' if row['ratio'] <= TARGET else 'MISSED'}",
                flush=True,
            )
    record = {
        "benchmark": "masked_step",
        "environment": asdict(environment(torch.device("cpu"))),
        "machine": platform.machine(),
        "load_average": os.getloadavg(),  # above the number of threads, somebody else computed too
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
