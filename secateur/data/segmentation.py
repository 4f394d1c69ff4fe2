"""Data with a class per pixel: images and masks are read and framed by worker processes."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from secateur.data.augment import Normalizer
from secateur.data.framing import IGNORED, Frame, Framing
from secateur.data.labels import partition
from secateur.data.masks import MaskedSample, MaskReader
from secateur.data.normalization import NORMALIZATIONS, Normalization
from secateur.data.order import plan_batches
from secateur.data.partitioned import Partitioned
from secateur.data.samples import UnreadableSample
from secateur.data.source import Split
from secateur.data.streaming import require_map_style, usable_cpus
from secateur.data.workers import check_workers, read_batches, stacked
from secateur.errors import DataError
from secateur.wording import counted

Frames = tuple[Tensor, Tensor]  # uint8 or float32 (N, C, size, size) and uint8 (N, size, size)


class SegmentationSource(Partitioned):
    """A :class:`DataSource` over map-style torch data sets of (image, mask), whose labels are masks.

    An image is a uint8 or float tensor (C, H, W) or (H, W), a numpy array (H, W, C) or (H, W), or a PIL image. A mask
    holds the class of each pixel, and 255 where a pixel counts nowhere: a whole-number tensor or array (H, W), or a PIL
    image with a palette or in grey. Images may differ in size; a :class:`Framing` makes them alike.

    Batches are (images, masks): float32 (N, C, size, size) normalised, and int64 (N, size, size).
    """

    task: Literal["segmentation"] = "segmentation"

    def __init__(
        self,
        *,
        name: str,
        train: Dataset[Any],
        test: Dataset[Any],
        validation: Dataset[Any] | None = None,
        class_names: Sequence[str],
        normalization: Normalization = NORMALIZATIONS["none"],
        peak: float | None = None,
        framing: Framing = Framing(),  # noqa: B008 - frozen
        validation_share: float = 0.1,
        split_seed: int = 0,
        workers: int = 2,
    ) -> None:
        """Read the first sample of each data set, and split validation off train.

        Args:
            name: what messages and records call the data set.
            train: what is trained on, less the validation share.
            test: what only final reports read.
            validation: a validation set that comes with the data; then nothing is taken off train.
            class_names: one per class, in the order of the masks' numbers, the background among them.
            normalization: applied to pixels divided by ``peak``.
            peak: the pixel value that counts as 1; None means 255 for uint8 images and 1 for float images.
            framing: how images and masks become one size.
            validation_share: part of train to set aside, at random.
            split_seed: which samples are set aside.
            workers: processes that read samples; 0 reads in the main one. At most one per CPU is started.

        Raises:
            DataError: a data set is not map-style, is empty, or its first sample cannot be used, or there are not 2 to
                255 classes.
            UsageError: ``validation_share`` or ``workers`` is out of range.
        """
        check_workers(workers)
        if not 2 <= len(class_names) <= IGNORED:
            raise DataError(
                f"{name} has {counted(len(class_names), 'class', 'classes')}; segmentation needs 2 to {IGNORED}"
            )
        self._stored: dict[Split, Dataset[Any]] = {"train": train, "test": test}
        if validation is not None:
            self._stored["validation"] = validation
        for split, dataset in self._stored.items():
            require_map_style(dataset, split, name)
        first = MaskReader(train, f"{name} (train)", seed=None, classes=len(class_names))[0]
        if isinstance(first, UnreadableSample):
            raise DataError(first.reason)
        channels = len(first.pixels)
        self.name = name
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.sample_shape = (channels, framing.size, framing.size)
        self.normalization = normalization.for_channels(channels)
        self.peak = peak if peak is not None else (255.0 if first.pixels.dtype == torch.uint8 else 1.0)
        self.augmentation = framing
        self._kind = first.pixels.dtype
        # Most images show several classes, so the parts are drawn from all images alike.
        alike = {split: torch.zeros(_size(dataset), dtype=torch.int64) for split, dataset in self._stored.items()}
        self._parts = partition(alike, validation_share, split_seed)
        self._workers = min(workers, usable_cpus())
        for split in self._stored:
            # Another kind of image, or one that no frame holds, is found before work starts.
            sample = self._reader(split, seed=None, augment=False)[0]
            if isinstance(sample, UnreadableSample):
                raise DataError(sample.reason)

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
        """Yield (images, masks) as :meth:`DataSource.batches` describes."""
        part = self._asked_for(split, seed=seed, augment=augment)
        plan = plan_batches(
            part.rows,
            batch_size=batch_size,
            seed=seed,
            start=start,
            limit=limit,
            indices=indices,
            rank=rank,
            world_size=world_size,
        )
        device = torch.device(device)
        loader = DataLoader(
            self._reader(part.stored, seed=seed, augment=augment),
            batch_sampler=[rows.tolist() for _, rows in plan],
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            # Without its own generator the loader draws from the global one, and so would change what comes after.
            generator=torch.Generator(),
        )
        return self._finish(loader, device)

    def _reader(self, stored: Split, *, seed: int | None, augment: bool) -> MaskReader:
        fill = tuple(self.peak * mean for mean in self.normalization.mean)
        return MaskReader(
            self._stored[stored],
            f"{self.name} ({stored})",
            seed=seed,
            classes=self.num_classes,
            frame=Frame(self.augmentation, seed if augment else None, fill),
            channels=self.sample_shape[0],
            kind=self._kind,
        )

    def _finish(self, loader: "DataLoader[Any]", device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        normalizer = Normalizer(self.normalization, self.peak, device)
        for batch in read_batches(loader, self.name):
            if isinstance(batch, UnreadableSample):
                raise DataError(batch.reason)
            pixels, masks = batch
            yield (
                normalizer(pixels.to(device, non_blocking=True)),
                masks.to(device, non_blocking=True).to(torch.int64),
            )


def _size(dataset: Any) -> int:
    return len(dataset)


def _collate(samples: list[MaskedSample | UnreadableSample]) -> Frames | UnreadableSample:
    read = []
    for sample in samples:
        if isinstance(sample, UnreadableSample):
            return sample
        read.append(sample)
    return stacked([sample.pixels for sample in read]), stacked([sample.mask for sample in read])
