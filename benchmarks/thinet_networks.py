"""The trained networks that ThiNet is compared on, with their data."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from secateur.data import DataSource, load_data
from secateur.models import build_model, load_weights
from secateur.recipe import DataChoice, Machine, read_data
from secateur.training import Store, SupervisedTask, TrainSettings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
LENET = TrainSettings(batch_size=128, learning_rate=0.01, weight_decay=5e-4, schedule="cosine", evaluate_every=0)
LENET_EPOCHS = 8
BATCH_SIZE = 128


@dataclass(frozen=True)
class Trained:
    """A trained network, its data, and how it is called in tables."""

    title: str
    model: nn.Module
    data: DataSource

    def task(self, seed: int, settings: TrainSettings | None = None) -> SupervisedTask:
        """Return a task that draws training images by ``seed``."""
        return SupervisedTask(
            self.data, settings=settings or TrainSettings(batch_size=BATCH_SIZE), seed=seed, device="cpu"
        )


def resnet56(runs: Path) -> Trained:
    """Return ResNet-56 with projection shortcuts on the lossless part of CIFAR-10 (400 images decide, 617 report)."""
    del runs
    model = build_model("resnet56-b")
    load_weights(model, SHARED / "weights" / "resnet56-cifar10-shortcut-b.safetensors")
    data = read_data(DataChoice(spec="benchmarks/cifar10.py:lossless_parts"), Machine(device="cpu"), model="resnet56-b")
    return Trained("ResNet-56 on CIFAR-10", model.eval(), data)


def lenet5(runs: Path) -> Trained:
    """Return LeNet-5 on MNIST, trained once into the folder of the runs."""
    data = load_data("mnist", root=SHARED, validation_share=1 / 12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("lenet5")
    task = SupervisedTask(data, settings=LENET, seed=0, device="cpu")
    Store(runs / "lenet5-dense").train("dense", task, model, epochs=LENET_EPOCHS)
    return Trained("LeNet-5 on MNIST", model.eval(), data)


NETWORKS = {"resnet56-b": resnet56, "lenet5": lenet5}
