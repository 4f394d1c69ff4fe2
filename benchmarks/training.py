"""Time the training loop against a bare forward–backward–step loop on tensors in memory, in turn.

Run with `.venv/bin/python benchmarks/training.py` from the checkout's root. Ours is the whole call of
`SupervisedTask.train`: shuffled, augmented or not, losses read and checked, quiet, without evaluation and checkpoints.
The bare loop takes slices of one normalised float tensor in stored order, never augments and never reads a loss; it
runs with torch's default SGD and with the fused one, and the ratio counts against the faster. All start each round from
the same weights, copied outside the timing. `--rounds` and `--cases` shorten it. The record goes to
`benchmarks/records/training.json`; `benchmarks/tables.py` makes the table in `docs/benchmarks.md` of it.
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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.data import NORMALIZATIONS, Augmentation, DataSource, LabelledImages, MemorySource, load_data
from secateur.errors import DataError
from secateur.files import write_text
from secateur.models import build_model
from secateur.record import environment
from secateur.training import SupervisedTask, TrainSettings

BATCH_SIZE = 128
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TARGETS = {True: 0.9, False: 0.95}  # with and without augmentation


@dataclass(frozen=True)
class Case:
    """A network and its data."""

    title: str
    model: str
    spec: str
    normalize: str
    augmentation: Augmentation
    stand_in: tuple[int, ...]  # shape of the random images where the data is not beside the checkout
    samples: int  # trained on in one round
    rounds: int


CASES = {
    "cifar10": Case(
        title="CIFAR-10/ResNet-20",
        model="resnet20",
        spec=f"parquet:{SHARED / 'cifar10-lossless'}",
        normalize="cifar10",
        augmentation=Augmentation(padding=4, flip=True),
        stand_in=(5085, 3, 32, 32),
        samples=3 * BATCH_SIZE,
        rounds=12,
    ),
    "mnist": Case(
        title="MNIST/LeNet-300-100",
        model="lenet-300-100",
        spec="mnist",
        normalize="mnist",
        augmentation=Augmentation(padding=2),
        stand_in=(60_000, 1, 28, 28),
        samples=421 * BATCH_SIZE,  # the whole batches of its 54,000 training images
        rounds=11,
    ),
}


def load(case: Case) -> tuple[DataSource, str]:
    """Return the data of a case and what it is: real, or random of the same shape."""
    try:
        return load_data(case.spec, root=SHARED, normalize=case.normalize), "real"
    except DataError:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, case.stand_in, generator=generator, dtype=torch.uint8)
        images = LabelledImages(pixels, torch.arange(len(pixels)) % 10)
        normalization = NORMALIZATIONS[case.normalize]
        source = MemorySource(
            name="random", train=images, test=images, normalization=normalization, augmentation=case.augmentation
        )
        return source, "random"


def train_bare(model: nn.Module, images: Tensor, labels: Tensor, *, fused: bool | None) -> None:
    """Train for one pass as a user would write it, with nothing that is not needed."""
    settings = TrainSettings()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
    model.train()
    for start in range(0, len(images), BATCH_SIZE):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images[start : start + BATCH_SIZE]), labels[start : start + BATCH_SIZE])
        loss.backward()
        optimizer.step()


def compare(case: Case, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Time all four loops on one network, in turn, and return a row with augmentation and one without."""
    torch.set_num_threads(threads)
    data, kind = load(case)
    torch.manual_seed(0)
    model = build_model(case.model)
    chosen = torch.arange(case.samples)
    images, labels = next(iter(data.batches("train", batch_size=case.samples, indices=chosen)))

    def ours(augment: bool) -> Callable[[nn.Module], object]:
        settings = TrainSettings(batch_size=BATCH_SIZE, augment=augment, evaluate_every=0)
        task = SupervisedTask(data, settings=settings, device="cpu")
        return lambda model: task.train(model, epochs=1, subset=chosen)

    loops: dict[str, Callable[[nn.Module], object]] = {
        "augmented": ours(True),
        "plain": ours(False),
        "bare": lambda model: train_bare(model, images, labels, fused=None),
        "bare_fused": lambda model: train_bare(model, images, labels, fused=True),
    }
    seconds = time_in_turn(loops, model, rounds)
    common = {
        "workload": case.title,
        "data": "random of the same shape" if kind == "random" else case.spec.split("/")[-1],
        "data_is_real": kind == "real",
        "threads": threads,
        "batch_size": BATCH_SIZE,
        "samples_per_round": case.samples,
    }
    return [{**common, **_row(name, seconds, case.samples)} for name in ("augmented", "plain")]


def time_in_turn(
    loops: dict[str, Callable[[nn.Module], object]], model: nn.Module, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each loop in each round after the first, which warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    gc.collect()
    gc.freeze()  # so that a collection before each measurement is a matter of microseconds
    for number in range(rounds + 1):
        # Each round begins with another loop, so that none is always the first after a pause or the last.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            fresh = copy.deepcopy(model)
            gc.collect()
            start = time.perf_counter()
            loops[name](fresh)
            elapsed = time.perf_counter() - start
            if number > 0:
                seconds[name].append(elapsed)
    return seconds


def _row(ours: str, seconds: dict[str, list[float]], samples: int) -> dict[str, Any]:
    """Return medians of speeds and of their ratios in paired rounds; the ratio is the lower of the two."""
    ratios = {
        bare: statistics.median(b / o for o, b in zip(seconds[ours], seconds[bare], strict=True))
        for bare in ("bare", "bare_fused")
    }
    stricter = min(ratios, key=lambda bare: ratios[bare])
    return {
        "augment": ours == "augmented",
        "ours_images_per_s": samples / statistics.median(seconds[ours]),
        "bare_images_per_s": samples / statistics.median(seconds[stricter]),
        "ratio": ratios[stricter],
        "ratio_default_sgd": ratios["bare"],
        "ratio_fused_sgd": ratios["bare_fused"],
        "target": TARGETS[ours == "augmented"],
        "ours_s": seconds[ours],
        "bare_default_sgd_s": seconds["bare"],
        "bare_fused_sgd_s": seconds["bare_fused"],
    }


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, help="paired rounds after the warm-up; what suits the case by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "training.json")
    options = parser.parse_args()
    began = time.perf_counter()
    rows = []
    for name in options.cases:
        for threads in options.threads:
            for row in compare(CASES[name], threads, options.rounds or CASES[name].rounds):
                rows.append(row)
                print(
                    f"{row['workload']:22} {threads} thread(s), augmentation {'on ' if row['augment'] else 'off'}: "
                    f"{row['ours_images_per_s']:9,.0f} images/s, {row['ratio_default_sgd']:.3f} of bare, "
                    f"{row['ratio_fused_sgd']:.3f} of bare with fused SGD, "
                    f"target {row['target']:.2f} {'met' if row['ratio'] >= row['target'] else 'MISSED'}",
                    flush=True,
                )
    record = {
        "benchmark": "training",
        "environment": asdict(environment(torch.device("cpu"))),
        "machine": platform.machine(),
        "load_average": os.getloadavg(),  # above the number of threads, somebody else computed too
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
