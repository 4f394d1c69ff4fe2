"""Time what gates and sparsity add to a training step: Ticks, Tocks and slimming against plain training, in turn.

Run with `.venv/bin/python benchmarks/gates.py` from the checkout's root. Every loop is a whole call of
`SupervisedTask.train` over the same two batches of 128 images of 32 × 32 (random ones; speed does not depend on what
they show), without augmentation, so that nothing hides a difference. Models, gates and hooks are made outside the
timing. A Tick (gates, scores of every mini-batch, convolutions still) is compared with training the network without
gates, its convolutions still as well; a Tock (gates and their penalty) and a sparse step of slimming (the sub-gradient
of the scales) with plain training. For comparison: the Taylor scores of activations, and of gates without gates, both
by the `Accumulator` as a hook of training; and plain training once more, whose ratio shows how far the others can be
trusted. Ratios are medians over rounds in which all loops took their turn. The record goes to
`benchmarks/records/gates.json`; `benchmarks/tables.py` makes the table of it.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.criteria import Accumulator
from secateur.data import NORMALIZATIONS, LabelledImages, MemorySource
from secateur.files import write_text
from secateur.gates import Gates, TickScores, decorate, gate_penalty
from secateur.graph import ChannelGraph, trace
from secateur.methods.gate_decorator.phases import still_in_a_tick
from secateur.methods.network_slimming.sparsity import ScaleSparsity
from secateur.models import build_model
from secateur.record import environment
from secateur.training import SupervisedTask, TrainSettings, set_threads

BATCH_SIZE = 128
BATCHES = 2  # in one turn
SETTINGS = TrainSettings(batch_size=BATCH_SIZE, learning_rate=1e-3, augment=False, evaluate_every=0)
WEIGHT = 1e-4  # λ of either penalty

PLAIN, STILL = "plain", "plain, convolutions still"


@dataclass(frozen=True)
class Turn:
    """One loop, ready to be timed: everything but the training itself is done."""

    model: nn.Module
    hooks: list[object]
    frozen: list[str]
    around: AbstractContextManager[object]


@dataclass(frozen=True)
class Arm:
    """What is timed, and against what."""

    title: str
    against: str
    limit: float | None  # of the ratio; None where it is only for comparison
    made: Callable[["Network"], Turn]


@dataclass(frozen=True)
class Network:
    """A network with gates and without."""

    plain: nn.Module
    graph: ChannelGraph
    decorated: nn.Module
    gates: Gates

    @classmethod
    def named(cls, name: str) -> "Network":
        """Build an untrained one."""
        torch.manual_seed(0)
        plain = build_model(name)
        graph = trace(plain, torch.zeros(2, 3, 32, 32))
        decorated = copy.deepcopy(plain)
        return cls(plain, graph, decorated, decorate(decorated, graph))

    def turn(
        self, *, gated: bool = False, still: bool = False, hook: Callable[[nn.Module], object] | None = None
    ) -> Turn:
        """Return a loop over a fresh copy; ``hook`` makes its hook."""
        model = copy.deepcopy(self.decorated if gated else self.plain)
        frozen = still_in_a_tick(model, self.gates, "all-but-convolutions") if still else []
        made = None if hook is None else hook(model)
        around = made if isinstance(made, Accumulator) else nullcontext()
        return Turn(model, [] if made is None else [made], frozen, around)


def scales(model: nn.Module) -> Iterator[str]:
    """Yield the names of γ of all batch norms."""
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield f"{path}.weight"


BASES: dict[str, Callable[[Network], Turn]] = {
    PLAIN: lambda network: network.turn(),
    STILL: lambda network: network.turn(still=True),
}

ARMS = {
    "control": Arm("plain once more", PLAIN, None, BASES[PLAIN]),
    "tick": Arm(
        "Tick",
        STILL,
        1.10,
        lambda network: network.turn(gated=True, still=True, hook=lambda _: TickScores(network.gates)),
    ),
    "tock": Arm(
        "Tock",
        PLAIN,
        1.05,
        lambda network: network.turn(gated=True, hook=lambda _: gate_penalty(network.gates, WEIGHT)),
    ),
    "slimming": Arm(
        "slimming, sub-gradient",
        PLAIN,
        1.05,
        lambda network: network.turn(hook=lambda model: ScaleSparsity(scales(model), WEIGHT)),
    ),
    "activation_taylor": Arm(
        "Taylor scores of activations",
        PLAIN,
        None,
        lambda network: network.turn(hook=lambda model: Accumulator(network.graph, model, "activation_taylor")),
    ),
    "gate_taylor": Arm(
        "Taylor scores of gates, without gates",
        PLAIN,
        None,
        lambda network: network.turn(hook=lambda model: Accumulator(network.graph, model, "gate_taylor")),
    ),
}


def images() -> MemorySource:
    """Return random images for one turn."""
    generator = torch.Generator().manual_seed(0)
    count = BATCHES * BATCH_SIZE
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    found = LabelledImages(pixels, torch.arange(count) % 10)
    return MemorySource(
        name="random", train=found, test=found, validation_share=0.0, normalization=NORMALIZATIONS["cifar10"]
    )


def time_in_turn(
    network: Network, task: SupervisedTask, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds, and seconds of processor time, of each loop in each round after the first, which warms up."""
    loops = {**BASES, **{name: arm.made for name, arm in ARMS.items()}}
    wall: dict[str, list[float]] = {name: [] for name in loops}
    busy: dict[str, list[float]] = {name: [] for name in loops}
    names, order = list(loops), torch.Generator().manual_seed(0)
    gc.collect()
    gc.freeze()  # so that a collection before each measurement is a matter of microseconds
    for number in range(rounds + 1):
        # In an order of its own each round, so that none always follows the same other one.
        for place in torch.randperm(len(names), generator=order).tolist():
            name = names[place]
            turn = loops[name](network)
            gc.collect()
            with turn.around:
                began, began_busy = time.perf_counter(), time.process_time()
                task.train(turn.model, epochs=1, hooks=turn.hooks, frozen=turn.frozen)
                ended, ended_busy = time.perf_counter(), time.process_time()
            if number > 0:
                wall[name].append(ended - began)
                busy[name].append(ended_busy - began_busy)
    return wall, busy


def compare(model: str, threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each arm on one network."""
    set_threads(threads)
    network = Network.named(model)
    task = SupervisedTask(images(), settings=SETTINGS, device="cpu")
    wall, busy = time_in_turn(network, task, rounds)
    for name, arm in ARMS.items():
        ratio = _ratio(wall, name, arm.against)
        yield {
            "network": model,
            "threads": threads,
            "arm": name,
            "title": arm.title,
            "against": arm.against,
            "batch_size": BATCH_SIZE,
            "batches": BATCHES,
            "step_ms": 1e3 * statistics.median(wall[name]) / BATCHES,
            "against_step_ms": 1e3 * statistics.median(wall[arm.against]) / BATCHES,
            "ratio": ratio,
            "ratio_of_processor_time": _ratio(busy, name, arm.against),
            "limit": arm.limit,
            "met": None if arm.limit is None else ratio <= arm.limit,
            "seconds": wall[name],
            "against_seconds": wall[arm.against],
        }


def _ratio(seconds: dict[str, list[float]], name: str, against: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[against], strict=True))


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=20, help="in which all loops take their turn, after a warm-up")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "gates.json")
    options = parser.parse_args()
    began, before = time.perf_counter(), os.getloadavg()
    rows = []
    for model in options.models:
        for threads in options.threads:
            for row in compare(model, threads, options.rounds):
                rows.append(row)
                limit = (
                    "" if row["limit"] is None else f", limit {row['limit']:.2f} {'met' if row['met'] else 'MISSED'}"
                )
                print(
                    f"{model}, {threads} thread(s), {row['title']:38} {row['step_ms']:7.1f} ms a step, "
                    f"{row['ratio']:.3f} × {row['against']} ({row['ratio_of_processor_time']:.3f} of processor time)"
                    f"{limit}",
                    flush=True,
                )
    record = {
        "benchmark": "gates",
        "environment": asdict(environment(torch.device("cpu"))),
        "load_average": {"before": before, "after": os.getloadavg(), "cores": os.cpu_count()},
        "rounds": options.rounds,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
