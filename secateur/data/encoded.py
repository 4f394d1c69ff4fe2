"""Images as they lie in files, JPEG or PNG or what else Pillow reads: decoded when asked for, and checked."""

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.data.augment import Augmentation
from secateur.data.augmentation_sets import suited_augmentation
from secateur.data.memory import LabelledImages, MemorySource
from secateur.data.normalization import Normalization
from secateur.data.options import LoadOptions
from secateur.data.resizing import Resizing
from secateur.data.source import Split
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError, UsageError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (C, H, W)

GREY_MODES = ("L", "1", "LA")  # Pillow's names of pixel formats
DEEP_MODES = ("I", "F")  # their prefixes, where a channel has more than 8 bits
FIX = "resize and convert all images alike, or choose an augmentation that resizes, such as imagenet"


class EncodedImages(ABC, Dataset[tuple[Tensor, int]]):
    """A map-style data set of encoded images; subclasses say where they lie.

    The first training image decides whether images are grey or colour. Among colour images, palettes,
    transparency (dropped) and CMYK are converted to RGB; grey ones as well where ``greys_become_colour``. Among grey
    images a colour one is refused.

    Attributes:
        labels: class of each image, int64, shape (N,).
    """

    labels: Tensor
    greys_become_colour = True  # also where images are not resized

    def __init__(self, labels: Tensor) -> None:
        """Remember the labels; :meth:`expect` is called before anything is read."""
        self.labels = labels
        self._shape: tuple[int, ...] | None = None
        self._reference = ""
        self._any_size = False

    @abstractmethod
    def describe(self, row: int) -> str:
        """Return what a message calls image ``row``: its file, or its row and file."""

    def describe_briefly(self, row: int) -> str:
        """Return what a message about another image of this split calls image ``row``."""
        return self.describe(row)

    @abstractmethod
    def encoded(self, row: int) -> bytes:
        """Return the bytes of image ``row``.

        Raises:
            DataError: they cannot be read.
        """

    def expect(self, shape: tuple[int, ...], reference: str, *, any_size: bool) -> None:
        """Say what all images must be like: ``shape``, (C, H, W), of the image that messages call ``reference``."""
        self._shape = shape
        self._reference = reference
        self._any_size = any_size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.pixels(row).copy()), int(self.labels[row])

    def decoded(self) -> LabelledImages:
        """Return all images as one tensor.

        Raises:
            DataError: an image cannot be decoded or differs from the first in size or mode; it is named.
        """
        assert self._shape is not None
        pixels = np.empty((len(self), *self._shape), dtype=np.uint8)
        for row in range(len(self)):
            pixels[row] = self.pixels(row)
        return LabelledImages(torch.from_numpy(pixels), self.labels)

    def pixels(self, row: int) -> Pixels:
        """Return image ``row`` as (C, H, W).

        Raises:
            DataError: it cannot be decoded, or is not as :meth:`expect` says.
        """
        pillow, what = _import_pillow(), self.describe(row)
        try:
            # Warnings about metadata (a damaged EXIF block, say) are of no use to anybody here.
            with warnings.catch_warnings(), pillow.open(io.BytesIO(self.encoded(row))) as image:
                warnings.simplefilter("ignore", UserWarning)
                array = self._as_array(image, what)
        except DataError:
            raise
        except pillow.DecompressionBombError as error:
            raise DataError(f"{what} is too large an image: {error}") from error
        except pillow.UnidentifiedImageError as error:
            raise DataError(f"{what} is not an image that Pillow can read; replace or remove it") from error
        # Pillow's decoders also raise SyntaxError, struct.error and others on damaged files.
        except Exception as error:
            raise DataError(
                f"{what} is not an image that Pillow can read whole: {error}; replace or remove it"
            ) from error
        pixels: Pixels = array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)
        alike = self._shape is None or (self._any_size and pixels.shape[0] == self._shape[0])
        if not alike and pixels.shape != self._shape:
            raise DataError(
                f"{what} is {_size(pixels.shape)} but {self._reference} is {_size(self._shape or ())}; "
                + ("convert all images alike" if self._any_size else FIX)
            )
        return pixels

    def _as_array(self, image: Any, what: str) -> Any:
        mode = image.mode
        if mode.startswith(DEEP_MODES):
            raise DataError(f"{what} is an image of mode {mode}; store grey or colour with 8 bits per channel")
        if mode in GREY_MODES and not self._wants_colour():
            return np.asarray(image if mode == "L" else image.convert("L"))
        if "transparency" in image.info and mode == "P":
            image = image.convert("RGBA")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    def _wants_colour(self) -> bool:
        """Say whether a grey image is wanted as a colour image."""
        if self._shape is None or self._shape[0] == 1:
            return False
        return self.greys_become_colour or self._any_size


def encoded_source(
    name: str,
    splits: dict[Split, EncodedImages],
    *,
    class_names: Sequence[str] | None,
    normalization: Normalization,
    options: LoadOptions,
    augmentation: Augmentation | Resizing | None = None,
) -> MemorySource | StreamingSource:
    """Return a source over encoded images.

    Those that keep their size and whose pixels fit in ``options.memory_limit_bytes`` are decoded now; all others by
    reading processes, when they are asked for.

    Args:
        name: what messages and records call the data set.
        splits: ``train`` and ``test``, perhaps ``validation``.
        class_names: one per class, or None for numbers.
        normalization: used unless ``options`` has one.
        options: the caller's.
        augmentation: used unless ``options`` has one; None takes what suits the first image.

    Raises:
        DataError: an image or label cannot be used.
        UsageError: Pillow or torchvision is not installed, or an option is out of range.
    """
    train = splits["train"]
    shape = train.pixels(0).shape
    chosen = options.augmentation or augmentation or suited_augmentation(shape, class_names)
    for split, images in splits.items():
        first = train.describe_briefly(0) if split == "train" else train.describe(0)
        images.expect(shape, first, any_size=isinstance(chosen, Resizing))
        if split != "train":
            images.pixels(0)  # another kind of image is found before work starts
    shared: dict[str, Any] = {
        "name": name,
        "class_names": class_names,
        "normalization": options.normalization or normalization,
        "validation_share": options.validation_share,
        "split_seed": options.split_seed,
    }
    stored: dict[str, Any] = dict(splits.items())
    size_bytes = sum(map(len, splits.values())) * int(np.prod(shape))
    if isinstance(chosen, Resizing) or size_bytes > options.memory_limit_bytes:
        return StreamingSource(**stored, **shared, augmentation=chosen, workers=options.workers)
    decoded: dict[str, Any] = {split: images.decoded() for split, images in splits.items()}
    return MemorySource(**decoded, **shared, augmentation=chosen)


def _import_pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as error:
        raise UsageError("decoding images needs Pillow; install it with: pip install 'secateur[vision]'") from error
    return PIL.Image


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}×{height} {'grey' if channels == 1 else 'colour'}"
