"""How pixels become network inputs: (pixel / peak − mean) / std, per channel."""

import math
import re
from dataclasses import dataclass

from secateur.errors import UsageError
from secateur.names import unknown_name

_EXPLICIT = re.compile(r"^\s*mean=(?P<mean>[^;]*);\s*std=(?P<std>[^;]*)$")


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel, of pixels already divided by their peak (so in [0, 1]).

    A single value stands for all channels.

    Raises:
        UsageError: the two differ in length, are empty, or a standard deviation is not a positive number.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise UsageError(
                f"a normalisation has {len(self.mean)} mean and {len(self.std)} std values; give one of each "
                "per channel"
            )
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(std) and std > 0 for std in self.std):
            raise UsageError(
                f"normalisation mean {self.mean}, std {self.std}: all must be finite numbers and each std above 0"
            )

    def for_channels(self, channels: int) -> "Normalization":
        """Return the same with one value per channel.

        Raises:
            UsageError: there are neither 1 nor ``channels`` values.
        """
        if len(self.mean) == channels:
            return self
        if len(self.mean) == 1:
            return Normalization(self.mean * channels, self.std * channels)
        raise UsageError(
            f"the normalisation is for {len(self.mean)} channels but the images have {channels}; "
            f"choose another, or give one value for all channels"
        )

    def __str__(self) -> str:
        """Return the explicit form that :func:`normalization_named` reads back."""
        return f"mean={','.join(map(repr, self.mean))};std={','.join(map(repr, self.std))}"


# Sources: cifar10 as in the Gate Decorator code, imagenet as in torchvision's reference training. The others are mean
# and standard deviation of all pixels of the training images: mnist and digits measured here; cifar100 as published
# with github.com/weiaicunzai/pytorch-cifar100, fashion-mnist and svhn as is customary, all three rounded to 4 places.
NORMALIZATIONS: dict[str, Normalization] = {
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Normalization((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
    "fashion-mnist": Normalization((0.286,), (0.353,)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": Normalization((0.1307,), (0.3081,)),
    "digits": Normalization((0.3049,), (0.3759,)),
    "none": Normalization((0.0,), (1.0,)),
}


def normalization_named(text: str) -> Normalization:
    """Return the normalisation that ``text`` names or spells out.

    Args:
        text: a key of :data:`NORMALIZATIONS`, or numbers: ``mean=0.49,0.48,0.45;std=0.25,0.24,0.26``.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or the numbers cannot be read.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    match = _EXPLICIT.match(text)
    if match is None:
        hint = "or give numbers, as mean=0.49,0.48,0.45;std=0.25,0.24,0.26"
        raise UsageError(f"{unknown_name('normalisation', text, NORMALIZATIONS)} ({hint})")
    return Normalization(_numbers(match["mean"], text), _numbers(match["std"], text))


def _numbers(text: str, whole: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"normalisation {whole!r}: {text!r} is not a list of numbers such as 0.49,0.48,0.45"
        ) from error
