"""FCN-32s on VGG-16 for semantic segmentation (Long et al. 2015, arXiv:1411.4038, §4)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models.vgg import VGG, VGG16, Step, scaled_steps
from secateur.models.widths import MULTIPLE, scaled

STRIDE = 32
"""Pixels from one score to the next."""

_MARGIN = 100  # zeros around the image, so that scores cover its border
_OFFSET = 19  # where the image begins in the upsampled scores, in pixels


class FCN32s(nn.Module):
    """VGG-16 without batch norm, its linear layers seen as convolutions, and 21 scores per pixel.

    ``features`` is the chain of 3×3 convolutions, ``classifier`` two convolutions of 4,096 channels (7×7 and 1×1) with
    dropout, ``score`` a 1×1 convolution. As published for the single-stream network, the upsampling by 32 is a
    transposed convolution fixed to bilinear interpolation, so that it has no parameters. The image is padded by 100 and
    the result cropped from 19 on, so that images of any size keep theirs. As published, the scores of up to 13 pixels
    along each border are interpolated with zeros, for all classes alike.
    """

    kernel: Tensor

    def __init__(
        self, *, num_classes: int = 21, in_channels: int = 3, steps: Sequence[Step] = VGG16, hidden: int = 4096
    ) -> None:
        """Build with He's initialisation for VGG's layers; the scores begin at zero, as published.

        Args:
            num_classes: classes of a pixel, background included: 21 for Pascal VOC.
            in_channels: of the images.
            steps: channels of each 3×3 convolution, and where to pool; five pools give the stride of 32.
            hidden: channels of the two convolutions that were linear layers.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for step in steps:
            if step == "pool":
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                continue
            padding = 1 if layers else _MARGIN
            layers += [nn.Conv2d(in_channels, step, 3, padding=padding), nn.ReLU(inplace=True)]
            in_channels = step
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 7),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        )
        self.score = nn.Conv2d(hidden, num_classes, 1)
        self.register_buffer("kernel", bilinear_kernel(STRIDE), persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Draw weights as when the network is built."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.score.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""
        scores = self.score(self.classifier(self.features(x)))
        classes, (height, width) = scores.shape[1], x.shape[2:]
        kernel = self.kernel.expand(classes, 1, *self.kernel.shape)
        upsampled = F.conv_transpose2d(scores, kernel, stride=STRIDE, groups=classes)
        return upsampled[:, :, _OFFSET : _OFFSET + height, _OFFSET : _OFFSET + width]

    def start_from(self, vgg: VGG) -> None:
        """Take over the weights of a VGG-16 trained to classify, its linear layers as convolutions; not its outputs.

        Args:
            vgg: of :func:`~secateur.models.vgg.imagenet_vgg16`, or as wide as this network.

        Raises:
            ModelError: the widths differ.
        """
        pairs = [*zip(self.features, vgg.features, strict=True), *zip(self.classifier, vgg.classifier, strict=False)]
        for own, other in pairs:
            if not isinstance(own, nn.Conv2d):
                continue
            shape = tuple(other.weight.shape) if isinstance(other, nn.Conv2d | nn.Linear) else ()
            if own.weight.shape[:1] != shape[:1] or own.weight.numel() != math.prod(shape):
                raise ModelError(
                    f"a layer of the VGG has weights of shape {shape}, not {tuple(own.weight.shape)} as here; give one "
                    "of the same widths"
                )
        with torch.no_grad():
            for own, other in pairs:
                for name, tensor in own.named_parameters():
                    tensor.copy_(other.get_parameter(name).view_as(tensor))


def fcn32s(*, width: float = 1.0, num_classes: int = 21, in_channels: int = 3) -> FCN32s:
    """Return FCN-32s on a VGG-16 that is ``width`` times as wide, in multiples of 8."""
    return FCN32s(
        num_classes=num_classes,
        in_channels=in_channels,
        steps=scaled_steps(VGG16, width, multiple=MULTIPLE),
        hidden=scaled(4096, width, multiple=MULTIPLE),
    )


def bilinear_kernel(factor: int) -> Tensor:
    """Return the kernel by which a transposed convolution of stride ``factor`` interpolates, shape (2 f, 2 f).

    Args:
        factor: an even number of pixels.
    """
    places = torch.arange(2 * factor, dtype=torch.float32)
    line = 1 - (places - (factor - 0.5)).abs() / factor
    return torch.outer(line, line)
