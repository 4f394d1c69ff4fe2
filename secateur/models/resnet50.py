"""ResNet-50 for ImageNet (He et al. 2016, arXiv:1512.03385, Table 1), in the two flavours in use, of any widths."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.models.widths import MULTIPLE, Stem, check_stem, check_widths, scaled

BLOCKS = (3, 4, 6, 3)
"""Of the four stages."""

EXPANSION = 4
"""As published, a stream is so many times as wide as the middle of its blocks."""


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut, which is a 1×1 convolution in the first block of a stage."""

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int],
        stride: int,
        *,
        stride_in_first: bool,
        downsample: bool,
    ) -> None:
        super().__init__()
        width, middle, channels = widths
        first, second = (stride, 1) if stride_in_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, middle, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels of the stream, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        kept: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return kept


class ResNet50(nn.Module):
    """ResNet-50 with torchvision's parameter names; 25,557,032 parameters."""

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        stride_in_first: bool = False,
        stem: Stem = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        """Build with He's initialisation by fan out.

        Args:
            widths: 37 numbers: the first convolution, then for each stage its stream and, of every block, the first
                1×1 and the 3×3 convolution; None takes the published ones.
            stride_in_first: True puts the stride on the first 1×1 convolution of a stage, as the authors'
                Caffe network does (3.858 G MACs; ThiNet's baseline); False puts it on the 3×3, as torchvision
                does (4.089 G MACs; AutoSlim's baseline).
            stem: ``imagenet`` is a 7×7 convolution with stride 2 and max pooling, ``cifar`` a 3×3 one with stride 1.
            num_classes: outputs.
            in_channels: of the images.

        Raises:
            ModelError: another number of widths, one below 1, or an unknown stem.
        """
        super().__init__()
        check_stem(stem)
        widths = scaled_by(1.0) if widths is None else widths
        order = "first convolution, then per stage its stream and two numbers per block"
        check_widths("ResNet-50", widths, 1 + sum(1 + 2 * blocks for blocks in BLOCKS), order)
        left = iter(widths)
        channels = next(left)
        self.conv1 = (
            nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            if stem == "imagenet"
            else nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        stages: list[nn.Sequential] = []
        for count in BLOCKS:
            stream, stage = next(left), nn.Sequential()
            for place in range(count):
                inner = (next(left), next(left), stream)
                stride = 2 if stages and place == 0 else 1
                stage.append(
                    Bottleneck(channels, inner, stride, stride_in_first=stride_in_first, downsample=place == 0)
                )
                channels = stream
            stages.append(stage)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def scaled_by(factor: float) -> tuple[int, ...]:
    """Return the widths of the network ``factor`` times as wide as published, in multiples of 8."""
    widths = [scaled(64, factor, multiple=MULTIPLE)]
    for stage, blocks in enumerate(BLOCKS):
        inner = 64 * 2**stage
        widths.append(scaled(EXPANSION * inner, factor, multiple=MULTIPLE))
        widths += [scaled(inner, factor, multiple=MULTIPLE)] * (2 * blocks)
    return tuple(widths)


def resnet50(
    *,
    width: float = 1.0,
    stride_in_first: bool = False,
    stem: Stem = "imagenet",
    num_classes: int = 1000,
    in_channels: int = 3,
) -> ResNet50:
    """Return ResNet-50, all layers ``width`` times as wide, in multiples of 8."""
    return ResNet50(
        scaled_by(width), stride_in_first=stride_in_first, stem=stem, num_classes=num_classes, in_channels=in_channels
    )
