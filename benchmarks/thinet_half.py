"""ResNet-56 at half of its multiply-adds: what comes back by least squares, batch norm and two epochs.

Run with `.venv/bin/python benchmarks/thinet_half.py`; needs `../shared/data` (see its README) and about half an hour on
one core. ThiNet (Luo, Wu, Lin 2017, arXiv:1707.06342) and L1 norms (Li et al. 2017, arXiv:1608.08710) cut the inner
layers of the blocks to the same budget on the lossless part of CIFAR-10; then the layers that read what was cut are
re-fitted (`restore`), the running statistics of batch norm are measured anew, and two epochs are trained. All arms
share the settings of training. A seed decides the images that are looked at, the order of the data and the
augmentation.

L1 compares all filters, so its layers keep different shares; ThiNet takes the same share of each layer. The third arm,
weight sum, tells the two apart: the filters with the largest L1 norms, at ThiNet's shares, in ThiNet's order.

The record goes to `benchmarks/records/thinet_half.json`; with `--arms`, arms that are in it and not asked for stay.
"""

import argparse
import json
import statistics
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thinet_networks import Trained, resnet56
from torch import nn

from secateur.compensation import RestoreSettings
from secateur.cost import Budget, MinimumWarning
from secateur.files import write_text
from secateur.graph import trace
from secateur.methods import L1, ThiNet
from secateur.record import environment
from secateur.training import Store, TrainSettings, set_threads

IMAGES = 512
TRAINING = TrainSettings(
    batch_size=128, learning_rate=0.01, schedule="cosine", weight_decay=5e-4, augment=True, evaluate_every=0
)
BUDGET = Budget(macs=0.5)
STAGES = {
    "cut": RestoreSettings(),
    "refitted": RestoreSettings(compensate="both", images=IMAGES),
    "batch norm": RestoreSettings(compensate="both", images=IMAGES, batch_norm_images=IMAGES),
}
"""What is done right after the cut, each on top of the one before."""


ARMS = ("l1", "thinet", "weight_sum")


def method(arm: str, stage: str, epochs: int, seed: int) -> L1 | ThiNet:
    """Return the settings of one arm at one stage."""
    if arm == "l1":
        return L1(residual="inner", restore=STAGES[stage], finetune_epochs=epochs, finetune=TRAINING)
    return ThiNet(
        variant="weight_sum" if arm == "weight_sum" else "thinet",
        residual="inner",
        reweight=arm == "thinet" and stage != "cut",
        images=IMAGES,
        layer_epochs=0,
        evaluate_steps=False,
        restore=STAGES[stage],
        finetune_epochs=epochs,
        finetune=TRAINING,
        seed=seed,
    )


def top1(network: Trained, arm: str, stage: str, epochs: int, seed: int) -> tuple[float, nn.Module]:
    """Return the test accuracy of one arm after one stage, and the model."""
    task = network.task(seed, TRAINING)
    result = method(arm, stage, epochs, seed).compress(network.model, task, BUDGET, store=Store.temporary())
    return task.evaluate(result.model, "test").score, result.model


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2, help="of training; 0: none of the stages that train")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "thinet_half.json")
    options = parser.parse_args()
    set_threads(options.threads)
    warnings.simplefilter("ignore", MinimumWarning)
    network = resnet56(Path())
    dense = network.task(0).evaluate(network.model, "test")
    steps = [(stage, stage, 0) for stage in STAGES]
    if options.epochs:
        steps += [("trained", "batch norm", options.epochs), ("trained, nothing re-fitted", "cut", options.epochs)]
    kept = json.loads(options.out.read_text())["rows"] if set(options.arms) != set(ARMS) else []
    rows: list[dict[str, Any]] = [row for row in kept if row["arm"] not in options.arms]
    for arm in options.arms:
        for title, stage, epochs in steps:
            values, macs = [], 0
            for seed in options.seeds:
                value, model = top1(network, arm, stage, epochs, seed)
                macs = trace(model, network.task(seed).example_inputs).macs()
                values.append(value)
                print(f"{arm} {title} seed {seed}: {value:.4f}", flush=True)
            rows.append(
                {
                    "arm": arm,
                    "stage": title,
                    "epochs": epochs,
                    "macs": macs,
                    "test_top1": values,
                    "mean": statistics.fmean(values),
                    "spread": max(values) - min(values),
                }
            )
    record = {
        "benchmark": "thinet_half",
        "what": f"ResNet-56 (option B) on the lossless part of CIFAR-10 at half of the multiply-adds, {IMAGES} "
        f"training images to re-fit on, {max(row['epochs'] for row in rows)} epochs on 5,085",
        "seeds": options.seeds,
        "dense_test_top1": dense.score,
        "samples": dense.samples,
        "training": asdict(TRAINING),
        "rows": rows,
        "environment": asdict(environment("cpu")),
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
