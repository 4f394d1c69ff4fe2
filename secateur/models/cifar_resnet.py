"""The residual networks of CIFAR-10 (He et al. 2016, "Deep Residual Learning", arXiv:1512.03385, §4.2)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models.widths import scaled

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A, without parameters: every second pixel, and zero channels on both sides of what is there."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Widen from ``in_channels`` to ``out_channels``, dropping pixels by ``stride``.

        Raises:
            ModelError: ``out_channels`` is the smaller; zeros can only be added.
        """
        super().__init__()
        if out_channels < in_channels:
            raise ModelError(
                f"a parameter-free shortcut cannot narrow {in_channels} channels to {out_channels}; "
                f"let widths rise, or use shortcut B"
            )
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _changing_shortcut(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stem, three stages of basic blocks, global average pooling and one linear layer.

    The names of the parameters are those of the published checkpoints: ``conv1``, ``bn1``,
    ``layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}``, ``layer{2,3}.0.shortcut.{0,1}`` (option B), ``linear``.
    """

    def __init__(
        self,
        depth: int,
        *,
        shortcut: Shortcut = "A",
        num_classes: int = 10,
        in_channels: int = 3,
        stem_width: int = 16,
        stage_widths: Sequence[int] = (16, 32, 64),
    ) -> None:
        """Build with He's initialisation (normal, fan in; He et al. 2015, arXiv:1502.01852).

        Args:
            depth: 6 n + 2 layers: 20, 32, 44, 56, 110, or 8 and 14 for small tests.
            shortcut: where the shape changes, ``"A"`` pads with zeros and ``"B"`` is a 1×1 convolution with
                batch norm.
            num_classes: outputs.
            in_channels: of the images; their size is free, from 4×4 on.
            stem_width: channels of the first convolution.
            stage_widths: channels of the three stages.

        Raises:
            ModelError: ``depth`` or ``stage_widths`` is not of this family, or option A would have to narrow.
        """
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ModelError(f"depth is {depth}; these networks have 6n + 2 layers: 8, 14, 20, 32, 44, 56, 110")
        if len(stage_widths) != 3:
            raise ModelError(f"{len(stage_widths)} stage widths given; these networks have 3 stages")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.layer1 = _stage(stem_width, stage_widths[0], blocks, 1, shortcut)
        self.layer2 = _stage(stage_widths[0], stage_widths[1], blocks, 2, shortcut)
        self.layer3 = _stage(stage_widths[1], stage_widths[2], blocks, 2, shortcut)
        self.linear = nn.Linear(stage_widths[2], num_classes)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built: by He's rule (normal, fan in)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(x)
        return logits


def cifar_resnet(
    depth: int, *, shortcut: Shortcut, width: float = 1.0, num_classes: int = 10, in_channels: int = 3
) -> CifarResNet:
    """Return the published network of this depth, stem and stages ``width`` times as wide: 24–24–48–96 for 1.5."""
    return CifarResNet(
        depth,
        shortcut=shortcut,
        num_classes=num_classes,
        in_channels=in_channels,
        stem_width=scaled(16, width),
        stage_widths=[scaled(channels, width) for channels in (16, 32, 64)],
    )


def digits_resnet(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> CifarResNet:
    """Return a 14-layer ResNet with option B, 16–32–64 channels wide, for images of 8×8.

    Not from a paper: the network of the demonstration. Its three stages work on 8×8, 4×4 and 2×2 maps.
    """
    return cifar_resnet(14, shortcut="B", width=width, num_classes=num_classes, in_channels=in_channels)


def _changing_shortcut(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Module:
    if shortcut == "A":
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)))
