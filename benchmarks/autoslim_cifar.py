"""AutoSlim on CIFAR-10: does a searched ResNet-20 beat a uniformly thinner one, and one cut by first-order scores?

Run with `.venv/bin/python benchmarks/autoslim_cifar.py` from the checkout's root; needs `../shared/data` (see its
README). About two and a half hours of processor time, on one thread; the estimate for the machine at hand is printed
first. Every super-net, search and trained network is a run of its own, in a folder that a killed run continues
from; seeds and parts can be shared between processes (`--only-run`).

The super-net is ResNet-20 with projections at the steps between stages (option B), 1.5 times as wide. Parameter-free
steps (option A) would tie the residual streams of its second and third stage to their zeros, so that no search could
make these stages thinner or wider. Budgets are shares of the default network's multiply-adds, ResNet-20 with option B
at its published width. The data is the JPEG copy of CIFAR-10: 12,500 training images, 2,000 further training images
for the search, all test images for what is reported and nothing else; the last epoch counts.

Per seed: the super-net is trained by the sandwich rule and searched down to both budgets; then, at the multiply-adds of
what was found, the found network and the one of a uniform width multiplier are trained from the same random draws, and
the default network, trained just as long before, is cut by first-order scores of gates (every channel of every layer
is free to go, as in the search) and trained further by the same settings, so that its weights have seen twice as many
images. Last, networks of random widths are trained like the found ones, and what the super-net says of them is held
against what they reach. `benchmarks/records/autoslim_cifar.json` has it all; `benchmarks/tables.py` makes the tables.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from autoslim_cifar_runs import FINAL_TRAINING, SUPERNET, Lengths, Study, read_images
from autoslim_cifar_summary import ARMS, SHARES, arm_record, estimates_at, summary, top1_of
from torch import nn

from secateur.files import write_text
from secateur.graph import apply
from secateur.models import build_model
from secateur.record import RunRecord
from secateur.slimmable import Sandwich, Widths, enlarge_primitive_cache, plan_of
from secateur.training import Interrupted, set_threads

PARTS = ("supernet", "search", "arms", "correlation")


def run(study: Study, parts: Sequence[str], configurations: int, *, correlates: bool) -> None:
    """Do what is missing of one seed."""
    if "supernet" in parts:
        _ = study.supernet
    if "search" in parts:
        front = study.front(list(SHARES))
        for share in SHARES:
            estimates_at(study, front, share)
    if "arms" in parts:
        front = study.front(list(SHARES))
        for share, arm in itertools.product(SHARES, ARMS):
            _say(study, f"{share:.0%} of the multiply-adds, {arm}", arm_record(study, front, share, arm))
        _say(study, "default network", study.dense()[1])
    if "correlation" in parts and correlates:
        for number in range(configurations):
            widths = study.random_widths(number)
            study.estimated(f"random-{number}", widths)
            _say(study, f"random widths {number}", study.trained(f"random-{number}", widths))


def _say(study: Study, what: str, record: RunRecord) -> None:
    print(f"seed {study.seed}, {what}: {top1_of(record):.4f}, {record.measurements['tuned'].macs:,} MACs", flush=True)


def processor_minutes(study: Study, seeds: int, configurations: int) -> dict[str, float]:
    """Return an estimate of the processor time of each part, from a few steps of training that are timed now."""
    lengths = study.lengths
    steps = lengths.train_images / FINAL_TRAINING.batch_size
    supernet = build_model(SUPERNET).to(memory_format=torch.channels_last)
    images = torch.randn(FINAL_TRAINING.batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (len(images),))
    sandwich = Sandwich(study.graph, study.space, seed=0)
    idle = torch.optim.SGD(supernet.parameters(), lr=0.0)

    def step_of(widths: Widths) -> float:
        small = apply(supernet, plan_of(study.graph, widths), verify_with=None).to(memory_format=torch.channels_last)
        return _seconds(lambda: nn.functional.cross_entropy(small(images), labels).backward())

    by_share = {share: step_of(study.uniform(int(share * study.default_macs))[1]) for share in (1.0, *SHARES)}
    trained = steps * lengths.epochs / 60
    widest = statistics.fmean(by_share[share] for share in SHARES) * 2
    candidates = sum(len(counts) - 1 for counts in study.space.choices.values()) * 0.8 * len(study.space.choices) * 0.4
    return {
        "supernets": seeds
        * steps
        * lengths.supernet_epochs
        * _seconds(lambda: sandwich(supernet, (images, labels), idle))
        / 60,
        "searches": seeds * candidates * lengths.search_images / len(images) * widest / 3 / 60,
        "arms": seeds * trained * (by_share[1.0] + len(ARMS) * sum(by_share[share] for share in SHARES)),
        "correlation": configurations * trained * statistics.fmean(step_of(study.random_widths(n)) for n in range(3)),
    }


def _seconds(work: Any) -> float:
    """Return the least processor time of two calls after a first one, in which kernels are compiled."""
    work()
    found = []
    for _ in range(2):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def main() -> None:
    """Run what is missing, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1], help="the first of them trains random widths too"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--supernet-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=8, help="of every network that is reported")
    parser.add_argument("--train-images", type=int, default=12_500)
    parser.add_argument("--search-images", type=int, default=2_000)
    parser.add_argument("--configurations", type=int, default=12, help="networks of random widths")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "autoslim_cifar", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--estimate", action="store_true", help="print the processor time that all would take, and end")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "autoslim_cifar.json")
    options = parser.parse_args()
    enlarge_primitive_cache()
    set_threads(options.threads)
    lengths = Lengths(
        supernet_epochs=options.supernet_epochs,
        epochs=options.epochs,
        train_images=options.train_images,
        search_images=options.search_images,
    )
    data = read_images(lengths)
    studies = [Study(options.runs, seed, lengths, data) for seed in options.seeds]
    minutes = processor_minutes(studies[0], len(studies), options.configurations)
    parts = ", ".join(f"{name} {value:.0f}" for name, value in minutes.items())
    print(f"about {sum(minutes.values()):.0f} minutes of processor time from the start: {parts}", flush=True)
    if options.estimate:
        return
    try:
        for study in studies:
            run(study, options.parts, options.configurations, correlates=study is studies[0])
    except Interrupted as stopped:
        raise SystemExit(f"stopped ({stopped}); the same command continues") from stopped
    if not options.only_run:
        write_text(options.out, json.dumps(summary(studies, options), indent=1) + "\n")


if __name__ == "__main__":
    main()
