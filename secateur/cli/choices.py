"""From what a user typed to what the recipe package takes; imports of anything heavy wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli.options import (
    BudgetOptions,
    CommonOptions,
    DataOptions,
    InputOptions,
    MethodOptions,
    ModelOptions,
    TrainingOptions,
)

if TYPE_CHECKING:
    from secateur.cost import Budget
    from secateur.methods import Magnitude
    from secateur.recipe import DataChoice, Machine, ModelChoice, Subject
    from secateur.training import TrainSettings


def model_choice(options: ModelOptions) -> ModelChoice:
    """Return which model."""
    from secateur.recipe import ModelChoice

    return ModelChoice(spec=options.model, weights=options.weights, num_classes=options.num_classes)


def data_choice(options: DataOptions) -> DataChoice:
    """Return which data."""
    from secateur.recipe import DataChoice

    return DataChoice(
        spec=options.data,
        root=options.data_root,
        normalize=options.normalize,
        validation_share=options.validation_share,
    )


def machine(common: CommonOptions, *, workers: int = 2) -> Machine:
    """Return where to compute."""
    from secateur.recipe import Machine

    return Machine(threads=common.threads, device=common.device, workers=workers)


def budget(options: BudgetOptions) -> Budget:
    """Return the budget."""
    from secateur.recipe import budget_from

    return budget_from(vars(options))


def method(options: MethodOptions, *, seed: int, training: TrainingOptions | None = None) -> Magnitude:
    """Return the method with its settings."""
    from secateur.methods import Magnitude

    return Magnitude(
        criterion=options.criterion,
        combine=options.combine,
        scope=options.scope,
        min_units=options.min_units,
        min_share=options.min_share,
        round_to=options.round_to,
        lock=tuple(options.lock or ()),
        steps=options.steps,
        step_epochs=options.step_epochs,
        finetune_epochs=training.epochs if training is not None else 0,
        finetune=tuning(training) if training is not None else None,
        seed=seed,
    )


def tuning(options: TrainingOptions) -> TrainSettings:
    """Return how to fine-tune."""
    from secateur.recipe import fine_tuning

    return fine_tuning(
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        schedule=options.schedule,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
        distill=options.distill,
        temperature=options.temperature,
        weight=options.weight,
    )


def subject(model: ModelOptions, inputs: InputOptions, common: CommonOptions, *files: Path) -> Subject:
    """Return the dense model with its weights and example inputs.

    Args:
        model: which model.
        inputs: which inputs.
        common: where to compute.
        files: that may say which inputs the model takes, where ``inputs`` do not; the weight file is one too.
    """
    from secateur.errors import UsageError
    from secateur.recipe import DataChoice, build_subject, parse_shape, read_data, settle, shape_in_files

    if inputs.input is not None and inputs.data is not None:
        raise UsageError(
            f"example inputs are asked for twice, by --input {inputs.input} and by --data {inputs.data}; give one of "
            "them"
        )
    place = machine(common)
    device = settle(place)
    shape = parse_shape(inputs.input) if inputs.input is not None else None
    data = None
    if inputs.data is not None:
        choice = DataChoice(spec=inputs.data, root=inputs.data_root, normalize=inputs.normalize)
        data = read_data(choice, place, model=model.model)
    elif shape is None:
        shape = shape_in_files((*files, *([Path(model.weights)] if model.weights is not None else [])))
    return build_subject(model_choice(model), data=data, shape=shape, device=device, seed=common.seed)
