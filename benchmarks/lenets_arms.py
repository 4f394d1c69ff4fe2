"""What `benchmarks/lenets.py` compares: ways to prune, and one run of each."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.cost import Budget
from secateur.data import load_data
from secateur.errors import TrainingError
from secateur.files import write_text
from secateur.graph import trace
from secateur.methods.contract import Compressed
from secateur.methods.weights_and_connections import Regrow, WeightsAndConnections
from secateur.models import build_model
from secateur.randomness import derive_seed
from secateur.record import environment
from secateur.sparse import encode, load_sparse, nonzeros, without_dead
from secateur.training import Store, SupervisedTask, TrainSettings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
SEARCH_SEED = 1000  # of the runs that choose settings; none of those that are reported
SEARCH_SHARE = 1 / 6  # of the training images, that choose

EPOCHS = {"lenet-300-100": (30, 40), "lenet5": (15, 20)}
"""Of the dense training, and of pruning and retraining in all, unless asked for otherwise."""

FILES = ("fp32", "codebook", "smallest")
"""Exact values; shared values with the widths by default; shared values with indices of the width that takes least, and
narrower codes for convolutions."""
CONV_CODEBOOK_BITS = 6

ARMS = ("once", "iterative", "gradual", "surgery", "surgery-scan")
"""The paper's way in one round and in four; many small steps over all weights together, in which weights only go; and
weights that come back, with the budget over all weights or by scans of the layers."""


@dataclass(frozen=True)
class Dense:
    """How the dense network is trained."""

    learning_rate: float
    weight_decay: float

    @property
    def name(self) -> str:
        """Return it as the beginning of a folder's name."""
        return f"dense-rate-{self.learning_rate:g}-decay-{self.weight_decay:g}"


@dataclass(frozen=True)
class Pruned:
    """How it is pruned: to one of ``ratio`` parameters, and retrained from this learning rate."""

    arm: str
    ratio: float
    learning_rate: float

    @property
    def name(self) -> str:
        """Return it as the beginning of a folder's name."""
        return f"{self.arm}-{self.ratio:g}x-rate-{self.learning_rate:g}"


def training(options: argparse.Namespace, learning_rate: float, weight_decay: float, schedule: str) -> TrainSettings:
    """Return one phase's settings."""
    return TrainSettings(
        batch_size=options.batch,
        learning_rate=learning_rate,
        nesterov=True,
        weight_decay=weight_decay,
        schedule=schedule,  # type: ignore[arg-type]
        augment=False,
        channels_last=True,  # LeNet-5's steps take 0.6 of the time on a CPU
        evaluate_every=0,
    )


def task_for(options: argparse.Namespace, dense: Dense, seed: int) -> SupervisedTask:
    """Return the task of a seed; the seed that chooses settings has more images to choose by."""
    share = SEARCH_SHARE if seed == SEARCH_SEED else options.validation_share
    data = load_data("mnist", root=SHARED, validation_share=share)
    settings = training(options, dense.learning_rate, dense.weight_decay, "cosine")
    return SupervisedTask(data, settings=settings, seed=seed, device=options.device)


def epochs_of(options: argparse.Namespace, network: str) -> tuple[int, int]:
    """Return the epochs of the dense training, and of pruning and retraining in all."""
    dense, pruned = EPOCHS[network]
    return options.dense_epochs or dense, options.epochs or pruned


def dense_network(options: argparse.Namespace, network: str, dense: Dense, seed: int) -> nn.Module:
    """Return the trained dense network, from its folder if it is done."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lenets", network))
        model = build_model(network)
    store = Store(options.runs / network / f"{dense.name}-{seed}")
    store.train("dense", task_for(options, dense, seed), model, epochs=epochs_of(options, network)[0])
    return model


def method(options: argparse.Namespace, network: str, dense: Dense, pruned: Pruned, seed: int) -> WeightsAndConnections:
    """Return the arm's method; all arms train for as many epochs in total."""
    epochs, decay = epochs_of(options, network)[1], dense.weight_decay
    falling = training(options, pruned.learning_rate, decay, "cosine")
    constant = training(options, pruned.learning_rate, decay, "constant")
    common: dict[str, Any] = {"finetune": falling, "cut_dead": False, "seed": seed}
    if pruned.arm == "once":
        turns = 2 if network == "lenet5" else 1
        return WeightsAndConnections(**common, order="linear_first", finetune_epochs=max(1, epochs // turns))
    if pruned.arm in ("iterative", "gradual"):
        rounds = 4 if pruned.arm == "iterative" else options.rounds
        each = max(1, 2 * epochs // 3 // (rounds - 1))
        last = max(1, epochs - each * (rounds - 1))
        allocation = "scan" if pruned.arm == "iterative" else "global"
        return WeightsAndConnections(
            **common, allocation=allocation, iterations=rounds, retrain_epochs=each, finetune_epochs=last
        )
    changing = max(1, 2 * epochs // 3)
    return WeightsAndConnections(
        **common,
        allocation="scan" if pruned.arm == "surgery-scan" else "global",
        regrow=Regrow(epochs=changing, every=options.every, training=constant),
        finetune_epochs=max(1, epochs - changing),
    )


def result_file(options: argparse.Namespace, network: str, dense: Dense, pruned: Pruned | None, seed: int) -> Path:
    """Return the file that holds what one run measured, once it is done."""
    name = dense.name if pruned is None else f"{pruned.name}-of-{dense.name}"
    file: Path = options.runs / network / f"{name}-{seed}" / "result.json"
    return file


def run(options: argparse.Namespace, network: str, dense: Dense, pruned: Pruned | None, seed: int) -> dict[str, Any]:
    """Train, or prune, one network; return what it measured, from its folder if it is done.

    The seed that chooses settings never sees the test images.
    """
    searching = seed == SEARCH_SEED
    file = result_file(options, network, dense, pruned, seed)
    folder = file.parent
    dense_epochs, epochs = epochs_of(options, network)
    asked: dict[str, Any] = {"dense_epochs": dense_epochs, "epochs": epochs, "batch": options.batch}
    asked |= {"dense": asdict(dense), "pruned": None if pruned is None else asdict(pruned)}
    asked |= {"validation_share": SEARCH_SHARE if searching else options.validation_share}
    asked |= {} if pruned is None else {"every": options.every, "rounds": options.rounds}
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text())
        if known["asked_for"] != asked:
            raise SystemExit(f"{file} was made with {known['asked_for']}, not {asked}; give another folder with --runs")
        return known
    task = task_for(options, dense, seed)
    model = dense_network(options, network, dense, seed)
    found: dict[str, Any] = {"asked_for": asked, "name": folder.name.removesuffix(f"-{seed}"), "seed": seed}
    if pruned is not None:
        budget = Budget(nonzeros=int(nonzeros(model) / pruned.ratio))
        chosen = method(options, network, dense, pruned, seed)
        try:
            result = chosen.compress(model, task, budget, store=Store(folder))
        except TrainingError as error:
            if not searching:
                raise
            found |= {"diverged": str(error), "validation_error": 1.0}  # a rate that is too high is not chosen
            write_text(file, json.dumps(found, indent=1) + "\n")
            return found
        model = result.model
        found |= of_result(result, task, folder, network, searching=searching)
    found |= {
        "params": nonzeros(model),
        "validation_error": round(1 - task.evaluate(model).score, 6),
        "test_error": None if searching else round(1 - task.evaluate(model, "test").score, 6),
        "test_samples": 0 if searching else task.data.size("test"),
        "train_samples": task.data.size("train"),
        "environment": asdict(environment(task.device)),
    }
    write_text(file, json.dumps(found, indent=1) + "\n")
    return found


def of_result(
    result: Compressed, task: SupervisedTask, folder: Path, network: str, *, searching: bool
) -> dict[str, Any]:
    """Return the table of layers, what died, and what files take."""
    found = result.record.weights
    assert found is not None
    assert result.masks is not None
    graph_inputs = task.example_inputs
    narrow = without_dead(trace(result.model, graph_inputs), result.model, result.masks, graph_inputs)
    files = {} if searching else {kind: file_of(result.model, folder, network, kind) for kind in FILES}
    return {
        "nonzeros": found.nonzeros,
        "ratio": found.ratio,
        "layers": [{**asdict(layer), "density": layer.density, "work": layer.work} for layer in found.layers],
        "rounds": [asdict(one) for one in found.rounds],
        "scans": [asdict(one) for one in found.scans],
        "dead_units": narrow.dead.by_group(),
        "dead_difference": narrow.difference,
        "nonzeros_without_dead": nonzeros(narrow.model, narrow.masks),
        "energy_pj": {"dense": found.dense_energy_pj, "pruned": found.energy_pj},
        "speed": found.speed,
        "files": files,
    }


def file_of(model: nn.Module, folder: Path, network: str, kind: str) -> dict[str, Any]:
    """Write the compact file, and evaluate it in a fresh process."""
    path = folder / f"{kind}.sparse.safetensors"
    if kind == "smallest":
        narrow = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        widths = {f"{name}.weight": CONV_CODEBOOK_BITS for name in narrow}
        sizes = encode(model, path, values="codebook", bits="best", codebook_bits=widths)
    else:
        sizes = encode(model, path, values=kind)  # type: ignore[arg-type]
    words = [sys.executable, __file__, network, str(path)]
    told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=600).stdout
    return {"bytes": path.stat().st_size, "parts": asdict(sizes), "test_error": float(told)}


def main() -> None:
    """Print the test error of a compact file: ``lenets_arms.py NETWORK FILE``."""
    network, path = sys.argv[1:]
    model = load_sparse(build_model(network), path)
    task = SupervisedTask(load_data("mnist", root=SHARED), device="cpu")
    print(1 - task.evaluate(model, "test").score)


if __name__ == "__main__":
    main()
