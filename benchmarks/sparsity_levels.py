"""Accuracy against what is left of ResNet-20: weights, kernels, filters or layers, in one cut or in several.

Run with `.venv/bin/python benchmarks/sparsity_levels.py` from the checkout's root; needs `../shared/data` (see its
README) and about two and a half hours on one core, two to three minutes a run; two processes can share the work with
other `--levels` and `--only-run`. Data, dense network and splits are those of `benchmarks/global_pruning.py`: the JPEG
copy of CIFAR-10, a fixed tenth of the training images as an epoch, half of the test images to choose settings by, the
other half reported.

Each level leaves the same number of parameters at 50, 80, 90 and 95 % zeros, and all train for as many epochs in all:

* `weight`, `kernel`: the method `weights_and_connections` with one scale over all layers, to a budget of non-zeros;
* `filter`: the method `l1`, and in several cuts `global` by the same norms, every layer the same share, to a budget of
  parameters;
* `layer`: the method `blocks`, whole residual branches by their measured effect, to a budget of parameters; of the
  largest branches as many as the budget takes, because the small ones would go for nothing.

Blocks that change the size of their stream cannot go, so the layer level ends early: budgets that it cannot reach are
recorded with the reason, and instead it is cut as far as it goes. `once` cuts and fine-tunes; `iterative` cuts in
several steps with training between them. The learning rate is chosen per level, at 80 % (for layers, at 50 %), in one
cut, under a seed of its own.

Each run is a folder of its own, so the script can be stopped and continued. The record goes to
`benchmarks/records/sparsity_levels.json`, the figure to `docs/figures/sparsity-levels.svg`.
"""

import argparse
import functools
import itertools
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from global_pruning import DATA, MODEL, SHARED, TRAIN_SHARE, WEIGHTS
from global_pruning import training as shared_training
from sparse_figures import levels_figure

from secateur.cost import Budget
from secateur.data import DataSource
from secateur.errors import BudgetError
from secateur.files import write_text
from secateur.graph import ChannelGraph, trace
from secateur.methods import L1, Blocks, GlobalPruning, WeightsAndConnections
from secateur.methods.contract import Compressed
from secateur.models import build_model, load_weights
from secateur.recipe import DataChoice, Machine, read_data
from secateur.record import environment
from secateur.report.drawing import can_draw, save_figure
from secateur.sparse import nonzeros
from secateur.training import Store, SupervisedTask, TrainSettings, set_threads

LEVELS = ("weight", "kernel", "filter", "layer")
SCHEDULES = ("once", "iterative")
SHARES = (0.5, 0.8, 0.9, 0.95)  # of the parameters, that go
FLOOR = "floor"  # in place of a share: as far as the level goes
STEPS = 4  # cuts of an iterative run
BETWEEN = 3  # epochs between these, in all
EPOCHS = 6  # of all training after the first cut, whatever the schedule
RATES = (0.01, 0.03, 0.1)
SEARCH_SEED = 1000  # of the runs that choose the learning rate; none of those that are reported
SEARCH_SHARE = {"weight": 0.8, "kernel": 0.8, "filter": 0.8, "layer": 0.5}
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "sparsity-levels.svg"

Method = WeightsAndConnections | L1 | GlobalPruning | Blocks


@dataclass(frozen=True)
class Job:
    """One run: what goes, in one cut or several, which share of the parameters, and how it is retrained."""

    level: str
    schedule: str
    share: float | str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        share = self.share if isinstance(self.share, str) else f"{self.share:g}"
        return f"{self.level}-{self.schedule}-{share}-rate-{self.rate:g}-{self.seed}"


def training(rate: float) -> TrainSettings:
    """Return the training of `global_pruning.py`, in the memory format that takes 0.8 of the time here."""
    return replace(shared_training(rate), channels_last=True)


@functools.cache
def data_for(threads: int) -> DataSource:
    """Return the data, which is read once for all runs of the process."""
    return read_data(
        DataChoice(spec=DATA, train_share=TRAIN_SHARE), Machine(threads=threads, device="cpu"), model=MODEL
    )


def dense_network() -> torch.nn.Module:
    """Return the trained network."""
    model = build_model(MODEL)
    load_weights(model, WEIGHTS)
    return model


def allowed_parameters(graph: ChannelGraph, job: Job, params: int) -> int:
    """Return how many parameters may be left; at the floor, as many as without any block that can go."""
    if not isinstance(job.share, str):
        return int((1 - job.share) * params)
    free = [block.name for block in graph.blocks if block.locked is None]
    return graph.after(graph.drop_blocks(free)).params()


def spared_blocks(graph: ChannelGraph, allowed: int) -> tuple[str, ...]:
    """Return the blocks that stay, where the largest go until the budget holds; none where it cannot."""
    free = [block.name for block in graph.blocks if block.locked is None]
    free.sort(key=lambda name: graph.after(graph.drop_blocks((name,))).params())  # the largest first
    for number in range(1, len(free) + 1):
        if graph.after(graph.drop_blocks(free[:number])).params() <= allowed:
            return tuple(free[number:])
    return ()


def method_of(job: Job, drops: int, spared: tuple[str, ...] = ()) -> Method:
    """Return the settings of a run.

    Args:
        job: the run.
        drops: number of blocks that one cut to its budget takes; of iterative runs of the layer level.
        spared: blocks that stay.
    """
    tuned = training(job.rate)
    once = job.schedule == "once"
    last = EPOCHS if once else EPOCHS - BETWEEN
    if job.level in ("weight", "kernel"):
        return WeightsAndConnections(
            granularity=job.level,
            allocation="global",
            iterations=1 if once else STEPS,
            retrain_epochs=BETWEEN // (STEPS - 1),
            finetune_epochs=last,
            finetune=tuned,
            cut_dead=False,
            activation_batches=1,
        )
    if job.level == "filter" and once:
        return L1(finetune_epochs=last, finetune=tuned)
    if job.level == "filter":
        return GlobalPruning(
            criterion="l1",
            scope="local",
            steps=STEPS,
            step_epochs=BETWEEN / (STEPS - 1),
            evaluate_steps=False,
            finetune_epochs=last,
            finetune=tuned,
        )
    several = drops > 1 and not once  # a single drop leaves nothing between
    return Blocks(
        lock=spared,
        step_epochs=BETWEEN / (drops - 1) if several else 0,
        evaluate_steps=False,
        finetune_epochs=EPOCHS - BETWEEN if several else EPOCHS,
        finetune=tuned,
    )


def budget_of(job: Job, allowed: int) -> Budget:
    """Return the same number of parameters as what the level's method counts."""
    return Budget(nonzeros=allowed) if job.level in ("weight", "kernel") else Budget(params=allowed)


def run(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Return what one run measured, from its folder if it is done; a budget out of reach is a result as well."""
    drops = 0
    if job.level == "layer" and job.schedule == "iterative":
        first = run(options, Job(job.level, "once", job.share, job.rate, job.seed))
        if "unreachable" in first:
            return first
        drops = first["blocks_dropped"]
    model = dense_network()
    graph = trace(model, torch.zeros(2, 3, 32, 32))
    allowed = allowed_parameters(graph, job, nonzeros(model))
    method = method_of(job, drops, spared_blocks(graph, allowed) if job.level == "layer" else ())
    budget = budget_of(job, allowed)
    folder = options.runs / job.name
    file = folder / "result.json"
    asked = json.loads(json.dumps({**asdict(job), "settings": asdict(method)}))
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text())
        if known["asked_for"] != asked:
            raise SystemExit(f"{file} was made with other settings; give another folder with --runs")
        return known
    found: dict[str, Any] = {"asked_for": asked, "allowed": allowed}
    try:
        method.decide(graph, model, budget)
    except BudgetError as error:
        return {**found, "unreachable": str(error)}
    task = SupervisedTask(data_for(options.threads), settings=training(job.rate), seed=job.seed, device="cpu")
    result = method.compress(model, task, budget, store=Store(folder))
    found |= measured(result, task, graph, searching=job.seed == SEARCH_SEED)
    write_text(file, json.dumps(found, indent=1) + "\n")
    return found


def measured(result: Compressed, task: SupervisedTask, graph: ChannelGraph, *, searching: bool) -> dict[str, Any]:
    """Return what is left and how good it is; the seed that chooses settings never sees the images reported."""
    left = nonzeros(result.model, result.masks)
    plan = result.plan
    return {
        "params_left": left,
        "macs": graph.after(plan).macs(),  # that a dense engine does: zeros take part
        "blocks_dropped": len(plan.drops),
        "images_trained": sum(epoch.samples for phase in result.record.phases for epoch in phase.epochs),
        "validation_top1": task.evaluate(result.model).score,
        "test_top1": None if searching else task.evaluate(result.model, "test").score,
        "test_samples": task.data.size("test"),
        "notes": list(result.record.notes),
    }


def best_rate(options: argparse.Namespace, level: str) -> tuple[float, list[dict[str, Any]]]:
    """Return the learning rate of one level, and the validation accuracy with each."""
    found = []
    for rate in options.rates:
        top1 = run(options, Job(level, "once", SEARCH_SHARE[level], rate, SEARCH_SEED))["validation_top1"]
        print(f"{level}, rate {rate:g}: {top1:.4f} of the images that choose", flush=True)
        found.append({"level": level, "share": SEARCH_SHARE[level], "learning_rate": rate, "validation_top1": top1})
    return max(found, key=lambda one: one["validation_top1"])["learning_rate"], found


def row(options: argparse.Namespace, level: str, schedule: str, share: float | str, rate: float) -> dict[str, Any]:
    """Return one level and schedule at one share over all seeds."""
    runs = [run(options, Job(level, schedule, share, rate, seed)) for seed in options.seeds]
    head = {"level": level, "schedule": schedule, "share": share, "allowed": runs[0]["allowed"]}
    if "unreachable" in runs[0]:
        print(f"{level} {schedule} {share}: {runs[0]['unreachable']}", flush=True)
        return {**head, "unreachable": runs[0]["unreachable"]}
    top1 = [one["test_top1"] for one in runs]
    print(f"{level} {schedule} {share}: {statistics.fmean(top1):.4f}", flush=True)
    keys = ("params_left", "macs", "blocks_dropped", "images_trained")
    return {
        **head,
        **{key: [one[key] for one in runs] for key in keys},
        "test_top1": top1,
        "mean": statistics.fmean(top1),
        "standard_deviation": statistics.stdev(top1) if len(top1) > 1 else None,
        "notes": runs[0]["notes"],
    }


def shares_of(options: argparse.Namespace, level: str) -> tuple[float | str, ...]:
    """Return what is asked of a level: every share, and of layers how far they go."""
    return (*options.shares, FLOOR) if level == "layer" else tuple(options.shares)


def main() -> None:
    """Run what is missing, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of the parameters, that go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="to choose from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "sparsity_levels", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "sparsity_levels.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args()
    set_threads(options.threads)
    if SEARCH_SEED in options.seeds:
        raise SystemExit(f"seed {SEARCH_SEED} chooses the learning rates; report others")
    rows, rates, search = [], {}, []
    for level in options.levels:
        rates[level], found = best_rate(options, level)
        search += found
        for schedule, share in itertools.product(options.schedules, shares_of(options, level)):
            rows.append(row(options, level, schedule, share, rates[level]))
    if options.only_run:
        return
    model = dense_network()
    task = SupervisedTask(data_for(options.threads), settings=training(RATES[0]), seed=0, device="cpu")
    dense = task.evaluate(model, "test")
    record = {
        "benchmark": "sparsity_levels",
        "what": f"ResNet-20 on the JPEG copy of CIFAR-10, {EPOCHS} epochs after the first cut on {TRAIN_SHARE:.0%} of "
        "the training images, last epoch",
        "seeds": options.seeds,
        "dense_test_top1": dense.score,
        "dense_params": nonzeros(model),
        "dense_macs": trace(model, torch.zeros(2, 3, 32, 32)).macs(),
        "samples": dense.samples,
        "steps": STEPS,
        "epochs": EPOCHS,
        "epochs_between": BETWEEN,
        "rates": rates,
        "search": {"seed": SEARCH_SEED, "runs": search},
        "rows": rows,
        "weights": str(WEIGHTS.relative_to(SHARED)),
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if can_draw():
        save_figure([options.figure], lambda: levels_figure(record))


if __name__ == "__main__":
    main()
