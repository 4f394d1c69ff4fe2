"""How wide a network is built: ``NAME@1.5x``, and what becomes of a number of channels."""

import re
from collections.abc import Sequence
from typing import Literal

from secateur.errors import ModelError, UsageError
from secateur.names import unknown_name

Stem = Literal["imagenet", "cifar"]
"""How a network begins: ``cifar`` is for 32×32 images, which the strides of the other would leave nothing of."""

MULTIPLE = 8
"""Widths of ImageNet's networks are multiples of it, however they are scaled."""

LEAST_FACTOR, MOST_FACTOR = 0.1, 8.0  # beyond them a factor is rather a slip than a wish

# Behind a folder's separator or a colon an "@" would belong to a path, not to a width.
_WIDTH = re.compile(r"^(?P<name>.*)@(?P<factor>[^@:/\\]*)$")
_FACTOR = re.compile(r"^(\d+(?:\.\d+)?)x$")


def split_width(name: str) -> tuple[str, float]:
    """Return (name without its width, factor) of a model's name such as ``resnet20@1.5x``; 1.0 where it has none.

    Raises:
        UsageError: what stands behind the ``@`` is no factor, or one that is out of range.
    """
    match = _WIDTH.match(name)
    if match is None:
        return name, 1.0
    plain, text = match["name"], match["factor"]
    number = _FACTOR.match(text)
    if number is None:
        raise UsageError(
            f"the width in {name!r} is {text!r}; write a factor and an x, as in '{plain}@1.5x' for a network 1.5 times "
            "as wide"
        )
    factor = float(number[1])
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:
        raise UsageError(f"the width in {name!r} is {text}; give a factor from {LEAST_FACTOR:g}x to {MOST_FACTOR:g}x")
    return plain, factor


def without_width_argument(name: str, factor: float) -> UsageError:
    """Return the error about a network that cannot be built wider by its name.

    Args:
        name: of the network, without a width.
        factor: that was asked for.
    """
    return UsageError(
        f"{name} takes no width, so its name cannot make it {factor:g} times as wide; build {name} and hand it to "
        "secateur.slimmable.widened, which makes any traced network wider"
    )


def scaled(channels: int, factor: float, *, multiple: int = 1) -> int:
    """Return ``factor`` times ``channels``, rounded to the nearest positive multiple of ``multiple``.

    Source of the rule: the published code of MobileNet v1 and v2, with multiples of 8. Halves are rounded up, and so is
    what would otherwise lose more than a tenth.
    """
    wanted = channels * factor
    nearest = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * wanted else nearest + multiple


def check_widths(network: str, widths: Sequence[int], count: int, order: str) -> None:
    """Refuse a list of widths that is not one of ``network``.

    Args:
        network: named in the message.
        widths: channels, in the network's order.
        count: how many it needs.
        order: says which they are.

    Raises:
        ModelError: there are more or fewer, or a layer has no channels.
    """
    if len(widths) != count:
        raise ModelError(f"{len(widths)} widths given; {network} has {count}: {order}")
    if min(widths) < 1:
        raise ModelError(
            f"the widths of {network} begin with {list(widths[:8])} and one is {min(widths)}; each is at least 1"
        )


def check_stem(stem: str) -> None:
    """Refuse a stem that is not known.

    Raises:
        ModelError: with the two that are.
    """
    if stem not in ("imagenet", "cifar"):
        raise ModelError(unknown_name("stem", stem, ("imagenet", "cifar")))
