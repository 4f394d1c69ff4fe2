"""Images of any size become squares of one size: cropped at random to train, cropped in the centre to evaluate."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.randomness import generator_for
from secateur.torchvision_shim import import_torchvision

LARGEST = 4096  # pixels a side; more is a slip of the keyboard
ATTEMPTS = 10  # at a crop that lies within the image, as torchvision makes them
ASPECTS = (3 / 4, 4 / 3)  # width / height of a random crop


@dataclass(frozen=True)
class Resizing:
    """A set of augmentations that makes every image ``size`` × ``size``, whatever it was.

    To train: a crop of a random share and aspect of the image, resized (Szegedy et al. 2015, arXiv:1409.4842, §6),
    colours jittered, half of the images mirrored. To evaluate: the shorter side is resized to
    round(size · 256 / 224), and the central square is cut out (Krizhevsky et al. 2012, §4.1). Resizing is bilinear
    with antialiasing.

    Every choice is drawn from the seed of the pass and the number of the sample, so that neither the order of
    reading nor the number of processes changes an image.

    Raises:
        UsageError: a number is out of range.
    """

    size: int = 224  # pixels a side
    smallest_share: float = 0.08  # of the image's area that a training crop covers at least
    jitter: float = 0.0  # brightness, contrast and saturation are multiplied by 1 − jitter … 1 + jitter
    flip: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST:
            raise UsageError(f"augmentation resizes to {self.size} pixels; give a size from 1 to {LARGEST}")
        if not 0 < self.smallest_share <= 1:
            raise UsageError(f"smallest_share is {self.smallest_share}; give a share of the image above 0 and up to 1")
        if not 0 <= self.jitter <= 1:
            raise UsageError(f"jitter is {self.jitter}; give a number from 0 to 1")

    @property
    def evaluation_side(self) -> int:
        """Length of the shorter side, in pixels, before the central square is cut out."""
        return round(self.size * 256 / 224)


@dataclass(frozen=True)
class View:
    """What is done to one image of a pass: ``seed`` None evaluates, any other trains.

    It goes to the reading processes, so it holds nothing but numbers.
    """

    resizing: Resizing
    seed: int | None

    def __call__(self, pixels: Tensor, row: int) -> Tensor:
        """Return sample ``row``, shape (C, H, W), as (C, size, size) of the same dtype.

        Floats must lie in [0, 1] for the jitter.
        """
        if self.seed is None:
            return central_square(pixels, self.resizing)
        return random_square(pixels, self.resizing, generator_for(self.seed, "augment", row))


def central_square(pixels: Tensor, resizing: Resizing) -> Tensor:
    """Return the evaluated view of an image, (C, H, W) → (C, size, size)."""
    functional = _functional()
    resized = functional.resize(pixels, [resizing.evaluation_side], antialias=True)
    square: Tensor = functional.center_crop(resized, [resizing.size, resizing.size])
    return square.contiguous()


def random_square(pixels: Tensor, resizing: Resizing, generator: torch.Generator) -> Tensor:
    """Return a training view of an image, (C, H, W) → (C, size, size), drawn from ``generator`` alone."""
    functional = _functional()
    top, left, height, width = random_crop(pixels.shape[-2], pixels.shape[-1], resizing.smallest_share, generator)
    size = [resizing.size, resizing.size]
    square: Tensor = functional.resized_crop(pixels, top, left, height, width, size, antialias=True)
    if resizing.jitter:
        square = _jittered(square, resizing.jitter, generator)
    if resizing.flip and float(torch.rand((), generator=generator)) < 0.5:
        square = functional.horizontal_flip(square)
    return square.contiguous()


def random_crop(
    height: int, width: int, smallest_share: float, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a crop whose area is ``smallest_share`` to 1 of the image's.

    The aspect is drawn evenly in its logarithm. Where no crop fits in a few attempts, which long and narrow images
    make likely, it is the largest central one whose aspect is allowed.
    """
    narrowest, widest = ASPECTS
    for _ in range(ATTEMPTS):
        share, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (smallest_share + share * (1 - smallest_share))
        aspect = math.exp(math.log(narrowest) + place * (math.log(widest) - math.log(narrowest)))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(torch.randint(height - crop_height + 1, (), generator=generator))
            left = int(torch.randint(width - crop_width + 1, (), generator=generator))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * widest)))
    crop_height = min(height, max(1, round(width / narrowest)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _jittered(square: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation in a random order, each by a random factor."""
    functional = _functional()
    changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    factors = 1 + jitter * (2 * torch.rand(3, generator=generator, dtype=torch.float64) - 1)
    for place in torch.randperm(3, generator=generator).tolist():
        square = changes[place](square, float(factors[place]))
    return square


def _functional() -> Any:
    import_torchvision()
    from torchvision.transforms.v2 import functional

    return functional
