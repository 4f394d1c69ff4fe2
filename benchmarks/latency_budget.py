"""Ask for half of a network's latency, cut to it by a latency table, and time what would be delivered.

Run with `.venv/bin/python benchmarks/latency_budget.py` from the checkout's root. For ResNet-20 at 32², and ResNet-18
and MobileNetV2 of torchvision at 224², with random weights: a latency table of the network on ONNX Runtime (batch 1,
one thread), then plans to `--share` of its latency by L1 norms with every layer losing the same share (`l1`), by one
ranking over all layers (`magnitude`), and at AutoSlim's uniform widths (`uniform`, the widest of the space that holds
the budget). Each is cut, exported as it would be shipped, and timed in turn with the uncut network, in an order drawn
anew in each round. Nothing is trained, because that changes no latency. Wanted: measured within 10 % of what was asked.

What counts is the share of the least processor time: one thread computes, so that on an idle machine it is the
latency, and on a busy one it stands still while other work has its turn. The shortest runs by the wall's clock, and
their medians, stand beside it. Tables are kept in `--tables` and measured
only where they are missing; the record is written after every network, and a later call with other `--cases` adds to
it. It goes to `benchmarks/records/latency_budget.json`; `benchmarks/tables.py` makes the table of it.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.cost import Budget, LatencyTable, read_latency_table
from secateur.errors import BudgetError
from secateur.export import OnnxModel, export_onnx
from secateur.files import write_text
from secateur.graph import ChannelGraph, Plan, apply, trace
from secateur.measure import QuietTable, TableSettings, measure_latency_table
from secateur.methods import METHODS
from secateur.methods.autoslim.baseline import uniform_within
from secateur.models import build_model
from secateur.record import environment
from secateur.slimmable import plan_of, width_space
from secateur.training import set_threads

LIMIT = 0.10
CASES = {"resnet20": 32, "torchvision:resnet18": 224, "torchvision:mobilenet_v2": 224}
MULTIPLES = {"resnet20": 4}  # of narrow networks, whose 16 channels at multiples of 8 leave little to cut
ARMS = ("l1", "magnitude", "uniform")


@dataclass(frozen=True)
class Times:
    """Times of one model over all rounds, in milliseconds."""

    least_ms: float
    median_ms: float
    processor_ms: float  # the least


class Lines(QuietTable):
    """Says what is measured."""

    def step(self, what: str) -> None:
        """Print it."""
        print(f"  {what}", flush=True)


def planned(arm: str, model: nn.Module, graph: ChannelGraph, budget: Budget) -> Plan:
    """Return the plan of an arm."""
    if arm != "uniform":
        method: Any = METHODS[arm]()
        plan: Plan = method.decide(graph, model, budget)
        return plan
    widths = uniform_within(graph, width_space(graph), budget)
    if widths is None:
        raise BudgetError("no uniform widths hold the budget")
    return plan_of(graph, widths)


def timed(dense: Path, cut: Path, example: Tensor, rounds: int) -> dict[str, Times]:
    """Time both files in turn, one thread, in a random order each round."""
    models = {"dense": OnnxModel(dense, threads=1), "cut": OnnxModel(cut, threads=1)}
    runs: Mapping[str, Callable[[], object]] = {name: lambda m=m: m.run(example) for name, m in models.items()}  # type: ignore[misc]
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    order, draw = list(runs), random.Random(0)
    for number in range(-5, rounds):
        draw.shuffle(order)
        for name in order:
            began, used = time.perf_counter(), time.process_time()
            runs[name]()
            used, took = time.process_time() - used, time.perf_counter() - began
            if number >= 0:
                wall[name].append(1e3 * took)
                processor[name].append(1e3 * used)
    return {name: Times(min(wall[name]), statistics.median(wall[name]), min(processor[name])) for name in runs}


def table_of(
    name: str, model: nn.Module, graph: ChannelGraph, example: Tensor, folder: Path, rounds: int
) -> LatencyTable:
    """Return the table of a network, measured where it is not there."""
    path = folder / f"{name.replace(':', '_')}.json"
    if path.exists():
        table = read_latency_table(path)
        table.check(graph, input_shape=tuple(example.shape[1:]), threads=1)
        return table
    folder.mkdir(parents=True, exist_ok=True)
    return measure_latency_table(
        model,
        example,
        path,
        settings=TableSettings(rounds=rounds, multiple=MULTIPLES.get(name, 8)),
        graph=graph,
        progress=Lines(),
    )


def measured(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each arm."""
    torch.manual_seed(0)
    model, size = build_model(name).eval(), CASES[name]
    example = torch.randn(2, 3, size, size)
    graph = trace(model, example)
    table = table_of(name, model, graph, example, options.tables, options.table_rounds)
    budget = Budget(latency_ms=options.share).with_table(table)
    asked_ms = budget.limits(graph)["latency_ms"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder, "dense.onnx")
        export_onnx(model, dense, example)
        for arm in options.arms:
            print(f"{name}, {arm}", flush=True)
            plan = planned(arm, model, graph, budget)
            cut = Path(folder, "cut.onnx")
            export_onnx(apply(model, plan, verify_with=example), cut, example)
            times = timed(dense, cut, example[:1], options.rounds)
            share = times["cut"].processor_ms / times["dense"].processor_ms
            predicted_ms = table.latency_ms(graph, graph.kept_sizes(plan))
            rows.append(
                {
                    "case": name,
                    "size": size,
                    "arm": arm,
                    "asked_share": options.share,
                    "asked_ms": asked_ms,
                    "predicted_ms": predicted_ms,
                    "predicted_share": predicted_ms / table.latency_ms(graph, graph.sizes),
                    "share": share,
                    "share_of_medians": times["cut"].median_ms / times["dense"].median_ms,
                    "share_of_wall": times["cut"].least_ms / times["dense"].least_ms,
                    "off": share / options.share - 1,
                    "within": abs(share / options.share - 1) <= LIMIT,
                    "dense": asdict(times["dense"]),
                    "cut": asdict(times["cut"]),
                    "share_of_macs": graph.macs(plan) / graph.macs(),
                    "multiple": table.multiple,
                    "table_error": table.worst_error,
                    "table_drift": table.drift,
                    "table_dense_ms": table.dense_ms,
                    "rounds": options.rounds,
                    "load_average": os.getloadavg(),
                }
            )
    return rows


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--share", type=float, default=0.5, help="of the uncut network's latency")
    parser.add_argument("--rounds", type=int, default=100, help="of both models in turn")
    parser.add_argument("--table-rounds", type=int, default=15, help="of each measurement of a table")
    parser.add_argument("--tables", type=Path, default=Path("runs/latency-tables"), help="folder of latency tables")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/latency_budget.json"))
    options = parser.parse_args()
    set_threads(1)
    record = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {"rows": []}
    for name in options.cases:
        rows = measured(name, options)
        record["environment"] = asdict(environment(torch.device("cpu"), world_size=1))
        mine = {(row["case"], row["arm"]) for row in rows}
        kept = [row for row in record["rows"] if (row["case"], row["arm"]) not in mine]
        record["rows"] = sorted([*kept, *rows], key=lambda row: ([*CASES].index(row["case"]), ARMS.index(row["arm"])))
        write_text(options.out, json.dumps(record, indent=1) + "\n")
    for row in record["rows"]:
        print(f"{row['case']:26} {row['arm']:10} {row['share']:.3f} ({100 * row['off']:+.1f} %)")


if __name__ == "__main__":
    main()
