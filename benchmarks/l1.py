"""L1-norm pruning, its budgeted form, chance and training from scratch: ResNet-56 at half of the multiply-adds.

Run with `.venv/bin/python benchmarks/l1.py`; needs `../shared/data` (see its README) and about an hour on two cores.
Everything is trained and tested on the JPEG copy of CIFAR-10. Every arm gets the same fine-tuning: three passes over a
fixed tenth of the training images (4,900), last epoch, the seed deciding order and augmentation for all arms alike.
Each arm and seed is a run of its own (a folder with its record), so the script can be stopped and continued, and seeds
can be shared between processes; at the end the paired differences are computed from the records and written to
`benchmarks/records/l1.json`.
"""

import argparse
import json
import math
import statistics
from dataclasses import asdict
from pathlib import Path

from secateur.cost import Budget
from secateur.files import write_text
from secateur.methods import L1, Magnitude
from secateur.recipe import DataChoice, Machine, ModelChoice, Recipe, compress
from secateur.record import RunRecord, read_record
from secateur.training import TrainSettings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
FINE_TUNING = TrainSettings(learning_rate=0.01, weight_decay=5e-4, evaluate_every=0)
SCRATCH = TrainSettings(learning_rate=0.1, evaluate_every=0)
# First convolutions of blocks that the paper leaves whole in ResNet-56-B: its layers 16, 18, 20, 34, 38 and 54.
SKIPPED = tuple(f"layer{name}.conv1" for name in ("1.7", "1.8", "2.0", "2.7", "3.0", "3.8"))

ARMS = {
    "l1 as in the paper": L1(residual="inner", skip=SKIPPED),
    "l1 to a budget": L1(),
    "random": Magnitude(criterion="random", scope="local"),
    "scratch": L1(),
    "l1, streams too": L1(residual="group"),
}
"""The paper's cut (first convolutions of blocks, its skip list, one share), ours without a skip list, and, cut alike,
residual streams as well. Random and scratch have the widths of `l1 to a budget`."""

REFERENCE = "l1 to a budget"
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def recipe(arm: str, seed: int, *, epochs: int, share: float, threads: int) -> Recipe:
    """Return the run of one arm under one seed."""
    method = ARMS[arm]
    settings = {"finetune_epochs": epochs, "finetune": FINE_TUNING}
    chosen = (
        L1(**{**vars(method), **settings})
        if isinstance(method, L1)
        else Magnitude(**{**vars(method), **settings, "seed": seed})
    )
    return Recipe(
        title=f"ResNet-56 at half of the multiply-adds: {arm}",
        model=ModelChoice(
            spec="resnet56-b", weights=str(SHARED / "weights" / "resnet56-cifar10-shortcut-b.safetensors")
        ),
        data=DataChoice(
            spec=f"parquet:{SHARED / 'cifar10-jpeg'}", normalize="cifar10", train_share=share, validation_share=0.02
        ),
        budget=Budget(macs=0.5),
        method=chosen,
        train=SCRATCH,
        control="scratch" if arm == "scratch" else None,
        export=(),
        seed=seed,
        machine=Machine(threads=threads, device="cpu"),
    )


def interval(differences: list[float]) -> dict[str, float]:
    """Return mean and 95 % interval of paired differences, by Student's t over the seeds."""
    mean = statistics.fmean(differences)
    half = STUDENT[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summary(records: dict[str, list[RunRecord]], seeds: list[int], epochs: int, share: float) -> dict[str, object]:
    """Return what the records say together."""
    top1 = {arm: [r.measurements["tuned"].test.top1 for r in found] for arm, found in records.items()}  # type: ignore[union-attr]
    first = records[REFERENCE][0]
    dense = first.measurements["dense"]
    return {
        "benchmark": "l1",
        "what": f"ResNet-56 (option B) on the JPEG copy of CIFAR-10, half of the multiply-adds, {epochs} epochs on "
        f"{share:g} of the training images",
        "seeds": seeds,
        "samples": dense.test.samples if dense.test else 0,
        "dense_test_top1": dense.test.top1 if dense.test else None,
        "environment": asdict(first.environment),
        "rows": [
            {
                "arm": arm,
                "macs": found[0].measurements["tuned"].macs,
                "params": found[0].measurements["tuned"].params,
                "after_cut_test_top1": [None if (t := r.measurements["cut"].test) is None else t.top1 for r in found],
                "test_top1": top1[arm],
                "mean": statistics.fmean(top1[arm]),
                "difference_to_reference": None
                if arm == REFERENCE
                else interval([b - a for a, b in zip(top1[REFERENCE], top1[arm], strict=True)]),
            }
            for arm, found in records.items()
        ],
        "reference": REFERENCE,
    }


def main() -> None:
    """Run what is missing, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.1, help="of the training images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "l1", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "l1.json")
    options = parser.parse_args()
    records: dict[str, list[RunRecord]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        for arm in options.arms:
            folder = options.runs / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
            job = recipe(arm, seed, epochs=options.epochs, share=options.share, threads=options.threads)
            compress(job, folder)
            record = read_record(folder / "record.json")
            records[arm].append(record)
            found = record.measurements["tuned"].test
            print(f"seed {seed} {arm}: {found.top1 if found else math.nan:.4f}", flush=True)
    if not options.only_run:
        text = json.dumps(summary(records, options.seeds, options.epochs, options.share), indent=1)
        write_text(options.out, text + "\n")


if __name__ == "__main__":
    main()
