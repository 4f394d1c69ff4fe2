"""Criteria in one iterative scheme, and Tick-Tock: ResNet-20 at half and at 30 % of the multiply-adds.

Run with `.venv/bin/python benchmarks/global_pruning.py` from the checkout's root; needs `../shared/data` (see its
README). Two processes with other seeds each (`--only-run`, the second started when the learning rate is chosen) take
a bit over an hour on two cores. Everything is trained and tested on the JPEG copy of CIFAR-10, from weights that were
fine-tuned on it: a fixed tenth of the training images (5,000, each class in proportion) is an epoch here, half of the
test images choose the learning rate, and the other half is what is reported (`benchmarks/cifar10.py`).

All criteria go through the method `global`: the same six even cuts, an epoch after each but the last, five epochs of
fine-tuning; inner channels of blocks only, a tenth of every layer kept. Gate Decorator gets the same five epochs at the
end, and before them a Tock of one epoch after every second Tick of 1,000 images; the share of filters that goes per
Tick is chosen so that there are about ten Ticks, hence five epochs of Tocks; what it really saw stands in the table.

Each arm, budget and seed is a run of its own (a folder with its record), so the script can be stopped and continued,
and seeds can be shared between processes. At the end all pairs are compared from the records, and
`benchmarks/records/global_pruning.json` is written; `benchmarks/tables.py` makes the table of it.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from l1 import interval

from secateur.cost import Budget
from secateur.files import write_text
from secateur.graph import ChannelGraph, Plan, trace
from secateur.methods import GateDecorator, GlobalPruning
from secateur.models import build_model, load_weights
from secateur.recipe import DataChoice, Machine, ModelChoice, Recipe, compress, read_data
from secateur.recipe.lock import locked
from secateur.record import RunRecord, read_record
from secateur.training import Store, SupervisedTask, TrainSettings, set_threads

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
WEIGHTS = SHARED / "weights" / "resnet20-cifar10jpeg-shortcut-a.safetensors"
MODEL = "resnet20"
# Relative, so that a run may be continued from a copy of the checkout.
DATA = "benchmarks/cifar10.py:jpeg_parts"
TRAIN_SHARE = 0.1

FINETUNE_EPOCHS = 5
STEPS = 6  # an epoch after each but the last: five
TOCK_EPOCHS = 1
TICKS_PER_TOCK = 2
TICK_IMAGES = 1_000
SCORE_BATCHES = 8  # of 128: about as many images as a Tick has
MIN_SHARE = 0.1
TICK_SHARES = {0.5: 0.04, 0.3: 0.065}  # of the filters left: about ten Ticks to each budget, as trial Ticks showed

CRITERIA = ("random", "l1", "fpgm", "activation_taylor", "bn_scale", "gate_taylor")
TICK_TOCK = "gate_decorator"
ARMS = (*CRITERIA, TICK_TOCK)

CLAIMS = (
    ("l1", "random", "Li et al. 2017, arXiv:1608.08710"),
    ("fpgm", "l1", "He et al. 2019, arXiv:1811.00250"),
    ("activation_taylor", "random", "Molchanov et al. 2017, arXiv:1611.06440"),
    ("activation_taylor", "l1", "Molchanov et al. 2017, arXiv:1611.06440"),
    ("gate_taylor", "bn_scale", "You et al. 2019, arXiv:1909.08174"),
    (TICK_TOCK, "gate_taylor", "You et al. 2019, arXiv:1909.08174"),
)
"""(better, worse, whose proposal the better one is): what one would expect, held against the runs."""

RATES = (0.003, 0.01, 0.03, 0.1)
SEARCH_ARM = "l1"
SEARCH_SEED = 1000  # of the runs that choose the learning rate; none of those that are reported


def training(rate: float) -> TrainSettings:
    """Return the fine-tuning that all arms share."""
    return TrainSettings(learning_rate=rate, weight_decay=5e-4, schedule="cosine", evaluate_every=0)


def between_cuts(rate: float) -> TrainSettings:
    """Return the training before the last cut: one triangle of the rate per phase, as in Gate Decorator's Tocks."""
    return replace(training(rate), schedule="triangular", learning_rate_min=rate / 10)


def method(arm: str, share: float, seed: int, rate: float) -> GlobalPruning | GateDecorator:
    """Return the settings of one arm at one budget."""
    if arm == TICK_TOCK:
        return GateDecorator(
            share=TICK_SHARES[share],
            ticks_per_tock=TICKS_PER_TOCK,
            tick_subset=TICK_IMAGES,
            tock=between_cuts(rate),
            tock_epochs=TOCK_EPOCHS,
            min_share=MIN_SHARE,
            last_tick="exact",  # or it would have fewer multiply-adds than the others
            measure_steps=False,
            finetune_epochs=FINETUNE_EPOCHS,
            finetune=training(rate),
            cooldown_epochs=0,
        )
    return GlobalPruning(
        criterion=arm,
        steps=STEPS,
        step_epochs=1,
        recover=between_cuts(rate),
        score_batches=SCORE_BATCHES,
        min_share=MIN_SHARE,
        evaluate_steps=False,
        finetune_epochs=FINETUNE_EPOCHS,
        finetune=training(rate),
        seed=seed,
    )


def recipe(arm: str, share: float, seed: int, rate: float, threads: int) -> Recipe:
    """Return the run of one arm at one budget under one seed."""
    return Recipe(
        title=f"ResNet-20 at {share:.0%} of the multiply-adds: {arm}",
        model=ModelChoice(spec=MODEL, weights=str(WEIGHTS)),
        data=DataChoice(spec=DATA, train_share=TRAIN_SHARE),
        budget=Budget(macs=share),
        method=method(arm, share, seed, rate),
        export=(),
        seed=seed,
        machine=Machine(threads=threads, device="cpu"),
    )


def searched(runs: Path, threads: int) -> list[dict[str, float]]:
    """Return each learning rate with what it reaches on the images that choose; runs what is missing."""
    found = []
    for rate in RATES:
        folder = runs / f"rate-{rate:g}"
        file = folder / "result.json"
        job = recipe(SEARCH_ARM, 0.5, SEARCH_SEED, rate, threads)
        asked = {"recipe": job.to_json()["method"]}
        if file.exists():
            known = json.loads(file.read_text())
            if known["asked_for"] != asked:
                raise SystemExit(f"{file} was made with other settings; give another folder with --runs")
        else:
            data = read_data(job.data, job.machine, model=MODEL)
            model = build_model(MODEL)
            load_weights(model, WEIGHTS)
            task = SupervisedTask(data, settings=training(rate), seed=SEARCH_SEED, device="cpu")
            with locked(folder):
                result = job.method.compress(model, task, job.budget, store=Store(folder))
                known = {"asked_for": asked, "validation_top1": task.evaluate(result.model).score}
                write_text(file, json.dumps(known, indent=1) + "\n")
        found.append({"learning_rate": rate, "validation_top1": known["validation_top1"]})
        print(f"learning rate {rate:g}: {known['validation_top1']:.4f} of the images that choose", flush=True)
    return found


def folder_of(runs: Path, arm: str, share: float, seed: int) -> Path:
    """Return the run folder of one arm, budget and seed."""
    return runs / f"{share:g}-{arm}-{seed}"


def row(arm: str, share: float, seeds: list[int], runs: Path, graph: ChannelGraph) -> dict[str, Any]:
    """Return one arm at one budget over all seeds."""
    folders = [folder_of(runs, arm, share, seed) for seed in seeds]
    records = [read_record(folder / "record.json") for folder in folders]
    plans = [Plan.from_json(json.loads((folder / "plan.json").read_text())) for folder in folders]
    top1 = [_top1(record, "tuned") for record in records]
    streams = [group for group in graph.groups if group.is_stream]
    tuned = [record.measurements["tuned"] for record in records]
    return {
        "arm": arm,
        "budget": share,
        "macs": [found.macs for found in tuned],
        "params": [found.params for found in tuned],
        "stream_units_cut": [
            sum(group.size - len(plan.kept.get(group.name, range(group.size))) for group in streams) for plan in plans
        ],
        "images_trained": [sum(epoch.samples for phase in r.phases for epoch in phase.epochs) for r in records],
        "images_in_fine_tuning": [
            sum(epoch.samples for phase in r.phases if phase.phase == "finetune" for epoch in phase.epochs)
            for r in records
        ],
        "cuts": [sum(phase.phase.startswith("tick-") for phase in r.phases) or STEPS for r in records],
        "resumed": [record.resumed for record in records],
        "test_top1": top1,
        "mean": statistics.fmean(top1),
        "standard_deviation": statistics.stdev(top1) if len(top1) > 1 else None,
    }


def _top1(record: RunRecord, what: str) -> float:
    found = record.measurements[what].test
    if found is None or found.top1 is None:
        raise SystemExit(f"run {record.run_id} has no test accuracy")
    return found.top1


def pairs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each pair of arms at one budget, the better mean first, with the interval of its paired difference."""
    ranked = sorted(rows, key=lambda entry: entry["mean"], reverse=True)
    for better, worse in itertools.combinations(ranked, 2):
        gap = interval([a - b for a, b in zip(better["test_top1"], worse["test_top1"], strict=True)])
        yield {
            "budget": better["budget"],
            "better": better["arm"],
            "worse": worse["arm"],
            **gap,
            "separated": gap["low"] > 0,
        }


def claims(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what papers say about pairs, and whether it shows in ``found``."""
    for better, worse, source in CLAIMS:
        for pair in found:
            if {pair["better"], pair["worse"]} == {better, worse}:
                verdict = "not separated" if not pair["separated"] else "yes" if pair["better"] == better else "no"
                yield {"budget": pair["budget"], "better": better, "worse": worse, "source": source, "shows": verdict}


def summary(options: argparse.Namespace, search: list[dict[str, float]], rate: float) -> dict[str, object]:
    """Return what the records say together."""
    graph = trace(build_model(MODEL), torch.zeros(2, 3, 32, 32))
    rows = [row(arm, share, options.seeds, options.runs, graph) for share in options.budgets for arm in options.arms]
    found = [pair for share in options.budgets for pair in pairs([r for r in rows if r["budget"] == share])]
    first = read_record(folder_of(options.runs, options.arms[0], options.budgets[0], options.seeds[0]) / "record.json")
    dense = first.measurements["dense"]
    return {
        "benchmark": "global_pruning",
        "what": f"ResNet-20 on the JPEG copy of CIFAR-10, {FINETUNE_EPOCHS} epochs of fine-tuning on "
        f"{TRAIN_SHARE:.0%} of the training images after about as many between the cuts, last epoch",
        "seeds": options.seeds,
        "budgets": options.budgets,
        "samples": dense.test.samples if dense.test else 0,
        "dense_test_top1": _top1(first, "dense"),
        "dense_macs": dense.macs,
        "search": {"arm": SEARCH_ARM, "seed": SEARCH_SEED, "rates": search},
        "learning_rate": rate,
        "settings": {
            f"{share:g} {arm}": recipe(arm, share, 0, rate, options.threads).to_json()["method"]
            for share in options.budgets
            for arm in ("l1", TICK_TOCK)
        },
        "environment": asdict(first.environment),
        "rows": rows,
        "pairs": found,
        "claims": list(claims(found)),
    }


def main() -> None:
    """Run what is missing, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--budgets", nargs="+", type=float, choices=list(TICK_SHARES), default=list(TICK_SHARES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "global_pruning", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "global_pruning.json")
    options = parser.parse_args()
    if len(set(options.seeds)) < 2 and not options.only_run:
        raise SystemExit("intervals need at least two seeds; give more with --seeds, or --only-run")
    if SEARCH_SEED in options.seeds:
        raise SystemExit(f"seed {SEARCH_SEED} chooses the learning rate; report others")
    set_threads(options.threads)
    search = searched(options.runs, options.threads)
    rate = max(search, key=lambda entry: entry["validation_top1"])["learning_rate"]
    for seed, share, arm in itertools.product(options.seeds, options.budgets, options.arms):
        folder = folder_of(options.runs, arm, share, seed)
        compress(recipe(arm, share, seed, rate, options.threads), folder)
        found = _top1(read_record(folder / "record.json"), "tuned")
        print(f"seed {seed}, {share:.0%} of the multiply-adds, {arm}: {found:.4f}", flush=True)
    if not options.only_run:
        write_text(options.out, json.dumps(summary(options, search, rate), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
