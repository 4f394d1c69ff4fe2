"""Images and masks of any size become frames of one size, together: what moves the one moves the other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.data.resizing import LARGEST
from secateur.errors import DataError, UsageError
from secateur.randomness import generator_for
from secateur.torchvision_shim import import_torchvision

IGNORED = 255
"""The value of mask pixels that have no class, and of those that a frame adds."""


@dataclass(frozen=True)
class Framing:
    """How an image and its mask become ``size`` × ``size``.

    To train: both are resized by the same random factor, half of them are mirrored, and a random window is cut out;
    what an image is too small for is padded (Chen et al. 2017, arXiv:1706.05587, §4.1: factors 0.5 to 2, and
    mirroring). Images are resized bilinearly with antialiasing, masks to the nearest pixel, so that no class appears
    that was not there.

    To evaluate: nothing is resized. The image lies in the upper left corner of the frame and the rest is padded, so
    every labelled pixel is scored where it was drawn, once, whatever the other images of its batch; an image that is
    larger than the frame is refused.

    Padding has the data's mean colour, which is 0 for the network, and is :data:`IGNORED` in the mask.

    Every choice is drawn from the seed of the pass and the number of the sample, so that neither the order of reading
    nor the number of processes changes an image.

    Raises:
        UsageError: a number is out of range.
    """

    size: int = 512  # pixels a side; images of PASCAL VOC have up to 500
    scales: tuple[float, float] = (0.5, 2.0)  # smallest and largest factor of a training image's sides
    flip: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST:
            raise UsageError(f"augmentation makes frames of {self.size} pixels; give a size from 1 to {LARGEST}")
        low, high = self.scales
        if not 0 < low <= high <= 16:
            raise UsageError(
                f"augmentation scales images by {low} to {high}; give two rising factors above 0, up to 16"
            )


@dataclass(frozen=True)
class Frame:
    """What is done to each image and mask of a pass: ``seed`` None evaluates, any other trains.

    It goes to the reading processes, so it holds nothing but numbers.
    """

    framing: Framing
    seed: int | None
    fill: tuple[float, ...]  # mean colour, one value per channel, in the unit of the pixels

    def __call__(self, pixels: Tensor, mask: Tensor, row: int) -> tuple[Tensor, Tensor]:
        """Return sample ``row``, (C, H, W) and (H, W), as (C, size, size) and (size, size) of the same dtypes.

        Raises:
            DataError: the image is to be evaluated and larger than the frame.
        """
        size = self.framing.size
        if self.seed is not None:
            pixels, mask = _moved(pixels, mask, self.framing, generator_for(self.seed, "augment", row))
        elif max(mask.shape) > size:
            height, width = mask.shape
            raise DataError(
                f"is {width}×{height} pixels, larger than the frame of {size}×{size} in which images are evaluated; "
                f"give a larger frame, such as --augment segmentation:{-(-max(mask.shape) // 32) * 32}"
            )
        return self._padded(pixels, size), F.pad(mask, _below(mask, size), value=IGNORED).contiguous()

    def _padded(self, pixels: Tensor, size: int) -> Tensor:
        fill = torch.tensor(self.fill, dtype=torch.float64)
        colour = fill.round().to(pixels.dtype) if pixels.dtype == torch.uint8 else fill.to(pixels.dtype)
        frame = colour.view(-1, 1, 1).expand(-1, size, size).clone()
        frame[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return frame


def _moved(pixels: Tensor, mask: Tensor, framing: Framing, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a training view of both, at most as large as the frame, drawn from ``generator`` alone."""
    low, high = framing.scales
    scale, down, across, side = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    factor = low + scale * (high - low)
    height, width = (max(1, round(length * factor)) for length in mask.shape)
    if (height, width) != tuple(mask.shape):
        pixels, mask = _resized(pixels, mask, height, width)
    top, left = int(down * (max(0, height - framing.size) + 1)), int(across * (max(0, width - framing.size) + 1))
    window = (slice(top, top + framing.size), slice(left, left + framing.size))
    pixels, mask = pixels[:, *window], mask[window]
    return (pixels.flip(-1), mask.flip(-1)) if framing.flip and side < 0.5 else (pixels, mask)


def _resized(pixels: Tensor, mask: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    import_torchvision()
    from torchvision.transforms.v2 import InterpolationMode, functional

    resize: Any = functional.resize
    larger = resize(pixels, [height, width], antialias=True)
    # "Nearest exact" takes the middle of pixels for their place, as the bilinear kernel does; plain "nearest" takes
    # their corner, which would move the mask against the image.
    return larger, resize(mask[None], [height, width], interpolation=InterpolationMode.NEAREST_EXACT)[0]


def _below(mask: Tensor, size: int) -> tuple[int, int, int, int]:
    height, width = mask.shape
    return 0, size - width, 0, size - height
