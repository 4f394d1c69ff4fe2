"""The plain dense network of CIFAR (Huang et al. 2017, arXiv:1608.06993, §3 and Table 2), with channel selections.

DenseNet-40 with a growth of 12 is the one that Network Slimming prunes (Liu et al. 2017, arXiv:1708.06519, §4.2): no
bottlenecks and no compression. Each layer normalises all that came before it anew, and chooses what it reads behind
that norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models.selection import ChannelSelection
from secateur.models.widths import scaled


class DenseLayer(nn.Module):
    """Batch norm, selection, ReLU and a 3×3 convolution, whose channels are put behind those that came in."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.select = ChannelSelection(range(in_channels))
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(F.relu(self.select(self.bn(x))))], 1)


class Transition(nn.Module):
    """Batch norm, selection, ReLU, a 1×1 convolution as wide as what comes in, and average pooling by 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.select = ChannelSelection(range(channels))
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.select(self.bn(x)))), 2)


class DenseNet(nn.Module):
    """A stem, three dense blocks with transitions between them, batch norm, pooling and one linear layer.

    Every batch norm has a selection behind it, those of the transitions and the last one too.
    """

    def __init__(
        self,
        depth: int,
        *,
        growth: int = 12,
        stem_width: int = 16,
        num_classes: int = 10,
        in_channels: int = 3,
        scale: float = 0.5,
    ) -> None:
        """Build with He's initialisation (normal, fan out).

        Args:
            depth: 3 n + 4 layers: 40, or 7, 10 and 13 for small tests.
            growth: channels that each layer adds.
            stem_width: channels of the first convolution.
            num_classes: outputs.
            in_channels: of the images; their size is free, from 4×4 on.
            scale: that every batch norm begins with; 0.5 is Network Slimming's.

        Raises:
            ModelError: ``depth`` is not of this family.
        """
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise ModelError(f"depth is {depth}; these networks have 3n + 4 layers: 7, 10, 13, 40, 100")
        layers, channels = (depth - 4) // 3, stem_width
        self.conv = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for stage in range(3):
            if stage:
                stages.append(Transition(channels))
            stages.append(nn.Sequential(*(DenseLayer(channels + growth * n, growth) for n in range(layers))))
            channels += growth * layers
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.select = ChannelSelection(range(channels))
        self.linear = nn.Linear(channels, num_classes)
        self._scale = scale
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, self._scale)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = F.relu(self.select(self.bn(self.stages(self.conv(x)))))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def dense_network(depth: int, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> DenseNet:
    """Return the network with a growth of 12 and a stem of 16, both ``width`` times as large."""
    return DenseNet(
        depth,
        growth=scaled(12, width),
        stem_width=scaled(16, width),
        num_classes=num_classes,
        in_channels=in_channels,
    )
