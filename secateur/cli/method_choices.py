"""From the options of a method to the method with its settings; what it does not have, or would not use, is refused."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING

from secateur.cli.choices import restore
from secateur.cli.method_options import MethodOptions
from secateur.cli.options import BudgetOptions, RestoreOptions, TrainingOptions

if TYPE_CHECKING:
    from secateur.methods import AnyMethod
    from secateur.training import TrainSettings


def method(
    options: MethodOptions,
    *,
    seed: int,
    training: TrainingOptions | None = None,
    restoring: RestoreOptions | None = None,
) -> AnyMethod:
    """Return the method with its settings.

    Raises:
        UsageError: an option that the method does not have.
    """
    from secateur.errors import UsageError
    from secateur.methods import METHODS
    from secateur.recipe import method_from

    kind = METHODS[options.method]
    known = {entry.name for entry in dataclasses.fields(kind)}
    settings = {
        name: value
        for name, value in vars(options).items()
        # By identity, because a 0 that was asked for equals False.
        if value is not None and value is not False and name not in ("method", "setting", *RENAMED)
    }
    if options.lock:
        settings["skip" if "skip" in known else "lock"] = tuple(options.lock)
    if options.ratio:
        settings["ratios"] = dict(_ratio(text) for text in options.ratio)
    _settle_epochs(settings, kind, options.method)
    for name in settings:
        if name not in known:
            flag = {"ratios": "ratio"}.get(name, name).replace("_", "-")
            owners = [other for other, cls in METHODS.items() if name in {f.name for f in dataclasses.fields(cls)}]
            which = f"method {owners[0]}" if len(owners) == 1 else f"methods {', '.join(owners)}"
            raise UsageError(f"--{flag} is a setting of the {which}, not of {options.method}; leave it out")
    hints = typing.get_type_hints(kind)
    for name, value in settings.items():
        allowed = typing.get_args(hints[name]) if typing.get_origin(hints[name]) is typing.Literal else (value,)
        if value not in allowed:
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is not for the method {options.method}; give it one of "
                f"{', '.join(allowed)}, or leave it out"
            )
    _refuse_unused(settings, kind)
    _refuse_channel_settings(options)
    if "seed" in known:
        settings["seed"] = seed
    if restoring is not None:
        settings["restore"] = restore(restoring)
    if training is not None:
        settings |= _fine_tuning(training, published=kind.trains_to_decide)
    else:
        settings |= {"finetune_epochs": 0, "finetune": None}
    return method_from(kind(**settings), options.setting or ())


def _fine_tuning(options: TrainingOptions, *, published: bool) -> dict[str, object]:
    """Return how to fine-tune; of a method that brings published settings, only what the user has asked for."""
    asked = {entry.name for entry in dataclasses.fields(options) if getattr(options, entry.name) != entry.default}
    settings: dict[str, object] = {}
    if not published or "epochs" in asked:
        settings["finetune_epochs"] = options.epochs
    if not published or asked - {"epochs", "train_epochs", "train_lr"}:
        settings["finetune"] = tuning(options)
    return settings


def _settle_epochs(settings: dict[str, object], kind: type[AnyMethod], method: str) -> None:
    """Make ``step_epochs`` whole where it is, because 2.0 and 2 are different settings to a run that continues."""
    from secateur.errors import UsageError

    epochs = settings.get("step_epochs")
    if not isinstance(epochs, float):
        return
    if epochs.is_integer():
        settings["step_epochs"] = int(epochs)
    elif typing.get_type_hints(kind).get("step_epochs") is int:
        raise UsageError(
            f"--step-epochs is {epochs:g}, but the method {method} takes whole epochs; give 1, or --method global, "
            "which takes a part of one"
        )


RENAMED = ("lock", "ratio")


def _refuse_unused(settings: Mapping[str, object], kind: type[AnyMethod]) -> None:
    """Refuse epochs between cuts where there is one cut."""
    from secateur.errors import UsageError

    for name, several, wanted in (
        (
            "layer_epochs",
            settings.get("strategy", getattr(kind, "strategy", None)) != "once",
            "--strategy layer-by-layer",
        ),
        ("step_epochs", settings.get("steps", getattr(kind, "steps", None)) != 1, "--steps of 2 or more"),
    ):
        if name in settings and not several:
            flag = name.replace("_", "-")
            raise UsageError(
                f"--{flag} {settings[name]} is for training between cuts, and there is only one cut; give {wanted}, or "
                f"leave --{flag} out"
            )


def refuse_beside_blocks(budget: BudgetOptions, method: MethodOptions) -> None:
    """Refuse what else would decide what goes, where blocks are named.

    Raises:
        UsageError: a budget, or an option of a method.
    """
    from secateur.errors import UsageError

    entries = (*dataclasses.fields(budget), *dataclasses.fields(method))
    values = {**vars(budget), **vars(method)}
    given = [entry.name for entry in entries if values[entry.name] != entry.default]
    if given:
        flag = given[0].replace("_", "-")
        raise UsageError(
            f"--drop-block names what goes, and --{flag} lets a method decide; leave --{flag} out, or give "
            "--level both without --drop-block"
        )


CHANNELS_ONLY = (
    *("scope", "ratio", "residual", "selection", "strategy", "layer_epochs", "steps", "step_epochs", "min_units"),
    *("min_share", "round_to", "allow_approximate"),
)
"""Options that say which channels go, so that they say nothing where blocks go alone."""


def _refuse_channel_settings(options: MethodOptions) -> None:
    """Refuse options about channels where none are cut."""
    from secateur.errors import UsageError

    given = [name for name in CHANNELS_ONLY if getattr(options, name)]
    if options.level == "block" and given:
        flag = given[0].replace("_", "-")
        raise UsageError(
            f"--{flag} says which channels go, and --level block drops whole blocks only; leave --{flag} out, or give "
            "--level both"
        )


def _ratio(text: str) -> tuple[str, float]:
    from secateur.errors import UsageError

    pattern, separator, share = text.rpartition("=")
    try:
        if not separator or not pattern:
            raise ValueError
        return pattern, float(share)
    except ValueError:
        raise UsageError(f"--ratio {text!r} is not LAYERS=SHARE; write for example --ratio 'layer1.*=0.6'") from None


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
