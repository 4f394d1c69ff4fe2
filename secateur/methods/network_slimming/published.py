"""The published settings, and what a run does otherwise, as far as its own settings tell."""

from collections.abc import Sequence
from typing import Literal, Protocol

from secateur.training import TrainSettings
from secateur.wording import counted

TRAINING = TrainSettings(
    batch_size=64, learning_rate=0.1, nesterov=True, weight_decay=1e-4, schedule="step", milestones=(0.5, 0.75)
)
"""As published for CIFAR (§4.2): SGD with Nesterov momentum from rate 0.1, a tenth of it after half of the epochs, a
hundredth after three quarters."""

PUBLISHED_EPOCHS = (160, 20, 60, 30)  # on CIFAR, SVHN, ImageNet and MNIST

PUBLISHED_SCALE = 0.5  # γ where training begins

IMAGENET_FINETUNE = (5, 1e-3)  # epochs and learning rate; the one data set whose fine-tuning is not training repeated

STREAMS = "departs from the paper: residual streams are cut as whole groups, for all of their readers at once"


class SlimmingSettings(Protocol):
    """The settings of the method by which a run may depart from the paper."""

    @property
    def start(self) -> Literal["weights", "scratch"]:
        """Where sparse training starts."""

    @property
    def scale_init(self) -> float:
        """γ where it starts from scratch."""

    @property
    def sparse_epochs(self) -> int:
        """Epochs of sparse training."""

    @property
    def training(self) -> TrainSettings | None:
        """How to train sparsely; None for the task's own settings."""

    @property
    def finetune_epochs(self) -> int:
        """Epochs of fine-tuning after each cut."""

    @property
    def finetune(self) -> TrainSettings | None:
        """How to fine-tune; None for as in sparse training."""


def departures(settings: SlimmingSettings, *, by_budget: bool) -> list[str]:
    """Return one sentence per departure.

    Args:
        settings: of the run.
        by_budget: whether a budget decides how much goes.
    """
    found = ["a budget decides how many channels go, not a share of them"] if by_budget else []
    found += [*_of_sparse_training(settings), *_of_fine_tuning(settings)]
    return [f"departs from the paper: {text}" for text in found]


def _of_sparse_training(settings: SlimmingSettings) -> Sequence[str]:
    epochs = settings.sparse_epochs
    if not epochs:
        return ["there was no training with a penalty on γ"]
    found = []
    if settings.start == "weights":
        found.append("sparse training goes on from given weights, not from scratch")
    elif settings.scale_init != PUBLISHED_SCALE:
        found.append(f"γ begins at {settings.scale_init:g}, not at {PUBLISHED_SCALE:g}")
    if epochs not in PUBLISHED_EPOCHS:
        found.append(
            f"sparse training takes {counted(epochs, 'epoch')}, not 160 (CIFAR), 20 (SVHN), 60 (ImageNet) or 30 (MNIST)"
        )
    return found


def _of_fine_tuning(settings: SlimmingSettings) -> Sequence[str]:
    """Return how fine-tuning differs from sparse training again, which is what the paper does but on ImageNet."""
    epochs, chosen = settings.finetune_epochs, settings.finetune or settings.training
    if not epochs:
        return ["the cut network is not fine-tuned"]
    if chosen is not None and (epochs, chosen.learning_rate) == IMAGENET_FINETUNE:
        return []
    found = []
    # Without sparse training the published one is what fine-tuning should repeat.
    if chosen != (settings.training if settings.sparse_epochs else TRAINING):
        found.append("fine-tuning has settings of its own, where the paper repeats those of sparse training")
    if settings.sparse_epochs and epochs != settings.sparse_epochs:
        found.append(
            f"fine-tuning takes {counted(epochs, 'epoch')}, where the paper takes as many as for sparse training, here "
            f"{settings.sparse_epochs}"
        )
    elif not settings.sparse_epochs and epochs not in PUBLISHED_EPOCHS:
        found.append(
            f"fine-tuning takes {counted(epochs, 'epoch')}, not 160 (CIFAR), 20 (SVHN), 5 (ImageNet, rate 0.001) or 30 "
            "(MNIST)"
        )
    return found
