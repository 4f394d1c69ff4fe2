"""MobileNet v1 (Howard et al. 2017, arXiv:1704.04861, Table 1), with a free width for every layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.models.inverted_residuals import initialise
from secateur.models.widths import MULTIPLE, Stem, check_stem, check_widths, scaled

WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels of the first convolution and of the thirteen pointwise ones."""

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""Of the thirteen depthwise convolutions."""


class MobileNetV1(nn.Module):
    """A 3×3 convolution, thirteen depthwise convolutions with a pointwise one each, pooling, and one linear layer.

    A depthwise convolution is as wide as its input, so a list of widths has no number for it. As published, every
    convolution has batch norm and ReLU behind it; 4,231,976 parameters.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        *,
        stem: Stem = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        """Build with He's initialisation by fan out.

        Args:
            widths: channels of the first convolution and of each pointwise one, 14 numbers.
            stem: stride of the first convolution: 2 for ``imagenet``, 1 for ``cifar``, whose last maps are then 2×2.
            num_classes: outputs.
            in_channels: of the images; their size is free, from 32×32 on.

        Raises:
            ModelError: another number of widths, one below 1, or an unknown stem.
        """
        super().__init__()
        check_stem(stem)
        check_widths("MobileNet v1", widths, len(WIDTHS), "first convolution, then every pointwise convolution")
        channels = widths[0]
        self.features = nn.Sequential(
            _convolution(in_channels, channels, 3, stride=2 if stem == "imagenet" else 1),
        )
        for width, stride in zip(widths[1:], STRIDES, strict=True):
            self.features.append(
                nn.Sequential(
                    _convolution(channels, channels, 3, stride=stride, groups=channels),
                    _convolution(channels, width, 1),
                )
            )
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def mobilenet_v1(
    *, width: float = 1.0, stem: Stem = "imagenet", num_classes: int = 1000, in_channels: int = 3
) -> MobileNetV1:
    """Return MobileNet v1, all layers ``width`` times as wide, in multiples of 8."""
    widths = [scaled(channels, width, multiple=MULTIPLE) for channels in WIDTHS]
    return MobileNetV1(widths, stem=stem, num_classes=num_classes, in_channels=in_channels)


def _convolution(in_channels: int, channels: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
