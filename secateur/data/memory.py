"""Data sets that fit in memory: tensors on the device, augmented and normalised a batch at a time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.data.augment import Augmentation, Draws, Normalizer, PixelStore, draw
from secateur.data.labels import checked_labels, class_names_for, partition
from secateur.data.normalization import NORMALIZATIONS, Normalization
from secateur.data.order import plan_batches
from secateur.data.partitioned import Labelled
from secateur.data.source import Split
from secateur.errors import DataError

CHUNK_BYTES = 2**22  # of network inputs that are made at once; more would leave a CPU's cache before it is used
ALIGNMENT = 64  # bytes, of torch's own tensors


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        pixels: uint8 or float32, shape (N, C, H, W).
        labels: class of each image, whole numbers, shape (N,).
    """

    pixels: Tensor
    labels: Tensor


class MemorySource(Labelled):
    """A :class:`DataSource` over tensors; see there for what the methods promise."""

    def __init__(
        self,
        *,
        name: str,
        train: LabelledImages,
        test: LabelledImages,
        validation: LabelledImages | None = None,
        class_names: Sequence[str] | None = None,
        normalization: Normalization = NORMALIZATIONS["none"],
        peak: float = 255.0,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
        validation_share: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        """Check the tensors and split validation off train.

        Args:
            name: what messages and records call the data set.
            train: what is trained on, less the validation share.
            test: what only final reports read.
            validation: a validation set that comes with the data; then nothing is taken off train.
            class_names: one per class; without them the classes are the numbers found in the training labels.
            normalization: applied to pixels divided by ``peak``.
            peak: the pixel value that counts as 1.
            augmentation: what ``augment=True`` does to images.
            validation_share: part of train to set aside, each class in proportion.
            split_seed: which samples are set aside.

        Raises:
            DataError: images or labels are empty, of different number or shape, not finite, or out of range.
            UsageError: ``validation_share`` is outside [0, 1), or the normalisation has another number of
                channels.
        """
        stored: dict[Split, LabelledImages] = {"train": train, "test": test}
        if validation is not None:
            stored["validation"] = validation
        labels = {
            split: checked_labels(images.labels, len(images.pixels), split, name) for split, images in stored.items()
        }
        self.name = name
        self.sample_shape = _common_shape(stored, name)
        self.class_names = class_names_for(labels, class_names, name)
        self.num_classes = len(self.class_names)
        self.normalization = normalization.for_channels(self.sample_shape[0])
        self.peak = peak
        self.augmentation = augmentation
        self._stored = stored
        self._labels = labels
        self._parts = partition(labels, validation_share, split_seed)
        self._stores: dict[tuple[Split, int, torch.device], PixelStore] = {}
        self._labels_on: dict[tuple[Split, torch.device], Tensor] = {}

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int | None = None,
        augment: bool = False,
        device: torch.device | str = "cpu",
        start: int = 0,
        limit: int | None = None,
        indices: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels) as :meth:`DataSource.batches` describes."""
        part = self._asked_for(split, seed=seed, augment=augment)
        device = torch.device(device)
        plan = plan_batches(
            part.rows.to(device),
            batch_size=batch_size,
            seed=seed,
            start=start,
            limit=limit,
            indices=indices,
            rank=rank,
            world_size=world_size,
        )
        store = self._store(part.stored, self.augmentation.padding if augment else 0, device)
        if (part.stored, device) not in self._labels_on:
            self._labels_on[part.stored, device] = self._labels[part.stored].to(device)
        labels = self._labels_on[part.stored, device]
        normalizer = Normalizer(self.normalization, self.peak, device)
        draws = None
        if augment and seed is not None:
            draws = draw(self.augmentation, len(part.rows if indices is None else indices), seed, "augment")
        return _read(plan, store, labels, normalizer, draws, self._batches_at_once(batch_size, world_size))

    def _batches_at_once(self, batch_size: int, world_size: int) -> int:
        share, rest = divmod(batch_size, world_size)
        size_bytes = 4 * share * math.prod(self.sample_shape)
        # A batch must lie in memory like a tensor of its own: kernels may round otherwise where the alignment
        # differs, and a continued run begins its chunks elsewhere.
        aligned = rest == 0 and size_bytes % ALIGNMENT == 0
        return max(1, CHUNK_BYTES // size_bytes) if aligned else 1

    def _store(self, stored: Split, padding: int, device: torch.device) -> PixelStore:
        # Reading without a border is several times faster, so uncropped reading has a store of its own.
        key = (stored, padding, device)
        if key not in self._stores:
            self._stores[key] = PixelStore(self._stored[stored].pixels, padding, device)
        return self._stores[key]


def _read(
    plan: list[tuple[int, Tensor]],
    store: PixelStore,
    labels: Tensor,
    normalizer: Normalizer,
    draws: Draws | None,
    at_once: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of ``plan``; ``at_once`` of them are made together, as starting an operator takes a while."""
    for begin in range(0, len(plan), at_once):
        chunk = plan[begin : begin + at_once]
        sizes = [len(rows) for _, rows in chunk]
        rows = torch.cat([rows for _, rows in chunk])
        if draws is None:
            images = normalizer(store.read(rows))
        else:
            chosen = draws.at(*(slice(first, first + len(rows)) for first, rows in chunk))
            images = normalizer(store.read(rows, chosen), chosen.flips)
        # Not ``split``: autograd would take a change of one batch in place for a change of all.
        split = torch.unsafe_split_with_sizes
        yield from zip(split(images, sizes), split(labels.index_select(0, rows), sizes), strict=True)


def _common_shape(stored: Mapping[Split, LabelledImages], name: str) -> tuple[int, int, int]:
    """Return (C, H, W), the same for all splits.

    Raises:
        DataError: images have another layout, dtype or shape than they should, or are not finite.
    """
    expected = tuple(stored["train"].pixels.shape[1:])
    kind = stored["train"].pixels.dtype
    for split, images in stored.items():
        pixels = images.pixels
        if pixels.dim() != 4 or pixels.dtype not in (torch.uint8, torch.float32):
            raise DataError(
                f"the {split} images of {name} are {pixels.dtype} of shape {tuple(pixels.shape)}; "
                f"give uint8 or float32 of shape (N, channels, height, width)"
            )
        if pixels.shape[-1] in (1, 3) and pixels.shape[1] not in (1, 3):
            raise DataError(
                f"the {split} images of {name} have shape {tuple(pixels.shape)}, which looks like channels "
                "last; "
                f"permute them to (N, channels, height, width)"
            )
        if tuple(pixels.shape[1:]) != expected or pixels.dtype != kind:
            raise DataError(
                f"the {split} images of {name} are {pixels.dtype} {tuple(pixels.shape[1:])} but the train "
                "images are "
                f"{kind} {expected}; all splits must agree"
            )
        if pixels.is_floating_point() and not bool(torch.isfinite(pixels).all()):
            row = int((~torch.isfinite(pixels).flatten(1).all(1)).nonzero()[0])
            raise DataError(f"{split} image {row} of {name} holds NaN or infinity; remove or repair it")
    channels, height, width = expected
    return channels, height, width
