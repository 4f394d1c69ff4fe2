"""Table 3 of Network Slimming: the perceptron 784–500–300–10 on MNIST, four fifths of its hidden neurons cut.

Run with `.venv/bin/python benchmarks/slimming_mnist.py`; needs `../shared/data/MNIST` (see its README) and about an
hour on one core. The settings are the paper's (Liu et al. 2017, arXiv:1708.06519, §4.2): batches of 256, 30 epochs with
the penalty and 30 of fine-tuning, SGD with Nesterov momentum from rate 0.1, a tenth of it after each third. λ and the
weight decay are chosen from a grid by the error on validation images, a sixth of the training images, under a seed of
its own (the dense network's weight decay by its own error); then three seeds are trained, the last epoch counts, and
the test images are looked at once per run. Dense networks are trained for as long as one of the two phases. Each run is
a folder of its own (its phases, and what it measured), so the script can be stopped and continued; at the end the
numbers are collected in `benchmarks/records/slimming_mnist.json`.
"""

import argparse
import itertools
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.data import load_data
from secateur.files import write_text
from secateur.graph import trace
from secateur.methods.network_slimming import NetworkSlimming
from secateur.models import build_model
from secateur.randomness import derive_seed
from secateur.record import environment
from secateur.training import Store, SupervisedTask, TrainSettings, set_threads

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
PUBLISHED = {"dense": 0.0143, "slim": 0.0149}  # test error, Table 3
SEARCH_SEED = 1000  # of the runs that choose the settings; none of those that are reported
SEARCH_SHARE = 1 / 6  # of the training images, that choose


@dataclass(frozen=True)
class Arm:
    """What is trained: a dense network, or one that is slimmed with the penalty λ."""

    weight_decay: float
    penalty: float | None = None

    @property
    def name(self) -> str:
        """Return it as the beginning of a folder's name."""
        what = "dense" if self.penalty is None else f"slim-{self.penalty:g}"
        return f"{what}-decay-{self.weight_decay:g}"


def settings(options: argparse.Namespace, weight_decay: float) -> TrainSettings:
    """Return the paper's training for MNIST."""
    return TrainSettings(
        batch_size=256,
        learning_rate=options.learning_rate,
        nesterov=True,
        weight_decay=weight_decay,
        schedule="step",
        milestones=(1 / 3, 2 / 3),
        augment=False,
        evaluate_every=0,
    )


def network(seed: int) -> nn.Module:
    """Return an untrained dense network of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "slimming mnist"))
        return build_model("mlp-500-300")


def run(options: argparse.Namespace, arm: Arm, seed: int) -> dict[str, Any]:
    """Train one network; return what it measured, from its folder if it is done.

    The seed that chooses settings never sees the test images.
    """
    searching = seed == SEARCH_SEED
    folder = options.runs / f"{arm.name}-{seed}"
    file = folder / "result.json"
    share = SEARCH_SHARE if searching else options.validation_share
    asked = {name: getattr(options, name) for name in ("epochs", "learning_rate", "ratio")}
    asked |= {"validation_share": share, **asdict(arm)}
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text())
        if known["asked_for"] != asked:
            raise SystemExit(f"{file} was made with {known['asked_for']}, not {asked}; give another folder with --runs")
        return known
    data = load_data("mnist", root=SHARED, validation_share=share)
    task = SupervisedTask(data, settings=settings(options, arm.weight_decay), seed=seed, device="cpu")
    model, store, widths = network(seed), Store(folder), [500, 300]
    if arm.penalty is None:
        store.train("dense", task, model, epochs=options.epochs)
    else:
        method = NetworkSlimming(
            ratio=options.ratio,
            scope="local",
            penalty=arm.penalty,
            start="scratch",
            sparse_epochs=options.epochs,
            finetune_epochs=options.epochs,
            training=settings(options, arm.weight_decay),
            seed=seed,
        )
        result = method.compress(model, task, None, store=store)
        model, widths = result.model, list(result.plan.kept_sizes().values())
    graph = trace(model, task.example_inputs)
    found = {
        "asked_for": asked,
        "arm": arm.name,
        "seed": seed,
        "hidden": widths,
        "params": graph.params(),
        "macs": graph.macs(),
        "validation_error": round(1 - task.evaluate(model).score, 6),
        "test_error": None if searching else round(1 - task.evaluate(model, "test").score, 6),
        "test_samples": 0 if searching else data.size("test"),
        "train_samples": data.size("train"),
        "environment": asdict(environment(task.device)),
    }
    write_text(file, json.dumps(found, indent=1) + "\n")
    return found


def chosen(options: argparse.Namespace, arms: list[Arm]) -> tuple[Arm, list[dict[str, Any]]]:
    """Return the arm of the least validation error, and what was found of all."""
    search = []
    for arm in arms:
        found = run(options, arm, SEARCH_SEED)
        search.append({**asdict(arm), "validation_error": found["validation_error"]})
        print(f"{arm.name}: validation error {100 * found['validation_error']:.2f} %", flush=True)
    best = min(range(len(arms)), key=lambda number: search[number]["validation_error"])
    return arms[best], search


def row(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one arm over all seeds."""
    errors = [one["test_error"] for one in runs]
    return {
        "arm": name,
        "hidden": runs[0]["hidden"],
        "params": runs[0]["params"],
        "macs": runs[0]["macs"],
        "test_error": errors,
        "mean": statistics.fmean(errors),
        "standard_deviation": statistics.stdev(errors) if len(errors) > 1 else None,
        "published": PUBLISHED[name],
    }


def main() -> None:
    """Run what is missing, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--penalties", nargs="+", type=float, default=[1e-4, 1e-5, 1e-6], help="λ to choose from")
    parser.add_argument("--weight-decays", nargs="+", type=float, default=[0.0, 1e-5, 1e-4, 5e-4, 1e-3])
    parser.add_argument("--epochs", type=int, default=30, help="with the penalty, and again of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--ratio", type=float, default=0.8, help="share of the neurons of each hidden layer that goes")
    parser.add_argument("--validation-share", type=float, default=0.05, help="of the training images, when reporting")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "slimming_mnist", help="folder of the runs")
    parser.add_argument("--only-run", action="store_true", help="run what is missing, write no record")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records" / "slimming_mnist.json")
    options = parser.parse_args()
    set_threads(options.threads)
    if SEARCH_SEED in options.seeds:
        raise SystemExit(f"seed {SEARCH_SEED} chooses the settings; report others")
    dense, dense_search = chosen(options, [Arm(decay) for decay in options.weight_decays])
    grid = [Arm(decay, penalty) for decay, penalty in itertools.product(options.weight_decays, options.penalties)]
    slim, slim_search = chosen(options, grid)
    runs: dict[str, list[dict[str, Any]]] = {"dense": [], "slim": []}
    for seed in options.seeds:
        for name, arm in (("dense", dense), ("slim", slim)):
            found = run(options, arm, seed)
            runs[name].append(found)
            print(f"seed {seed} {name} {found['hidden']}: test error {100 * found['test_error']:.2f} %", flush=True)
    if options.only_run:
        return
    first = runs["dense"][0]
    record = {
        "benchmark": "slimming_mnist",
        "what": f"784–500–300–10 on MNIST, {options.ratio:g} of each hidden layer cut, {options.epochs} epochs with "
        f"the penalty and {options.epochs} of fine-tuning, last epoch",
        "seeds": options.seeds,
        "train_samples": first["train_samples"],
        "samples": first["test_samples"],
        "settings": asdict(settings(options, slim.weight_decay)),
        "search": {"seed": SEARCH_SEED, "validation_share": SEARCH_SHARE, "dense": dense_search, "slim": slim_search},
        "chosen": {"dense": asdict(dense), "slim": asdict(slim)},
        "rows": [row(name, found) for name, found in runs.items()],
        "environment": first["environment"],
    }
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
