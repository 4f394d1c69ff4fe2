"""Time steps of greedy slimming with and without shared prefixes, and measure what a shortlist loses.

Run with `.venv/bin/python benchmarks/autoslim_search.py` from the checkout's root; five minutes of processor time. A
step tries every group of the network that a few steps from the widest on left, plainly and with shared prefixes in
turn, on one batch, without bounds; both must find the same, candidate by candidate. The ratio is the median over
rounds of the process's own time, which other work on the machine hardly touches. Weights are random: times do not
depend on them. The second part asks what candidates in one batch could save: a pass of the whole network over four
batches at once against four passes over one, without the copies and the norms of each candidate's own that such
batches would need, so it is a bound. The third part trains a super-net on the digits and searches it in full and with
shortlists: the front of each is compared where the budgets lie, on the validation samples of the search and on the test
split, by the super-net's weights. The record goes to `benchmarks/records/autoslim_search.json`;
`benchmarks/tables.py` makes the tables of it. `--parts` measures some parts and leaves the others as they were.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from secateur.cost import Budget
from secateur.data import load_data
from secateur.files import write_text
from secateur.graph import trace
from secateur.methods.autoslim import Front, Speed, estimate, greedy_slimming
from secateur.methods.autoslim.samples import SearchBatches
from secateur.models import build_model
from secateur.record import environment
from secateur.slimmable import Sandwich, enlarge_primitive_cache, width_space
from secateur.training import SupervisedTask, TrainSettings, set_threads

PLAIN, SHARED = Speed(share_prefixes=False, bounds=False), Speed(bounds=False)


@dataclass(frozen=True)
class Case:
    """A network 1.5 times as wide as it is published, and the images of a batch."""

    model: str
    size: int  # pixels of a side
    batch: int


CASES = {
    "resnet20": Case("resnet20@1.5x", 32, 128),
    "mobilenet_v2": Case("torchvision:mobilenet_v2@1.5x", 64, 32),
}
PARTS = ("sharing", "stacking", "shortlists")
BUDGETS = (0.8, 0.6, 0.4, 0.3)
SHORTLISTS = (1, 3, 5)
STACKED = 4
"""Batches in one pass, as if so many candidates shared it."""


def timed(name: str, case: Case, rounds: int) -> dict[str, Any]:
    """Time steps from the widest network on, and return a row."""
    torch.manual_seed(0)
    model = build_model(case.model, num_classes=10)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch, 3, case.size, case.size, generator=generator)
    batches = [(images, torch.randint(10, (case.batch,), generator=generator))]
    graph = trace(model, images[:2])
    space = width_space(graph)
    begun = greedy_slimming(model, space, batches, [Budget(macs=1.0)], graph=graph)
    seconds: dict[str, list[float]] = {"plain": [], "shared": []}
    same = True
    for number in range(-1, rounds):  # the first compiles kernels
        limit = Budget(macs=begun.configurations[-1].macs - 1)
        found: dict[str, Front] = {}
        kinds = [("plain", PLAIN), ("shared", SHARED)]
        for kind, speed in kinds if number % 2 else reversed(kinds):
            start = time.process_time()
            found[kind] = greedy_slimming(model, space, batches, [limit], graph=graph, speed=speed, begun=begun)
            if number >= 0:
                seconds[kind].append(time.process_time() - start)
        same = same and found["plain"] == found["shared"]
        begun = found["shared"]
    ratios = [plain / shared for plain, shared in zip(seconds["plain"], seconds["shared"], strict=True)]
    return {
        "case": name,
        **asdict(case),
        "groups": len(space.choices),
        "rounds": rounds,
        "plain_s": statistics.median(seconds["plain"]),
        "shared_s": statistics.median(seconds["shared"]),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "same": same,
    }


def stacked(name: str, case: Case, rounds: int) -> dict[str, Any]:
    """Time one pass over several batches put together against as many passes over one, and return a row."""
    torch.manual_seed(0)
    model = build_model(case.model, num_classes=10).eval()
    one = torch.randn(case.batch, 3, case.size, case.size, generator=torch.Generator().manual_seed(0))
    several = torch.cat([one] * STACKED)
    ratios, seconds = [], []
    with torch.no_grad():
        for number in range(-1, rounds):  # the first compiles kernels
            begun = time.process_time()
            for _ in range(STACKED):
                model(one)
            middle = time.process_time()
            model(several)
            together = time.process_time() - middle
            if number >= 0:
                ratios.append((middle - begun) / together)
                seconds.append(middle - begun)
    return {
        "case": name,
        **asdict(case),
        "stacked": STACKED,
        "rounds": rounds,
        "apart_s": statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
    }


def shortlisted(epochs: int) -> list[dict[str, Any]]:
    """Search one super-net in full and with shortlists, and return a row for each search and budget."""
    settings = TrainSettings(batch_size=128, learning_rate=0.05, schedule="cosine", evaluate_every=0)
    task = SupervisedTask(load_data("digits"), settings=settings, seed=0, device="cpu")
    torch.manual_seed(0)
    model = build_model("digits-resnet@1.5x")
    graph = trace(model, task.example_inputs)
    space = width_space(graph, multiple=4)
    task.train(model, epochs=epochs, step=Sandwich(graph, space, loss=task.loss))
    batches = SearchBatches(task, 512, None)
    test = list(task.batches(10**6, "test"))
    whole = [(torch.cat([images for images, _ in test]), torch.cat([labels for _, labels in test]))]
    budgets = [Budget(macs=share) for share in BUDGETS]
    rows = []
    for shortlist in (None, *SHORTLISTS):
        start = time.process_time()
        front = greedy_slimming(model, space, batches, budgets, graph=graph, speed=Speed(shortlist=shortlist))
        seconds = time.process_time() - start
        for share, budget in zip(BUDGETS, budgets, strict=True):
            found = front.meeting(budget.limits(graph))
            assert found is not None
            rows.append(
                {
                    "shortlist": shortlist,
                    "share": share,
                    "macs": found.macs,
                    "validation": found.accuracy,
                    "test": estimate(model, whole, found.widths, graph=graph).accuracy,
                    "steps": len(front.configurations) - 1,
                    "seconds": seconds,
                }
            )
    return rows


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=4, help="steps that are timed")
    parser.add_argument("--cases", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30, help="of the digits' super-net")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/autoslim_search.json"))
    options = parser.parse_args()
    enlarge_primitive_cache()
    set_threads(options.threads)
    record = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    record |= {"environment": asdict(environment(torch.device("cpu"), world_size=1)), "threads": options.threads}
    if "sharing" in options.parts:
        record["sharing"] = [timed(name, CASES[name], options.rounds) for name in options.cases]
    if "stacking" in options.parts:
        record["stacking"] = [stacked(name, CASES[name], options.rounds) for name in options.cases]
    if "shortlists" in options.parts:
        record |= {"epochs": options.epochs, "shortlists": shortlisted(options.epochs)}
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    for row in record.get("sharing", []):
        print(f"{row['case']}: {row['ratio']:.2f} times as fast ({row['least_ratio']:.2f} to {row['most_ratio']:.2f})")
    for row in record.get("stacking", []):
        print(f"{row['case']}: {row['stacked']} batches in one pass {row['ratio']:.2f} times as fast as one by one")
    for row in record.get("shortlists", []):
        print(f"shortlist {row['shortlist']}, macs {row['share']}: {row['validation']:.4f}, test {row['test']:.4f}")


if __name__ == "__main__":
    main()
