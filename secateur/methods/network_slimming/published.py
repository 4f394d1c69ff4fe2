"""The published settings, and what a run does otherwise, as far as its own settings tell."""

from secateur.training import TrainSettings

TRAINING = TrainSettings(
    batch_size=64, learning_rate=0.1, nesterov=True, weight_decay=1e-4, schedule="step", milestones=(0.5, 0.75)
)
"""As published for CIFAR (§4.2): SGD with Nesterov momentum from rate 0.1, a tenth of it after half of the epochs, a
hundredth after three quarters."""

PUBLISHED_EPOCHS = (160, 20, 60, 30)  # on CIFAR, SVHN, ImageNet and MNIST

PUBLISHED_SCALE = 0.5  # γ where training begins

STREAMS = "departs from the paper: residual streams are cut as whole groups, for all of their readers at once"


def departures(*, by_budget: bool, from_weights: bool, sparse_epochs: int, scale_init: float) -> list[str]:
    """Return one sentence per departure.

    Args:
        by_budget: whether a budget decides how much goes.
        from_weights: whether sparse training goes on from weights that were given.
        sparse_epochs: of sparse training.
        scale_init: γ where training starts from scratch.
    """
    notes = []
    if by_budget:
        notes.append("departs from the paper: a budget decides how many channels go, not a share of them")
    if not sparse_epochs:
        notes.append("departs from the paper: there was no training with a penalty on γ")
        return notes
    if from_weights:
        notes.append("departs from the paper: sparse training goes on from given weights, not from scratch")
    elif scale_init != PUBLISHED_SCALE:
        notes.append(f"departs from the paper: γ begins at {scale_init:g}, not at {PUBLISHED_SCALE:g}")
    if sparse_epochs not in PUBLISHED_EPOCHS:
        notes.append(
            f"departs from the paper: sparse training takes {sparse_epochs} epoch(s), not 160 (CIFAR), 20 (SVHN), 60 "
            "(ImageNet) or 30 (MNIST)"
        )
    return notes
