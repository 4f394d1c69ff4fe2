"""Tiny networks and data that the tests of slimmable networks share."""

import torch
from torch import Tensor, nn

from secateur.data import LabelledImages, MemorySource


class TinyResidual(nn.Module):
    """A stem, a block around it whose inner width is free, a depthwise layer, a head."""

    def __init__(self, width: int = 16, inner: int = 24) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.expand, self.expand_bn = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(inner)
        self.project, self.project_bn = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(x)))
        y = torch.relu(self.expand_bn(self.expand(x)))
        y = torch.relu(self.depthwise_bn(self.depthwise(y)))
        x = x + self.project_bn(self.project(y))
        return self.head(x.mean((2, 3)))


def tiny_residual() -> nn.Module:
    torch.manual_seed(0)
    return TinyResidual()


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 4))


def photos(batch: int = 6, size: int = 4, seed: int = 3) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def labels(batch: int = 6) -> Tensor:
    return torch.arange(batch) % 4


def source(samples: int = 24) -> MemorySource:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (samples, 3, 4, 4), generator=generator, dtype=torch.uint8)
    found = LabelledImages(pixels, torch.arange(samples) % 4)
    return MemorySource(name="random", train=found, validation=found, test=found)
