"""From what a user typed to what the recipe package takes; nothing heavy is imported before a command runs.

The method, with its many settings, is in :mod:`secateur.cli.method_choices`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli.method_options import MethodOptions
from secateur.cli.options import (
    BudgetOptions,
    CommonOptions,
    DataOptions,
    InputOptions,
    ModelOptions,
    ReadingOptions,
    RestoreOptions,
    SearchOptions,
)

if TYPE_CHECKING:
    from secateur.compensation import RestoreSettings
    from secateur.cost import Budget
    from secateur.recipe import DataChoice, Machine, MaxDrop, ModelChoice, Recipe, Subject


def model_choice(options: ModelOptions) -> ModelChoice:
    """Return which model."""
    from secateur.recipe import ModelChoice

    return ModelChoice(
        spec=options.model,
        weights=options.weights,
        new_head=options.new_head,
        num_classes=options.num_classes,
        fold_weight_standardisation=options.fold_weight_standardisation,
    )


def data_choice(options: DataOptions) -> DataChoice:
    """Return which data."""
    from secateur.recipe import DataChoice

    return DataChoice(
        spec=options.data,
        root=options.data_root,
        normalize=options.normalize,
        augmentation=options.augment,
        validation_share=options.validation_share,
        train_share=options.train_share,
        download=options.download,
    )


def on_machine(recipe: Recipe, threads: int | None, device: str | None) -> Recipe:
    """Return a recipe with the threads and the device of the command line, where they are given."""
    from dataclasses import replace

    place = recipe.machine
    return replace(
        recipe,
        machine=replace(
            place,
            threads=place.threads if threads is None else threads,
            device=place.device if device is None else device,
        ),
    )


def machine(common: CommonOptions, *, workers: int = 2) -> Machine:
    """Return where to compute."""
    from secateur.recipe import Machine

    return Machine(threads=common.threads, device=common.device, workers=workers)


def budget(options: BudgetOptions, method: MethodOptions, search: SearchOptions | None = None) -> Budget | None:
    """Return the budget; None where ratios or the accuracy decide how much goes."""
    from secateur.errors import UsageError
    from secateur.recipe import budget_from

    given = {name: amount for name, amount in vars(options).items() if name != "latency_table"}
    searches = search is not None and search.max_drop is not None
    named = {text.partition("=")[0].strip() for text in method.setting or ()}
    shares = method.ratio or not named.isdisjoint(("ratio", "ratios", "keep", "quality", "tolerance_points"))
    if shares and searches:
        raise UsageError("a ratio and --max-drop both decide how much is cut; give one of them")
    if all(amount is None for amount in given.values()) and (shares or searches):
        return None
    return budget_from(given)


def max_drop(search: SearchOptions) -> MaxDrop | None:
    """Return the accuracy that decides how much goes, where one was given.

    Raises:
        UsageError: there is none, but an option that belongs to it; or a value is out of range.
    """
    from secateur.errors import UsageError
    from secateur.recipe import MaxDrop

    more = {"amount": search.shrink, "recovery_epochs": search.recovery_epochs}
    given = {name: value for name, value in more.items() if value is not None}
    if search.max_drop is not None:
        return MaxDrop(points=search.max_drop, **given)  # type: ignore[arg-type]  # of two kinds
    for name, value in given.items():
        flag = "shrink" if name == "amount" else "recovery-epochs"
        raise UsageError(
            f"--{flag} {value} is for the search that --max-drop starts, and there is no --max-drop; give one, such as "
            f"--max-drop 1, or leave --{flag} out"
        )
    return None


def restore(options: RestoreOptions) -> RestoreSettings:
    """Return what is restored right after a cut.

    Raises:
        UsageError: a number of images for what is not asked for.
    """
    from secateur.compensation import RestoreSettings
    from secateur.errors import UsageError

    settings = RestoreSettings(
        compensate=options.compensate, images=options.compensate_images, batch_norm_images=options.bn_images
    )
    if options.compensate == "none" and options.compensate_images != RestoreOptions.compensate_images:
        raise UsageError(
            f"--compensate-images {options.compensate_images} is for --compensate, which is none; give --compensate "
            "both, scale or mean, or leave --compensate-images out"
        )
    return settings


def batch_size(options: ReadingOptions, *, restores: bool) -> int:
    """Return how many images a mini-batch has.

    Raises:
        UsageError: an option on reading images, where none are read.
    """
    from secateur.errors import UsageError
    from secateur.training import TrainSettings

    for name in ("batch_size", "validation_share"):
        value = getattr(options, name)
        if value is not None and not restores:
            flag = name.replace("_", "-")
            raise UsageError(
                f"--{flag} {value} says how images are read, and without --compensate or --bn-images none are; give "
                f"one of these, or leave --{flag} out"
            )
    return TrainSettings().batch_size if options.batch_size is None else options.batch_size


def subject(
    model: ModelOptions,
    inputs: InputOptions,
    common: CommonOptions,
    *files: Path,
    reading: ReadingOptions | None = None,
) -> Subject:
    """Return the dense model with its weights and example inputs.

    Args:
        model: which model.
        inputs: which inputs.
        common: where to compute.
        files: that may say which inputs the model takes, where ``inputs`` do not; the weight file is one too.
        reading: how the images of the data are read.

    Raises:
        UsageError: inputs are asked for twice, or there is no data to read as ``reading`` says.
    """
    from secateur.errors import UsageError
    from secateur.recipe import DataChoice, build_subject, parse_shape, read_data, settle, shape_in_files

    if inputs.input is not None and inputs.data is not None:
        raise UsageError(
            f"example inputs are asked for twice, by --input {inputs.input} and by --data {inputs.data}; give one of "
            "them"
        )
    more: dict[str, object] = {}
    if reading is not None:
        if reading.augment is not None and inputs.data is None:
            raise UsageError(
                f"--augment {reading.augment} says how images are read, and there is no data; name it with --data, or "
                "leave --augment out"
            )
        more = {"augmentation": reading.augment, "validation_share": reading.validation_share}
    place = machine(common)
    device = settle(place)
    shape = parse_shape(inputs.input) if inputs.input is not None else None
    data = None
    if inputs.data is not None:
        given = {name: value for name, value in more.items() if value is not None}
        choice = DataChoice(spec=inputs.data, root=inputs.data_root, normalize=inputs.normalize, **given)  # type: ignore[arg-type]
        data = read_data(choice, place, model=model.model)
    elif shape is None:
        shape = shape_in_files((*files, *([Path(model.weights)] if model.weights is not None else [])))
    return build_subject(model_choice(model), data=data, shape=shape, device=device, seed=common.seed)
