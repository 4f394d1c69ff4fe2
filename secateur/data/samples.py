"""One sample of a user's data set, read in any process: seeded by itself, checked, made a tensor."""

import contextlib
import operator
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.data.resizing import View
from secateur.errors import SecateurError
from secateur.randomness import derive_seed
from secateur.user_code import describe_failure


@dataclass(frozen=True)
class Sample:
    """An image, uint8 or float32 of shape (C, H, W), and its class."""

    pixels: Tensor
    label: int


@dataclass(frozen=True)
class UnreadableSample:
    """Why a sample cannot be used. A value, as an exception would lose its sentence between processes."""

    reason: str


class SampleReader(Dataset[Sample | UnreadableSample]):
    """Reads samples of ``dataset`` so that neither order nor process changes them."""

    def __init__(
        self,
        dataset: Dataset[Any],
        name: str,
        *,
        seed: int | None,
        shape: tuple[int, ...] | None = None,
        kind: torch.dtype | None = None,
        view: View | None = None,
    ) -> None:
        """Remember what a sample must be; ``shape`` (C, H, W) and ``kind`` are unchecked where None.

        ``view``, where there is one, is applied to each image before its shape is looked at.
        """
        self._dataset = dataset
        self._name = name
        self._seed = seed
        self._shape = shape
        self._kind = kind
        self._view = view

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, row: int) -> Sample | UnreadableSample:
        try:
            with seeded(derive_seed("stored" if self._seed is None else self._seed, "sample", row)):
                image, label = self._dataset[row]
            pixels = as_pixels(image)
            if self._view is not None:
                pixels = self._view(pixels, row)
            sample = Sample(pixels, operator.index(label))
        except SecateurError as error:
            return UnreadableSample(str(error))
        except Exception as error:
            return UnreadableSample(f"sample {row} of {self._name} cannot be read: {describe_failure(error)}")
        if self._shape is not None and (tuple(pixels.shape) != self._shape or pixels.dtype != self._kind):
            fix = "resize them, or choose an augmentation that resizes, such as imagenet"
            return UnreadableSample(
                f"sample {row} of {self._name} is {pixels.dtype} {tuple(pixels.shape)} but the first one is "
                f"{self._kind} {self._shape}; all images must agree, so {fix if self._view is None else 'convert them'}"
            )
        if pixels.is_floating_point() and not bool(torch.isfinite(pixels).all()):
            return UnreadableSample(f"sample {row} of {self._name} holds NaN or infinity; remove or repair it")
        return sample


def as_pixels(image: object) -> Tensor:
    """Turn a tensor (channels first), or an array or PIL image (channels last), into a tensor (C, H, W)."""
    if isinstance(image, Tensor):
        pixels = image
    else:
        array = torch.from_numpy(np.array(image))
        pixels = array.permute(2, 0, 1) if array.dim() == 3 else array
    if pixels.dim() == 2:
        pixels = pixels.unsqueeze(0)
    if pixels.dim() != 3:
        raise ValueError(f"an image has shape {tuple(pixels.shape)}; it should be (channels, height, width)")
    return pixels.contiguous() if pixels.dtype == torch.uint8 else pixels.to(torch.float32).contiguous()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators that data sets commonly draw from, and put them back as they were."""
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators as well
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
