"""MNasNet (Tan et al. 2019, arXiv:1807.11626, the variant B1), with a free width for every layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.models.inverted_residuals import Stage, initialise, read_widths, scaled_widths, strides_of
from secateur.models.widths import Stem

STAGES = (
    Stage(3, 24, 3, 2),
    Stage(3, 40, 3, 2, kernel=5),
    Stage(6, 80, 3, 2, kernel=5),
    Stage(6, 96, 2, 1),
    Stage(6, 192, 4, 2, kernel=5),
    Stage(6, 320, 1, 1),
)
STEM, FIRST, LAST = 32, 16, 1280


class MNasNetBlock(nn.Module):
    """A pointwise convolution that widens, a depthwise one, and a pointwise one without activation."""

    def __init__(
        self, in_channels: int, expanded: int, channels: int, *, kernel: int, stride: int, residual: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(in_channels, expanded, 1),
            *_convolution(expanded, expanded, kernel, stride=stride, groups=expanded),
            *_convolution(expanded, channels, 1)[:-1],
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        made: Tensor = self.layers(x)
        return made + x if self.residual else made


class MNasNet(nn.Module):
    """MNasNet-B1 with torchvision's parameter names; 4,383,312 parameters.

    Batch norm keeps torch's momentum of 0.1; torchvision's 0.0003 is meant for days of training. Residual connections
    are those of the network as published: all blocks of a stage but its first.
    """

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        stem: Stem = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
    ) -> None:
        """Build with He's initialisation by fan out.

        Args:
            widths: 35 numbers: the first convolution, the output of the depthwise separable one, expansion and output
                of each of the 16 blocks, the last convolution; None takes the published ones.
            stem: ``cifar`` gives the first convolution and the stage of 24 channels a stride of 1.
            num_classes: outputs.
            in_channels: of the images; their size is free, from 32×32 on.
            dropout: share of the features that training drops before the linear layer.

        Raises:
            ModelError: another number of widths, one below 1, blocks of a stage that give different numbers of
                channels, or an unknown stem.
        """
        super().__init__()
        read = read_widths("MNasNet", STAGES, scaled_by(1.0) if widths is None else widths)
        first_stride, strides = strides_of(STAGES, stem)
        layers: list[nn.Module] = [
            *_convolution(in_channels, read.stem, 3, stride=first_stride),
            *_convolution(read.stem, read.stem, 3, groups=read.stem),
            *_convolution(read.stem, read.first, 1)[:-1],
        ]
        channels = read.first
        for stage, blocks, stride in zip(STAGES, read.stages, strides, strict=True):
            made: list[nn.Module] = []
            for expanded, output in blocks:
                inside = bool(made)
                made.append(
                    MNasNetBlock(
                        channels,
                        expanded,
                        output,
                        kernel=stage.kernel,
                        stride=1 if inside else stride,
                        residual=inside,
                    )
                )
                channels = output
            layers.append(nn.Sequential(*made))
        self.layers = nn.Sequential(*layers, *_convolution(channels, read.last, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(read.last, num_classes))
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.layers(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def scaled_by(factor: float) -> tuple[int, ...]:
    """Return the widths of the network ``factor`` times as wide as published, in multiples of 8."""
    return scaled_widths(STAGES, STEM, FIRST, LAST, factor)


def mnasnet(*, width: float = 1.0, stem: Stem = "imagenet", num_classes: int = 1000, in_channels: int = 3) -> MNasNet:
    """Return MNasNet, ``width`` times as wide; the last convolution never has fewer than 1,280 channels."""
    return MNasNet(scaled_by(width), stem=stem, num_classes=num_classes, in_channels=in_channels)


def _convolution(
    in_channels: int, channels: int, size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    return (
        nn.Conv2d(in_channels, channels, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
