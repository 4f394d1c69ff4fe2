"""Time a pass at some widths of a wide network against the same pass of the network that is cut to these widths.

Run with `.venv/bin/python benchmarks/slimmable.py` from the checkout's root; under five minutes of processor time. A
pass is forward and backward in training mode from gradients that are `None`, which is what every width of a sandwich
step pays; the narrow one enters and leaves its block and normalises by the batch, the cut one keeps running statistics.
A step has one step of SGD with momentum behind it, of all parameters of the wide network there and of the cut one's
here. Both take turns, in an order of its own each round; the ratio is the median over rounds, of wall time and of the
process's own time, which other work on the machine does not touch. `control` is the cut network against itself.

The second part counts what oneDNN's primitive cache is worth: passes at fourteen random widths, over and over, in a
process with its default capacity and in one with the capacity of `enlarge_primitive_cache`. `--rounds`, `--cases` and
`--threads` shorten all of it. The record goes to `benchmarks/records/slimmable.json`; `benchmarks/tables.py` makes the
tables of it.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.files import write_text
from secateur.graph import ChannelGraph, Plan, apply, narrowed, trace
from secateur.models import build_model
from secateur.record import environment
from secateur.slimmable import (
    WidthSpace,
    batch_statistics,
    enlarge_primitive_cache,
    plan_of,
    widened,
    width_space,
)
from secateur.training import set_threads

CLASSES = 10
LIMIT = 1.10
RANDOM_WIDTHS = 14  # of the second part, with more shapes than the default cache holds


@dataclass(frozen=True)
class Case:
    """A network, 1.5 times as wide as it is published, and its images."""

    model: str
    size: int  # pixels of a side
    batch: int


CASES = {
    "resnet20": Case("resnet20", 32, 32),
    "mobilenet_v2": Case("torchvision:mobilenet_v2", 64, 16),
    "densenet121": Case("torchvision:densenet121", 64, 4),
    "shufflenet_v2": Case("torchvision:shufflenet_v2_x1_0", 64, 16),
}


@dataclass(frozen=True)
class Wide:
    """A wide network with all that is needed to run it at some widths."""

    model: nn.Module
    graph: ChannelGraph
    space: WidthSpace
    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, case: Case) -> "Wide":
        """Build an untrained one."""
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(case.batch, 3, case.size, case.size, generator=generator)
        model = widened(build_model(case.model, num_classes=CLASSES), images[:2]).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        graph = trace(model, images[:2])
        return cls(model, graph, width_space(graph), images, torch.arange(case.batch) % CLASSES)

    def widths(self) -> dict[str, Plan]:
        """Return the plans that are timed, by name."""
        chosen = {
            "widest": self.space.largest(),
            "0.7 of every group": self.space.uniform(0.7),
            "random": self.space.sample(torch.Generator().manual_seed(0)),
            "0.4 of every group": self.space.uniform(0.4),
        }
        return {name: plan_of(self.graph, widths) for name, widths in chosen.items()}

    def passed(self, network: nn.Module, plan: Plan | None) -> None:
        """Run forward and backward, at the width of ``plan`` if there is one."""
        for parameter in network.parameters():
            parameter.grad = None
        with _norms(network, plan), nullcontext() if plan is None else narrowed(network, plan):
            loss = F.cross_entropy(network(self.images), self.labels)
        loss.backward()


def _norms(network: nn.Module, plan: Plan | None) -> Any:
    return nullcontext() if plan is None else batch_statistics(network)


def compare(name: str, wide: Wide, widths: str, plan: Plan, rounds: int, threads: int) -> dict[str, Any]:
    """Time one width, narrow and cut in turn, and return a row."""
    small, control = (apply(wide.model, plan, verify_with=None).train() for _ in range(2))
    network = copy.deepcopy(wide.model)
    steps = {
        id(model): torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True) for model in (small, network)
    }

    def step(model: nn.Module, plan: Plan | None) -> None:
        wide.passed(model, plan)
        steps[id(model)].step()

    loops: dict[str, Callable[[], None]] = {
        "cut": lambda: wide.passed(small, None),
        "control": lambda: wide.passed(control, None),
        "narrow": lambda: wide.passed(network, plan),
        "cut step": lambda: step(small, None),
        "narrow step": lambda: step(network, plan),
    }
    wall, busy = time_in_turn(loops, rounds)

    def ratio(kind: dict[str, list[float]], which: str, against: str) -> float:
        return statistics.median(a / b for a, b in zip(kind[which], kind[against], strict=True))

    return {
        "case": name,
        "widths": widths,
        "threads": threads,
        "share_of_macs": wide.graph.macs(plan) / wide.graph.macs(),
        "cut_ms": statistics.median(wall["cut"]) * 1000,
        "narrow_ms": statistics.median(wall["narrow"]) * 1000,
        "ratio": ratio(wall, "narrow", "cut"),
        "ratio_of_processor_time": ratio(busy, "narrow", "cut"),
        "step_ratio": ratio(wall, "narrow step", "cut step"),
        "step_ratio_of_processor_time": ratio(busy, "narrow step", "cut step"),
        "control_ratio": ratio(wall, "control", "cut"),
        "control_ratio_of_processor_time": ratio(busy, "control", "cut"),
        "limit": LIMIT,
        "wall_s": wall,
        "busy_s": busy,
    }


def time_in_turn(
    loops: dict[str, Callable[[], None]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds, and seconds of processor time, of each loop in each round after the first, which warms up."""
    wall: dict[str, list[float]] = {name: [] for name in loops}
    busy: dict[str, list[float]] = {name: [] for name in loops}
    names, order = list(loops), torch.Generator().manual_seed(0)
    gc.collect()
    gc.freeze()
    for number in range(rounds + 1):
        for place in torch.randperm(len(names), generator=order).tolist():
            name = names[place]
            began, began_busy = time.perf_counter(), time.process_time()
            loops[name]()
            ended, ended_busy = time.perf_counter(), time.process_time()
            if number > 0:
                wall[name].append(ended - began)
                busy[name].append(ended_busy - began_busy)
    gc.unfreeze()
    return wall, busy


def cache_child(name: str, threads: int, rounds: int) -> None:
    """Print, as JSON, the processor time of a pass at random widths: for the first time round, and for later ones."""
    set_threads(threads)
    wide = Wide.of(CASES[name])
    generator = torch.Generator().manual_seed(1)
    plans = [plan_of(wide.graph, wide.space.sample(generator)) for _ in range(RANDOM_WIDTHS)]
    seconds = []
    for _ in range(rounds + 1):
        began = time.process_time()
        for plan in plans:
            wide.passed(wide.model, plan)
        seconds.append((time.process_time() - began) / len(plans))
    print(json.dumps({"first_ms": seconds[0] * 1000, "later_ms": statistics.median(seconds[1:]) * 1000}))


def cache_row(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """Run the second part for one network in two processes of their own, and return a row."""
    command = [sys.executable, __file__, "--cache-child", name, "--threads", str(threads), "--rounds", str(rounds)]
    found = {}
    for kind, enlarge in (("default", []), ("enlarged", ["--enlarge"])):
        done = subprocess.run([*command, *enlarge], check=True, capture_output=True, text=True)
        found[kind] = json.loads(done.stdout)
    return {
        "case": name,
        "threads": threads,
        "widths": RANDOM_WIDTHS,
        **{f"{kind}_{key}": value for kind, row in found.items() for key, value in row.items()},
    }


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--rounds", type=int, default=7, help="rounds after the one that warms up")
    parser.add_argument("--cache-case", default="mobilenet_v2", choices=list(CASES), help="network of the second part")
    parser.add_argument("--cache-rounds", type=int, default=2, help="rounds of the second part after the first")
    parser.add_argument("--cache-child", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--enlarge", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "slimmable.json")
    options = parser.parse_args()
    if options.cache_child is not None:
        if options.enlarge:
            enlarge_primitive_cache()
        cache_child(options.cache_child, options.threads, options.rounds)
        return
    set_threads(options.threads)
    began, began_busy = time.perf_counter(), time.process_time()
    rows = []
    for name in options.cases:
        wide = Wide.of(CASES[name])
        for widths, plan in wide.widths().items():
            row = compare(name, wide, widths, plan, options.rounds, options.threads)
            rows.append(row)
            print(
                f"{name:14} {widths:20} {100 * row['share_of_macs']:5.1f} % of the MACs: cut {row['cut_ms']:7.1f} ms, "
                f"narrow {row['narrow_ms']:7.1f} ms, ratio {row['ratio']:.3f} (processor time "
                f"{row['ratio_of_processor_time']:.3f}, control {row['control_ratio_of_processor_time']:.3f}), "
                f"step {row['step_ratio_of_processor_time']:.3f}",
                flush=True,
            )
    cache = cache_row(options.cache_case, options.threads, options.cache_rounds)
    print(cache, flush=True)
    record = {
        "benchmark": "slimmable",
        "environment": asdict(environment(torch.device("cpu"))),
        "cases": {name: asdict(CASES[name]) for name in options.cases},
        "load_average": os.getloadavg(),  # above the number of threads, somebody else computed too
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - began_busy,
        "rounds": options.rounds,
        "rows": rows,
        "cache": cache,
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
