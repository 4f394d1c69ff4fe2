"""Random crop and flip of a whole batch at once, and the step from pixels to network inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.data.normalization import Normalization
from secateur.errors import UsageError
from secateur.randomness import generator_for


@dataclass(frozen=True)
class Augmentation:
    """What a data set's training images may be put through, each sample by itself.

    Crop after padding with black (Krizhevsky 2009; He et al. 2016, §4.2: 4 pixels on CIFAR-10), and mirror
    half of the images where left and right mean nothing.
    """

    padding: int = 0  # pixels on each side
    flip: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UsageError(f"augmentation padding is {self.padding} pixels; it cannot be negative")


@dataclass(frozen=True)
class Draws:
    """The random choices for some samples, on the CPU: where each crop begins, and who is mirrored."""

    corners: Tensor  # (N,), row × (2 × padding + 1) + column of the crop's corner in the padded image
    flips: Tensor | None  # (N,), bool; None where nobody is

    def at(self, *places: slice) -> "Draws":
        """Return the choices for the samples at ``places``, in this order."""
        corners = torch.cat([self.corners[place] for place in places])
        flips = None if self.flips is None else torch.cat([self.flips[place] for place in places])
        return Draws(corners, flips)


def draw(augmentation: Augmentation, count: int, *seed_parts: int | str) -> Draws:
    """Draw the choices for ``count`` samples from ``seed_parts`` alone, always on the CPU."""
    places = (2 * augmentation.padding + 1) ** 2
    variants = places * (2 if augmentation.flip else 1)
    # One number per sample for all three choices: it takes a third of the time.
    codes = torch.randint(variants, (count,), generator=generator_for(*seed_parts))
    return Draws(codes % places, codes >= places) if augmentation.flip else Draws(codes, None)


class PixelStore:
    """Images on one device, padded once, out of which crops are read at the cost of a copy.

    A crop whose corner lies at (y, x) is, in the flat padded image, everything from element y · width + x on.
    With the store viewed as one overlapping window per element, a batch of crops is a single
    ``index_select``.
    """

    def __init__(self, pixels: Tensor, padding: int, device: torch.device | str) -> None:
        """Copy ``pixels``, shape (N, C, H, W), to ``device`` with ``padding`` black pixels on each side."""
        count, channels, self._height, self._width = pixels.shape
        self._padding = padding
        self._padded = (channels, self._height + 2 * padding, self._width + 2 * padding)
        self._stride = self._padded[0] * self._padded[1] * self._padded[2]
        # The farthest crop of the last image reads this much past its end (and drops it again).
        overhang = 2 * padding * (self._padded[2] + 1)
        if padding:
            flat = torch.zeros(count * self._stride + overhang, dtype=pixels.dtype, device=device)
            inside = flat[: count * self._stride].view(count, *self._padded)
            inside[..., padding : padding + self._height, padding : padding + self._width] = pixels.to(device)
        else:
            flat = pixels.to(device).contiguous().view(-1)
        places = torch.arange(2 * padding + 1)
        self._offsets = (places[:, None] * self._padded[2] + places).flatten()  # of each corner, on the CPU
        starts = flat.numel() - self._stride + 1
        self._windows = flat.as_strided((starts, self._stride), (1, 1))

    def read(self, rows: Tensor, draws: Draws | None = None) -> Tensor:
        """Return the images at ``rows``, whole or cropped as drawn (not yet flipped), shape (N, C, H, W)."""
        starts = rows * self._stride
        if draws is None:
            starts += self._padding * (self._padded[2] + 1)
        else:
            starts += self._offsets.index_select(0, draws.corners).to(rows.device, non_blocking=True)
        images = self._windows.index_select(0, starts).view(len(rows), *self._padded)
        return images[..., : self._height, : self._width]


class Normalizer:
    """(pixel / peak − mean) / std as one multiplication and one addition, its constants kept on a device."""

    def __init__(self, normalization: Normalization, peak: float, device: torch.device | str) -> None:
        """Prepare for pixels whose value ``peak`` counts as 1; ``normalization`` has a value per channel."""
        mean = torch.tensor(normalization.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(normalization.std, dtype=torch.float64).view(1, -1, 1, 1)
        self._scale = (1 / (peak * std)).to(torch.float32).to(device)
        self._shift = (-mean / std).to(torch.float32).to(device)

    def __call__(self, pixels: Tensor, flips: Tensor | None = None) -> Tensor:
        """Return ``pixels`` as float32, contiguous, normalised, and mirrored where ``flips`` says so."""
        images = pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        images.mul_(self._scale).add_(self._shift)
        if flips is None:
            return images
        # Only those that are mirrored are copied. They are found on the CPU: a GPU would have to be waited for.
        mirrored = flips.nonzero().flatten().to(images.device, non_blocking=True)
        return images.index_copy_(0, mirrored, images.index_select(0, mirrored).flip(-1))
