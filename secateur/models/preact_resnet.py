"""Pre-activation residual networks for CIFAR (He et al. 2016, "Identity Mappings", arXiv:1603.05027), with selections.

Network Slimming (Liu et al. 2017, arXiv:1708.06519, §4.2) prunes ResNet-164, the bottleneck one. What a block reads of
the residual stream is chosen behind the block's first batch norm.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models.selection import ChannelSelection
from secateur.models.widths import scaled

EXPANSION = 4
"""The stream is so many times as wide as the middle of a block."""


class PreActivationBottleneck(nn.Module):
    """Batch norm, selection, ReLU and 1×1, 3×3, 1×1 convolutions, each behind its own norm; x is added at the end."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.select = ChannelSelection(range(in_channels))
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != EXPANSION * width:
            self.shortcut = nn.Conv2d(in_channels, EXPANSION * width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 4 width, H / stride, W / stride)."""
        out = self.conv1(F.relu(self.select(self.bn1(x))))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        total: Tensor = out + self.shortcut(x)
        return total


class PreActivationResNet(nn.Module):
    """A stem, three stages of bottlenecks, batch norm with a selection, global average pooling, one linear layer.

    Every batch norm that reads the stream has a selection behind it, the last one too. Where the width changes the
    shortcut is a bare 1×1 convolution of the stream itself.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        stem_width: int = 16,
        widths: Sequence[int] = (16, 32, 64),
        scale: float = 0.5,
    ) -> None:
        """Build with He's initialisation (normal, fan out).

        Args:
            depth: 9 n + 2 layers: 164, or 11, 20 and 29 for small tests.
            num_classes: outputs.
            in_channels: of the images; their size is free, from 4×4 on.
            stem_width: channels of the first convolution.
            widths: channels in the middle of the blocks of the three stages.
            scale: that every batch norm begins with; 0.5 is Network Slimming's.

        Raises:
            ModelError: ``depth`` or ``widths`` is not of this family.
        """
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ModelError(f"depth is {depth}; these networks have 9n + 2 layers: 11, 20, 29, 110, 164, 1001")
        if len(widths) != 3:
            raise ModelError(f"{len(widths)} widths given; these networks have 3 stages")
        blocks = (depth - 2) // 9
        self.conv1 = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
        first, second, third = (EXPANSION * width for width in widths)
        self.layer1 = _stage(stem_width, widths[0], blocks, 1)
        self.layer2 = _stage(first, widths[1], blocks, 2)
        self.layer3 = _stage(second, widths[2], blocks, 2)
        self.bn = nn.BatchNorm2d(third)
        self.select = ChannelSelection(range(third))
        self.linear = nn.Linear(third, num_classes)
        self._scale = scale
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, self._scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.relu(self.select(self.bn(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def preactivation_resnet(
    depth: int, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 3
) -> PreActivationResNet:
    """Return the published network of this depth, stem and blocks ``width`` times as wide."""
    return PreActivationResNet(
        depth,
        num_classes=num_classes,
        in_channels=in_channels,
        stem_width=scaled(16, width),
        widths=[scaled(channels, width) for channels in (16, 32, 64)],
    )


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(PreActivationBottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))
