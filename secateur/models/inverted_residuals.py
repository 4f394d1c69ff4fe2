"""What MobileNet v2 and MNasNet have in common: stages of inverted residual blocks, and their list of widths."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from secateur.errors import ModelError
from secateur.models.widths import MULTIPLE, Stem, check_stem, check_widths, scaled

_ORDER = "stem, block without expansion, then expansion and output of every other block, last convolution"


@dataclass(frozen=True)
class Stage:
    """A row of the paper's table: ``blocks`` blocks, of which the first has the stride and no residual connection.

    Attributes:
        expansion: of a block's input, in the network as published.
        channels: that every block gives, in the network as published.
        blocks: how many.
        stride: of the first.
        kernel: height and width of the depthwise convolutions.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


@dataclass(frozen=True)
class Widths:
    """A flat list of widths, by layer.

    Attributes:
        stem: channels of the first convolution.
        first: outputs of the block without expansion.
        stages: (expansion, output) of every block of every stage.
        last: channels of the convolution before the pooling.
    """

    stem: int
    first: int
    stages: tuple[tuple[tuple[int, int], ...], ...]
    last: int


def scaled_widths(stages: Sequence[Stage], stem: int, first: int, last: int, factor: float) -> tuple[int, ...]:
    """Return the widths of the network ``factor`` times as wide as published; the last layer never narrows."""
    stem, given = scaled(stem, factor, multiple=MULTIPLE), scaled(first, factor, multiple=MULTIPLE)
    widths = [stem, given]
    for stage in stages:
        made = scaled(stage.channels, factor, multiple=MULTIPLE)
        for _ in range(stage.blocks):
            widths += [stage.expansion * given, made]
            given = made
    return (*widths, scaled(last, max(1.0, factor), multiple=MULTIPLE))


def read_widths(network: str, stages: Sequence[Stage], widths: Sequence[int]) -> Widths:
    """Return ``widths`` by layer.

    Raises:
        ModelError: too many or too few, one below 1, or blocks of one stage that give different numbers of channels,
            which could not be added.
    """
    blocks = sum(stage.blocks for stage in stages)
    check_widths(network, widths, 3 + 2 * blocks, _ORDER)
    pairs = iter(zip(widths[2:-1:2], widths[3:-1:2], strict=True))
    read = tuple(tuple(next(pairs) for _ in range(stage.blocks)) for stage in stages)
    for number, stage in enumerate(read, 1):
        outputs = [output for _, output in stage]
        if len(set(outputs)) > 1:
            raise ModelError(
                f"the blocks of stage {number} of {network} give {outputs} channels; they are added, so let them all "
                "give as many"
            )
    return Widths(widths[0], widths[1], read, widths[-1])


def strides_of(stages: Sequence[Stage], stem: Stem) -> tuple[int, list[int]]:
    """Return the stride of the first convolution and that of every stage.

    For 32×32 images the first convolution and the first of the stages have a stride of 1, so that the last maps are
    4×4. With it MobileNet v2 takes the 88 million multiply-adds that the AutoSlim paper counts on CIFAR-10.
    """
    check_stem(stem)
    strides = [stage.stride for stage in stages]
    return (2, strides) if stem == "imagenet" else (1, [1, *strides[1:]])


def initialise(network: nn.Module) -> None:
    """Draw convolutions by He's rule (normal, fan out) and linear layers from N(0, 0.01²) with zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
