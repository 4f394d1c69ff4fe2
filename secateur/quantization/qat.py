"""Training with rounding in the forward pass (QAT), from a calibrated simulation on.

Source: Wu et al. 2020, arXiv:2004.09602, §6: start from the best calibration with its ranges frozen, gradients pass the
rounding where nothing is clipped, about a tenth of the original schedule, a learning rate of 1 % of the original one
that falls along half a cosine to 0.01 %. Batch norm is folded or frozen, dropout is gone. Learned steps are those of
Esser et al. 2020, arXiv:1902.08153.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from secateur.errors import QuantizationError
from secateur.names import unknown_name
from secateur.quantization.simulation import Simulation
from secateur.record import TrainResult
from secateur.training.settings import TrainSettings
from secateur.training.task import Subset, Task

LearnedSteps = Literal["none", "weights", "activations", "all"]


def qat_settings(settings: TrainSettings) -> TrainSettings:
    """Return how to train with rounding a network that ``settings`` trained.

    In float32 whatever the device: what is rounded to integers must not have been rounded to bfloat16 before. Steps and
    biases do not decay.
    """
    return replace(
        settings,
        learning_rate=settings.learning_rate * 1e-2,
        learning_rate_min=settings.learning_rate * 1e-4,
        schedule="cosine",
        warmup_epochs=0.0,
        precision="fp32",
        decay_norms_and_biases=False,
    )


def train_quantized(
    simulation: Simulation,
    task: Task,
    *,
    epochs: int,
    settings: TrainSettings,
    learned_steps: LearnedSteps = "none",
    subset: Subset | None = None,
    frozen: Iterable[str] = (),
    hooks: Sequence[object] = (),
) -> TrainResult:
    """Train the weights of a calibrated simulation, in place, while it rounds.

    Args:
        simulation: with ranges set.
        task: the training; distillation from the float model is its own setting.
        epochs: passes over the training data.
        settings: of this phase, such as :func:`qat_settings` of those of the float model.
        learned_steps: which steps training changes too: of weights, of activations, of all; ``"none"`` leaves all
            ranges as calibrated. They stay parameters afterwards, for a continued run; ``Quantizer.freeze`` ends it.
        subset: train on some samples only.
        frozen: names of parameters, or of modules, that stay as they are.
        hooks: training hooks; masks on weights go by the same names as those of the model.

    Raises:
        QuantizationError: the simulation does not round, the settings compute with less than float32, or
            ``learned_steps`` is unknown.
    """
    if learned_steps not in get_args(LearnedSteps):
        raise QuantizationError(unknown_name("learned_steps", learned_steps, get_args(LearnedSteps)))
    if not simulation.rounds:
        raise QuantizationError("the simulation rounds nowhere; calibrate it and set its ranges before training it")
    if settings.precision not in ("fp32", "auto"):
        raise QuantizationError(
            f"precision is {settings.precision}, which rounds before the integers do; train with precision fp32"
        )
    placement = simulation.placement
    chosen = {
        "none": (),
        "weights": tuple(placement.weights),
        "activations": placement.activations,
        "all": (*placement.activations, *placement.weights),
    }[learned_steps]
    for name, site in simulation.sites.items():
        if name in chosen and site.mode == "quantize":
            site.learn()
    return task.train(
        simulation.module,
        epochs=epochs,
        settings=replace(settings, precision="fp32"),
        subset=subset,
        frozen=frozen,
        hooks=hooks,
    )
