"""The published settings, and what a run does otherwise, as far as its own settings tell."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from secateur.training import TrainSettings
from secateur.training.schedules import learning_rate

RECOVER = TrainSettings(
    batch_size=128, learning_rate=1e-3, momentum=0.9, weight_decay=5e-4, schedule="step", milestones=(0.5,)
)
"""Between layers, from the authors' code for VGG-16: one epoch at a constant rate, and of two the second at a tenth."""

FINETUNE = TrainSettings(
    batch_size=128, learning_rate=1e-3, momentum=0.9, weight_decay=5e-4, schedule="step", milestones=(1 / 3, 2 / 3)
)
"""After the last layer, from the authors' code: 120,000 iterations, a tenth of the rate at 40,000 and at 80,000."""

EPOCHS = 12
"""Of ImageNet that 120,000 iterations of 128 images are, nearly."""

_LAYER_RATES = (1e-3, 1e-4)  # of VGG-16 and of ResNet-50
_LAST_EPOCHS = (12, 9)
_LONGER = (1, 2)  # epochs that the authors train after a layer

LONGEST = 10_000
"""Images that the authors sample rows from: 10 of each of 1,000 classes."""

PER_CLASS = 10


def departures(
    *,
    variant: str,
    reweight: bool,
    exact: bool,
    by_budget: bool,
    streams: Sequence[str],
    trained_as_published: bool,
) -> list[str]:
    """Return one sentence per departure.

    Args:
        variant: how filters are chosen.
        reweight: whether the next layer's inputs are weighted.
        exact: whether statistics are over all positions.
        by_budget: whether a budget decides how much stays.
        streams: residual streams that were cut.
        trained_as_published: see :func:`trains_as_published`.
    """
    notes = []
    chosen_by_output = variant in ("thinet", "thinet_tpami")
    if chosen_by_output and not reweight:
        notes.append("departs from the paper: the inputs of the next layer are not re-weighted (ThiNet w/o w)")
    if reweight and not chosen_by_output:
        notes.append(f"departs from the paper: the next layer is re-weighted though {variant} chose the filters")
    if (chosen_by_output or reweight) and exact:
        notes.append(
            "departs from the paper: the statistics of the next layer are exact, over all positions and filters of the "
            "images, not over rows sampled from them"
        )
    elif chosen_by_output or reweight:
        notes.append(
            "departs from the paper: images are drawn from the whole training split, not equally many of each class"
        )
    if by_budget:
        notes.append("departs from the paper: a budget decides how much of each layer stays")
    if streams:
        notes.append(
            "departs from the paper: residual streams are cut, by all layers that read them together "
            f"({', '.join(streams)})"
        )
    if not trained_as_published:
        notes.append(
            "departs from the paper: training is not the authors', for VGG-16 an epoch or two at a rate of 0.001 after "
            "each layer and 12 epochs after the last, at a tenth after 4 and 8; for ResNet-50 one at 0.0001, and 9"
        )
    return notes


def trains_as_published(
    recover: TrainSettings | None, passes: Iterable[float], finetune: TrainSettings | None, finetune_epochs: int
) -> bool:
    """Say whether training is that of the authors' code for VGG-16 or for ResNet-50, on any data.

    Args:
        recover: between cuts; None where it is the fine-tuning's or the task's.
        passes: over the data, after each cut but the last.
        finetune: after the last cut.
        finetune_epochs: passes then.
    """
    if recover is None or finetune is None or not set(passes) <= set(_LONGER):
        return False
    return any(
        _alike(recover, replace(RECOVER, learning_rate=rate), 1)
        and finetune_epochs == last
        and _alike(finetune, FINETUNE, last)
        for rate, last in zip(_LAYER_RATES, _LAST_EPOCHS, strict=True)
    )


def _alike(one: TrainSettings, other: TrainSettings, epochs: int) -> bool:
    """Say whether two settings are the same for so many epochs, however their schedules are written."""
    rates = [
        [learning_rate(settings, epoch, epochs=epochs, steps_per_epoch=1) for epoch in range(epochs)]
        for settings in (one, other)
    ]
    written = {"schedule": "constant", "milestones": ()}
    return rates[0] == rates[1] and replace(one, **written) == replace(other, **written)  # type: ignore[arg-type]
