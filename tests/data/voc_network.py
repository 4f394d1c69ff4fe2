"""A network of a user's own for the command, used as ``voc_network.py:small``."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Segmenter(nn.Module):
    """As torchvision's segmentation networks: a dict with ``out``, and ``aux`` beside it."""

    def __init__(self, num_classes: int, *, aux: bool) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.score = nn.Conv2d(16, num_classes, 1)
        self.aux = nn.Conv2d(12, num_classes, 1) if aux else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early = self.down1(x)
        out = F.interpolate(self.score(self.down2(early)), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": out} if self.aux is None else {"out": out, "aux": self.aux(early)}


def small() -> nn.Module:
    return Segmenter(21, aux=False)


def with_auxiliary() -> nn.Module:
    return Segmenter(21, aux=True)


def too_few() -> nn.Module:
    return Segmenter(5, aux=False)


def coarse() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 21, 1))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 21))
