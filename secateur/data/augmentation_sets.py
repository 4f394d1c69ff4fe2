"""Sets of augmentations by name, and which one suits a data set that comes without."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from secateur.data.augment import Augmentation
from secateur.data.framing import Framing
from secateur.data.memory import LabelledImages, MemorySource
from secateur.data.options import LoadOptions
from secateur.data.resizing import LARGEST, Resizing
from secateur.data.source import Split
from secateur.data.streaming import StreamingSource
from secateur.errors import UsageError
from secateur.names import unknown_name

AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(flip=True),
    "crop": Augmentation(padding=2),
    "cifar": Augmentation(padding=4, flip=True),
}
"""Sets that leave the size of images as it is."""

# imagenet: as torchvision's reference training; imagenet-mobile: as the AutoSlim authors train small networks
# (crops from a quarter of the image on). Their lighting noise is left out: their code adds numbers meant for pixels
# in [0, 1] to pixels in 0 … 255, where they change next to nothing.
RESIZING_AUGMENTATIONS: dict[str, Callable[[int], Resizing]] = {
    "imagenet": lambda size: Resizing(size=size),
    "imagenet-mobile": lambda size: Resizing(size=size, smallest_share=0.25, jitter=0.4),
}
"""Sets that make all images squares; ``name:SIZE`` gives the side in pixels."""

FRAMINGS: dict[str, Callable[[int], Framing]] = {
    "segmentation": lambda size: Framing(size=size),
    "segmentation-plain": lambda size: Framing(size=size, scales=(1.0, 1.0), flip=False),
}
"""Sets for images with masks; ``name:SIZE`` gives the side of the frame in pixels. The plain one only pads."""

USUAL_SIZE = 224  # pixels
SMALL_SIDE = 96  # pixels; images up to this are left at their size unless somebody asks


def augmentation_named(text: str) -> Augmentation | Resizing | Framing:
    """Return the set of augmentations that ``text`` names.

    Args:
        text: a key of :data:`AUGMENTATIONS`, or one of :data:`RESIZING_AUGMENTATIONS` or :data:`FRAMINGS`, which may be
            followed by the side of the square in pixels: ``imagenet:160``. Without it the side is 224, and that of
            frames 512.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), or the size is not a number or out of range.
    """
    name, colon, size = text.partition(":")
    if name in AUGMENTATIONS:
        if colon:
            raise UsageError(
                f"augmentation {text!r}: {name!r} keeps the size of images and takes none; "
                f"give {name!r}, or a set that resizes, such as 'imagenet:{size or USUAL_SIZE}'"
            )
        return AUGMENTATIONS[name]
    if name not in RESIZING_AUGMENTATIONS and name not in FRAMINGS:
        raise UsageError(unknown_name("augmentation", name, [*AUGMENTATIONS, *RESIZING_AUGMENTATIONS, *FRAMINGS]))
    if colon and not (size.isascii() and size.isdigit()):
        raise UsageError(f"augmentation {text!r}: {size!r} is not a number of pixels; give a size such as {name}:160")
    if len(size) > len(str(LARGEST)):
        raise UsageError(f"augmentation {text!r} asks for {size} pixels; give a size from 1 to {LARGEST}")
    if name in FRAMINGS:
        return FRAMINGS[name](int(size) if colon else Framing().size)
    return RESIZING_AUGMENTATIONS[name](int(size) if colon else USUAL_SIZE)


def suited_augmentation(shape: Sequence[int], class_names: Sequence[str] | None) -> Augmentation | Resizing:
    """Return what suits images that come from anywhere, by the first of them.

    Images with a side above 96 pixels are resized as ImageNet's are. Colour images of 32×32 are augmented as
    CIFAR-10 is, but digits are not mirrored. All others are left as they are.

    Args:
        shape: (C, H, W) of the first training image.
        class_names: where they are known.
    """
    if max(shape[1:]) > SMALL_SIDE:
        return Resizing()
    if tuple(shape) != (3, 32, 32):
        return Augmentation()
    digits = bool(class_names) and all(name.isdigit() for name in class_names or ())
    return Augmentation(padding=4, flip=not digits)


class TensorRows(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory as a data set of single samples, with pixels that a resizing set takes."""

    def __init__(self, images: LabelledImages, peak: float) -> None:
        """Keep uint8 pixels with ``peak`` 255 as they are; others are divided by ``peak`` when they are read."""
        self.labels = images.labels
        self._pixels = images.pixels
        self._peak = None if images.pixels.dtype == torch.uint8 and peak == 255 else peak

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        pixels = self._pixels[row]
        return pixels if self._peak is None else pixels.to(torch.float32) / self._peak, self.labels[row]


def tensor_source(
    splits: dict[Split, LabelledImages],
    *,
    augmentation: Augmentation | Resizing,
    options: LoadOptions,
    peak: float = 255.0,
    **shared: Any,
) -> MemorySource | StreamingSource:
    """Return a source over tensors: in memory and augmented in batches, or resized one by one where that is asked for.

    Args:
        splits: ``train`` and ``test``, perhaps ``validation``.
        augmentation: what suits the data, unless ``options`` says otherwise.
        options: the caller's.
        peak: the pixel value that counts as 1.
        shared: what both kinds of source take: ``name``, ``class_names``, ``normalization``.

    Raises:
        DataError: the tensors cannot be used.
        UsageError: an option does not fit them.
    """
    chosen = options.augmentation or augmentation
    shared.update(validation_share=options.validation_share, split_seed=options.split_seed)
    memory_augmentation = chosen if isinstance(chosen, Augmentation) else Augmentation()
    # Made in any case: it is what checks the tensors.
    tensors: dict[str, Any] = dict(splits.items())
    memory = MemorySource(**tensors, **shared, peak=peak, augmentation=memory_augmentation)
    if isinstance(chosen, Augmentation):
        return memory
    rows: dict[str, Any] = {split: TensorRows(images, peak) for split, images in splits.items()}
    peak = 255.0 if peak == 255 and splits["train"].pixels.dtype == torch.uint8 else 1.0
    return StreamingSource(**rows, **shared, peak=peak, augmentation=chosen, workers=options.workers)
