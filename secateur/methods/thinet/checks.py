"""What of ThiNet's settings cannot work, or would do nothing, in one sentence each."""

from collections.abc import Mapping
from typing import Protocol, get_args

from secateur.errors import UsageError
from secateur.methods.stepping import Residual
from secateur.methods.thinet.choosing import BY_OUTPUT, Variant
from secateur.methods.thinet.layers import check_keep
from secateur.names import unknown_name

CHOICES = {
    "variant": get_args(Variant),
    "statistics": ("exact", "rows"),
    "residual": get_args(Residual),
    "together": ("layer", "block"),
}
LEAST = {"rows_per_image": 1, "min_units": 1, "round_to": 1, "finetune_epochs": 0}


class ThiNetSettings(Protocol):
    """The settings that are looked at here; those of :class:`secateur.methods.ThiNet`."""

    @property
    def variant(self) -> Variant:
        """How filters are chosen."""

    @property
    def reweights(self) -> bool:
        """Whether the next layer's inputs are scaled."""

    @property
    def statistics(self) -> str:
        """Over all positions, or over rows."""

    @property
    def images(self) -> int | None:
        """Training images to look at."""

    @property
    def keep(self) -> Mapping[str, float]:
        """Shares that stay."""

    @property
    def layer_epochs(self) -> float:
        """Passes between layers."""

    @property
    def longer(self) -> Mapping[str, float]:
        """Passes after some of them."""


def check_settings(settings: ThiNetSettings) -> None:
    """Refuse settings that cannot work, and those that nothing would look at.

    A setting that has its default is never refused.

    Raises:
        UsageError: one is out of range, two contradict each other, or one does nothing beside the others.
    """
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            raise UsageError(unknown_name(f"setting of {name}", str(getattr(settings, name)), choices))
    check_keep(settings.keep)
    for name in ("images", *LEAST):
        if isinstance(getattr(settings, name), bool):
            raise UsageError(f"{name} is {getattr(settings, name)}, but must be a number")
    for name, least in LEAST.items():
        if getattr(settings, name) < least:
            raise UsageError(f"{name} is {getattr(settings, name)}, but must be at least {least}")
    if settings.images is not None and settings.images < 1:
        raise UsageError(f"images is {settings.images}, but must be at least 1")
    passes = {"layer_epochs": settings.layer_epochs}
    passes |= {f"longer for {name!r}": epochs for name, epochs in settings.longer.items()}
    for what, epochs in passes.items():
        if not epochs >= 0 or (epochs > 1 and not float(epochs).is_integer()):
            raise UsageError(
                f"{what} is {epochs:g}; give whole passes over the training data, or a part of one between 0 and 1"
            )
    _refuse_unused(settings)


def _refuse_unused(settings: ThiNetSettings) -> None:
    """Refuse what the other settings leave without effect."""
    # `images` is left alone, so that the variants can be compared by changing nothing but `variant`.
    if settings.statistics == "rows" and settings.variant not in BY_OUTPUT and not settings.reweights:
        raise UsageError(
            f"statistics is rows, but the variant {settings.variant} without reweight looks at no outputs; leave it out"
        )
    if settings.statistics == "exact":
        _refuse(settings, "rows_per_image", "statistics exact takes every position", "give statistics: rows")
    if settings.keep:
        for name in ("scope", "round_to"):
            _refuse(settings, name, "keep decides how many filters each layer keeps", "give a budget in place of keep")


def _refuse(settings: ThiNetSettings, name: str, why: str, fix: str) -> None:
    """Refuse a setting that is not at its default."""
    given = getattr(settings, name)
    if given != getattr(type(settings), name):
        raise UsageError(f"{name} is {given}, but {why}, so that it does nothing; leave it out, or {fix}")
