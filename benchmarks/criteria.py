"""L1 against random at one budget: ResNet-56 (option B) on the lossless part of CIFAR-10, paired by seed.

Run with `.venv/bin/python benchmarks/criteria.py`; needs `../shared/data` (see its README) and some twenty minutes on
two cores. Each seed decides the draw of `random`, the order of the data and the augmentation; both criteria share it.
Half of the multiply-adds go, residual streams included, then two epochs of fine-tuning with the settings of `secateur
prune`; the last epoch is reported. The record goes to `benchmarks/records/criteria.json`.
"""

import argparse
import json
import statistics
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from secateur.cost import Budget, MinimumWarning
from secateur.data import load_data
from secateur.files import write_text
from secateur.methods import Magnitude
from secateur.models import build_model, load_weights
from secateur.record import environment
from secateur.training import Store, SupervisedTask, TrainSettings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
SETTINGS = TrainSettings(learning_rate=0.01, schedule="cosine", weight_decay=5e-4, evaluate_every=0)


def top1(criterion: str, seed: int, epochs: int) -> tuple[float, int]:
    """Cut, fine-tune and return test accuracy and sample count."""
    data = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", normalize="cifar10")
    model = build_model("resnet56-b")
    load_weights(model, SHARED / "weights" / "resnet56-cifar10-shortcut-b.safetensors")
    task = SupervisedTask(data, settings=SETTINGS, seed=seed, device="cpu")
    method = Magnitude(criterion=criterion, finetune_epochs=epochs, residual="group", seed=seed)
    result = method.compress(model, task, Budget(macs=0.5), store=Store.temporary())
    found = task.evaluate(result.model, "test")
    return found.top1, found.samples


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "criteria.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", MinimumWarning)
    found: dict[str, list[float]] = {"l1": [], "random": []}
    samples = 0
    for seed in options.seeds:
        for criterion, values in found.items():
            accuracy, samples = top1(criterion, seed, options.epochs)
            values.append(accuracy)
            print(f"seed {seed} {criterion}: {accuracy:.4f}", flush=True)
    record = {
        "benchmark": "criteria",
        "what": f"ResNet-56 (option B), half of the multiply-adds, {options.epochs} epochs of fine-tuning on the 5,085 "
        "lossless images less the validation split",
        "seeds": options.seeds,
        "samples": samples,
        "environment": asdict(environment("cpu")),
        "rows": [
            {
                "criterion": criterion,
                "test_top1": values,
                "mean": statistics.fmean(values),
                "spread": (max(values) - min(values)) / 2,
            }
            for criterion, values in found.items()
        ],
        "paired_difference": [a - b for a, b in zip(found["l1"], found["random"], strict=True)],
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
