"""MobileNet v2 (Sandler et al. 2018, arXiv:1801.04381, Table 2), with a free width for every layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.models.inverted_residuals import Stage, initialise, read_widths, scaled_widths, strides_of
from secateur.models.widths import Stem

STAGES = (
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM, FIRST, LAST = 32, 16, 1280


class InvertedResidual(nn.Module):
    """A pointwise convolution that widens, a depthwise one, and a pointwise one without activation."""

    def __init__(self, in_channels: int, expanded: int | None, channels: int, stride: int, *, residual: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = in_channels if expanded is None else expanded
        if expanded is not None:
            layers.append(_convolution(in_channels, expanded, 1))
        layers.append(_convolution(inner, inner, 3, stride=stride, groups=inner))
        layers += [nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        made: Tensor = self.conv(x)
        return x + made if self.residual else made


class MobileNetV2(nn.Module):
    """MobileNet v2 with torchvision's parameter names; 3,504,872 parameters.

    Residual connections are those of the network as published: all blocks of a stage but its first. torchvision adds
    one wherever a block with stride 1 happens to give as many channels as it takes, which factors below 0.3 make
    happen, and so would the 8 channels of the first block of AutoSlim's networks of 207M and 305M; here they have none,
    as in the network that they were found in.
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
            widths: 35 numbers: the first convolution, the output of the block without expansion, expansion and output
                of each of the 16 other blocks, the last convolution; None takes the published ones.
            stem: ``cifar`` gives the first convolution and the stage of 24 channels a stride of 1.
            num_classes: outputs.
            in_channels: of the images; their size is free, from 32×32 on.
            dropout: share of the features that training drops before the linear layer.

        Raises:
            ModelError: another number of widths, one below 1, blocks of a stage that give different numbers of
                channels, or an unknown stem.
        """
        super().__init__()
        read = read_widths("MobileNet v2", STAGES, scaled_by(1.0) if widths is None else widths)
        first_stride, strides = strides_of(STAGES, stem)
        features: list[nn.Module] = [
            _convolution(in_channels, read.stem, 3, stride=first_stride),
            InvertedResidual(read.stem, None, read.first, 1, residual=False),
        ]
        channels = read.first
        for blocks, stride in zip(read.stages, strides, strict=True):
            for number, (expanded, made) in enumerate(blocks):
                inside = number > 0
                features.append(InvertedResidual(channels, expanded, made, 1 if inside else stride, residual=inside))
                channels = made
        features.append(_convolution(channels, read.last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(read.last, num_classes))
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def scaled_by(factor: float) -> tuple[int, ...]:
    """Return the widths of the network ``factor`` times as wide as published, in multiples of 8."""
    return scaled_widths(STAGES, STEM, FIRST, LAST, factor)


def mobilenet_v2(
    *, width: float = 1.0, stem: Stem = "imagenet", num_classes: int = 1000, in_channels: int = 3
) -> MobileNetV2:
    """Return MobileNet v2, ``width`` times as wide; the last convolution never has fewer than 1,280 channels."""
    return MobileNetV2(scaled_by(width), stem=stem, num_classes=num_classes, in_channels=in_channels)


def _convolution(in_channels: int, channels: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )
