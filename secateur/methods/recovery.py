"""Training between two cuts: whole passes over the training data, or a part of one."""

from torch import nn

from secateur.errors import UsageError
from secateur.methods.running import MethodRun
from secateur.training import TrainSettings


def check_recovery(epochs: float) -> None:
    """Refuse what is neither whole passes nor a part of one.

    Raises:
        UsageError: it is below 0, or above 1 with a fraction.
    """
    if not epochs >= 0 or (epochs > 1 and not float(epochs).is_integer()):
        raise UsageError(
            f"step_epochs is {epochs:g}; give whole passes over the training data, or a part of one between 0 and 1"
        )


def recovered(run: MethodRun, number: int, model: nn.Module, epochs: float, settings: TrainSettings | None) -> bool:
    """Train ``model`` after cut ``number``, which is not the last; False where no training is asked for.

    Args:
        run: of the method.
        number: of the cut; the phase is called ``recover-number``.
        model: trained in place.
        epochs: whole passes over the training data, or a part of one: then each phase draws samples of its own.
        settings: how to train; None for those of the fine-tuning.
    """
    part = 0 < epochs < 1
    result = run.train(
        phase_after(number),
        model,
        1 if part else int(epochs),
        settings=settings,
        subset=epochs if part else None,
        between_cuts=True,
    )
    return result is not None


def phase_after(number: int) -> str:
    """Return the name of the training after cut ``number``."""
    return f"recover-{number}"
