"""The learning rate of each step, as a pure function: a continued run needs no scheduler state."""

import math
from collections.abc import Callable

from secateur.training.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, *, epochs: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step.

    Args:
        settings: the schedule and its numbers.
        step: steps since the phase began, from 0.
        epochs: passes in the phase.
        steps_per_epoch: steps in one pass.

    Returns:
        During warm-up, a line from 0 to ``learning_rate``. Afterwards, with t ∈ [0, 1) the share of the rest
        of the phase that is over: constant: ``learning_rate``; step: ``learning_rate``·γᵏ after k milestones
        (counted from the beginning of the phase, changing between epochs only); cosine and linear: down to
        ``learning_rate_min``;
        triangular: up from ``learning_rate_min`` to ``learning_rate`` in the first half and down again in the
            second
        (the cycle of Gate Decorator, You et al. 2019, arXiv:1909.08174).
    """
    high, low = settings.learning_rate, settings.learning_rate_min
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return high * min(1.0, (step + 1) / warmup)
    if settings.schedule == "constant":
        return high
    if settings.schedule == "step":
        epoch = step // steps_per_epoch
        passed = sum(epoch >= (mark * epochs if mark < 1 else mark) for mark in settings.milestones)
        return float(high * settings.gamma**passed)
    share = (step - warmup) / max(1.0, epochs * steps_per_epoch - warmup)
    return low + (high - low) * _SHAPES[settings.schedule](share)


_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - share,
    "triangular": lambda share: 1 - abs(2 * share - 1),
}
