"""One image with its mask, read in any process: seeded by itself, checked, framed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.data.framing import IGNORED, Frame
from secateur.data.samples import UnreadableSample, as_pixels, seeded
from secateur.errors import DataError, SecateurError
from secateur.randomness import derive_seed
from secateur.user_code import describe_failure
from secateur.wording import counted

NAMED = 5  # unknown values in a sentence


@dataclass(frozen=True)
class MaskedSample:
    """An image, uint8 or float32 of shape (C, H, W), and the class of each of its pixels, uint8 of shape (H, W)."""

    pixels: Tensor
    mask: Tensor


class MaskReader(Dataset[MaskedSample | UnreadableSample]):
    """Reads samples of ``dataset`` so that neither order nor process changes them."""

    def __init__(
        self,
        dataset: Dataset[Any],
        name: str,
        *,
        seed: int | None,
        classes: int,
        frame: Frame | None = None,
        channels: int | None = None,
        kind: torch.dtype | None = None,
    ) -> None:
        """Remember what a sample must be; ``channels`` and ``kind`` are unchecked where None."""
        self._dataset = dataset
        self._name = name
        self._seed = seed
        self._classes = classes
        self._frame = frame
        self._channels = channels
        self._kind = kind

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, row: int) -> MaskedSample | UnreadableSample:
        what = self._called(row)
        try:
            with seeded(derive_seed("stored" if self._seed is None else self._seed, "sample", row)):
                image, mask = self._dataset[row]
            pixels, labels = as_pixels(image), _as_labels(mask)
            self._check(pixels, labels)
            if self._frame is not None:
                pixels, labels = self._frame(pixels, labels, row)
            return MaskedSample(pixels, labels)
        except SecateurError as error:
            return UnreadableSample(f"{what} {error}")
        except Exception as error:
            return UnreadableSample(f"{what} cannot be read: {describe_failure(error)}; replace or remove it")

    def _called(self, row: int) -> str:
        describe = getattr(self._dataset, "describe", None)
        return str(describe(row)) if callable(describe) else f"sample {row} of {self._name}"

    def _check(self, pixels: Tensor, labels: Tensor) -> None:
        """Refuse a sample that does not fit; messages begin after what the sample is called."""
        if pixels.shape[1:] != labels.shape:
            (height, width), (high, wide) = pixels.shape[1:], labels.shape
            raise DataError(f"is {width}×{height} pixels, but its mask is {wide}×{high}; give both the same size")
        if self._channels is not None and (len(pixels) != self._channels or pixels.dtype != self._kind):
            raise DataError(
                f"is {pixels.dtype} with {counted(len(pixels), 'channel')}, but the first one is {self._kind} with "
                f"{self._channels}; convert all images alike"
            )
        if pixels.is_floating_point() and not bool(torch.isfinite(pixels).all()):
            raise DataError("holds NaN or infinity; remove or repair it")
        unknown = (labels >= self._classes) & (labels != IGNORED)
        if bool(unknown.any()):
            values = sorted(set(labels[unknown].tolist()))
            shown = ", ".join(map(str, values[:NAMED])) + (" …" if len(values) > NAMED else "")
            raise DataError(
                f"has a mask with the value {shown}, but the {self._classes} classes are 0 … {self._classes - 1}, and "
                f"{IGNORED} is for pixels to ignore; repair the mask"
            )


def _as_labels(mask: object) -> Tensor:
    """Return the mask as uint8 (H, W): of a tensor, an array, or an image whose pixels are numbers of classes."""
    labels = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    if labels.ndim == 3 and len(labels) == 1:
        labels = labels[0]
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        kind = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise DataError(
            f"has a mask that is {kind}; a mask holds one whole number per pixel, as an image with a palette or a grey "
            "one does"
        )
    if labels.dtype in (torch.uint8, torch.bool):
        return labels.to(torch.uint8).contiguous()
    wide = labels.to(torch.int64)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > IGNORED:
        raise DataError(
            f"has a mask with values from {low} to {high}; classes are 0 … 254, and {IGNORED} is for pixels to ignore"
        )
    return wide.to(torch.uint8).contiguous()
