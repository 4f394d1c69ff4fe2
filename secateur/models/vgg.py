"""The VGG networks of the pruning papers; all start from Simonyan and Zisserman 2015, arXiv:1409.1556."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.models.widths import MULTIPLE, scaled

Step = int | Literal["pool"]

# Channels of each 3×3 convolution in turn; "pool" halves height and width (arXiv:1409.1556, Table 1, columns
# D and E).
VGG16: tuple[Step, ...] = (
    *(64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"),
    *(512, 512, 512, "pool", 512, 512, 512, "pool"),
)
VGG19: tuple[Step, ...] = (
    *(64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool"),
    *(512, 512, 512, 512, "pool", 512, 512, 512, 512, "pool"),
)


class VGG(nn.Module):
    """A chain of 3×3 convolutions (``features``) and a chain of linear layers (``classifier``)."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, *, scale: float = 1.0) -> None:
        """Join the two chains; convolutions get He's initialisation by fan out, linear layers N(0, 0.01²).

        Args:
            features: convolutions, norms and pooling.
            classifier: linear layers.
            scale: that every batch norm begins with.
        """
        super().__init__()
        self.features = features
        self.classifier = classifier
        self._scale = scale
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, self._scale)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


def gate_decorator_vgg16(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> VGG:
    """Return VGG-16 for 32×32 images: 13 convolutions with bias and batch norm, one linear layer.

    Source: You et al. 2019, arXiv:1909.08174, and its code; 14,728,266 parameters.
    """
    features = _features(scaled_steps(VGG16, width), in_channels, bias=True, batch_norm=True)
    return VGG(features, nn.Sequential(nn.Linear(scaled(512, width), num_classes)))


def l1_vgg16(*, batch_norm: bool = True, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> VGG:
    """Return VGG-16 for 32×32 images with a hidden linear layer of 512.

    Source: Li et al. 2017, arXiv:1608.08710, §4.1. The paper also speaks of batch norm after the hidden
        layer; the
    counts that it publishes do not tell, and this network has batch norm after the convolutions only.

    Args:
        batch_norm: after every convolution: 14,990,922 parameters, without 14,982,474.
        width: factor of all hidden widths.
        num_classes: outputs.
        in_channels: of the images.
    """
    features = _features(scaled_steps(VGG16, width), in_channels, bias=True, batch_norm=batch_norm)
    hidden = scaled(512, width)
    return VGG(
        features, nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes))
    )


def imagenet_vgg16(*, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3) -> VGG:
    """Return VGG-16 for 224×224 images: no batch norm, two hidden layers of 4,096 with dropout.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, column D; 138,357,544 parameters.
    """
    channels, hidden = (scaled(number, width, multiple=MULTIPLE) for number in (512, 4096))
    classifier = nn.Sequential(
        nn.Linear(channels * 7 * 7, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, num_classes),
    )
    steps = scaled_steps(VGG16, width, multiple=MULTIPLE)
    return VGG(_features(steps, in_channels, bias=True, batch_norm=False), classifier)


def gap_vgg16(*, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3) -> VGG:
    """Return ImageNet's VGG-16 with global average pooling and one linear layer in place of its linear layers.

    Source: Luo, Wu and Lin 2017 (ThiNet), arXiv:1707.06342, §4.2.2, the network of ThiNet-GAP; as in the authors'
    definition the average is over what the last convolution gives, without the last max pooling. The convolutions have
    the names and shapes of ``vgg16-imagenet``; 15,227,688 parameters with 1,000 classes. Images of any size will do.
    """
    steps = scaled_steps(VGG16[:-1], width, multiple=MULTIPLE)
    features = _features(steps, in_channels, bias=True, batch_norm=False)
    features.append(nn.AdaptiveAvgPool2d(1))
    return VGG(features, nn.Sequential(nn.Linear(scaled(512, width, multiple=MULTIPLE), num_classes)))


def slimming_vgg19(*, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> VGG:
    """Return VGG-19 for 32×32 images: 16 convolutions without bias, batch norm, one linear layer.

    Source: Liu et al. 2017, arXiv:1708.06519, §4.2, and its code; 20,035,018 parameters. Every batch norm
        begins
    with a scale of 0.5, as the paper asks for.
    """
    features = _features(scaled_steps(VGG19, width), in_channels, bias=False, batch_norm=True)
    return VGG(features, nn.Sequential(nn.Linear(scaled(512, width), num_classes)), scale=0.5)


def scaled_steps(steps: Sequence[Step], factor: float, *, multiple: int = 1) -> list[Step]:
    """Return ``steps`` with every convolution ``factor`` times as wide, in multiples of ``multiple``."""
    return [step if step == "pool" else scaled(step, factor, multiple=multiple) for step in steps]


def _features(steps: Sequence[Step], in_channels: int, *, bias: bool, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in steps:
        if step == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(in_channels, step, 3, padding=1, bias=bias))
        if batch_norm:
            layers.append(nn.BatchNorm2d(step))
        layers.append(nn.ReLU(inplace=True))
        in_channels = step
    return nn.Sequential(*layers)
