"""ResNet-50 for ImageNet (He et al. 2016, arXiv:1512.03385, Table 1), in the two flavours in use."""

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, *, stride_in_first: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 4 × width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        kept: Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return kept


class ResNet50(nn.Module):
    """ResNet-50 with torchvision's parameter names; 25,557,032 parameters."""

    def __init__(self, *, stride_in_first: bool = False, num_classes: int = 1000, in_channels: int = 3) -> None:
        """Build with He's initialisation by fan out.

        Args:
            stride_in_first: True puts the stride on the first 1×1 convolution of a stage, as the authors'
                Caffe network does (3.858 G MACs; ThiNet's baseline); False puts it on the 3×3, as torchvision
                does (4.089 G MACs; AutoSlim's baseline).
            num_classes: outputs.
            in_channels: of the images.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 3, 1, stride_in_first=stride_in_first)
        self.layer2 = _stage(256, 128, 4, 2, stride_in_first=stride_in_first)
        self.layer3 = _stage(512, 256, 6, 2, stride_in_first=stride_in_first)
        self.layer4 = _stage(1024, 512, 3, 2, stride_in_first=stride_in_first)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(in_channels: int, width: int, blocks: int, stride: int, *, stride_in_first: bool) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride, stride_in_first=stride_in_first)
    return nn.Sequential(
        first, *(Bottleneck(4 * width, width, 1, stride_in_first=stride_in_first) for _ in range(blocks - 1))
    )
