"""Data sets larger than memory: samples are read one by one in worker processes.

Where images keep their size, workers only read: crops and flips are drawn for the whole pass in the main process and
made in batches. A set that resizes is applied by the workers, image by image. Its draws, and whatever a user's data
set draws by itself, are seeded by the sample, so the number of workers changes the speed and nothing else.
"""

import os
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from secateur.data.augment import Augmentation, Draws, Normalizer, PixelStore, draw
from secateur.data.labels import checked_labels, class_names_for, partition
from secateur.data.normalization import NORMALIZATIONS, Normalization
from secateur.data.order import plan_batches
from secateur.data.partitioned import Labelled
from secateur.data.resizing import Resizing, View
from secateur.data.samples import Sample, SampleReader, UnreadableSample
from secateur.data.source import Split
from secateur.data.workers import check_workers, read_batches, stacked
from secateur.errors import DataError


class StreamingSource(Labelled):
    """A :class:`DataSource` over map-style torch data sets of (image, label).

    An image is a uint8 or float tensor (C, H, W) or (H, W), a numpy array (H, W, C) or (H, W), or a PIL
    image. All have one shape, unless the augmentation resizes them. A data set's ``targets`` or ``labels`` are
    used where it has them; otherwise every sample is read once to learn its class.
    """

    def __init__(
        self,
        *,
        name: str,
        train: Dataset[Any],
        test: Dataset[Any],
        validation: Dataset[Any] | None = None,
        class_names: Sequence[str] | None = None,
        normalization: Normalization = NORMALIZATIONS["none"],
        peak: float | None = None,
        augmentation: Augmentation | Resizing = Augmentation(),  # noqa: B008 - frozen
        validation_share: float = 0.1,
        split_seed: int = 0,
        workers: int = 2,
    ) -> None:
        """Read one sample and all labels, and split validation off train.

        Args:
            name: what messages and records call the data set.
            train: what is trained on, less the validation share.
            test: what only final reports read.
            validation: a validation set that comes with the data; then nothing is taken off train.
            class_names: one per class; without them the classes are the numbers found in the training labels.
            normalization: applied to pixels divided by ``peak``.
            peak: the pixel value that counts as 1; None means 255 for uint8 images and 1 for float images.
            augmentation: what ``augment=True`` does to images. A :class:`Resizing` gives all images its size,
                those that are not augmented as well.
            validation_share: part of train to set aside, each class in proportion.
            split_seed: which samples are set aside.
            workers: processes that read samples; 0 reads in the main one. At most one per CPU is started.

        Raises:
            DataError: a data set is not map-style, is empty, or a sample or label cannot be used.
            UsageError: ``validation_share`` or ``workers`` is out of range.
        """
        check_workers(workers)
        self._stored: dict[Split, Dataset[Any]] = {"train": train, "test": test}
        if validation is not None:
            self._stored["validation"] = validation
        for split, dataset in self._stored.items():
            require_map_style(dataset, split, name)
        view = View(augmentation, seed=None) if isinstance(augmentation, Resizing) else None
        first = SampleReader(train, f"{name} (train)", seed=None, view=view)[0]
        if isinstance(first, UnreadableSample):
            raise DataError(first.reason)
        channels, height, width = first.pixels.shape
        labels = {split: _labels_of(dataset, split, name) for split, dataset in self._stored.items()}
        self.name = name
        self.sample_shape = (channels, height, width)
        self.class_names = class_names_for(labels, class_names, name)
        self.num_classes = len(self.class_names)
        self.normalization = normalization.for_channels(channels)
        self.peak = peak if peak is not None else (255.0 if first.pixels.dtype == torch.uint8 else 1.0)
        self.augmentation = augmentation
        self._kind = first.pixels.dtype
        self._labels = labels
        self._parts = partition(labels, validation_share, split_seed)
        self._workers = min(workers, usable_cpus())

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
        loader = self._loader(part.stored, plan, seed, device, augment=augment)
        draws = None
        if augment and seed is not None and isinstance(self.augmentation, Augmentation):
            draws = draw(self.augmentation, len(part.rows if indices is None else indices), seed, "augment")
        return self._finish(plan, loader, self._labels[part.stored], device, draws)

    def _loader(
        self, stored: Split, plan: list[tuple[int, Tensor]], seed: int | None, device: torch.device, *, augment: bool
    ) -> "DataLoader[Sample | UnreadableSample]":
        view = None
        if isinstance(self.augmentation, Resizing):
            view = View(self.augmentation, seed if augment else None)
        reader = SampleReader(
            self._stored[stored],
            f"{self.name} ({stored})",
            seed=seed,
            shape=self.sample_shape,
            kind=self._kind,
            view=view,
        )
        return DataLoader(
            reader,
            batch_sampler=[rows.tolist() for _, rows in plan],
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            # Without its own generator the loader draws from the global one, and so would change what comes
            # after.
            generator=torch.Generator(),
        )

    def _finish(
        self,
        plan: list[tuple[int, Tensor]],
        loader: "DataLoader[Sample | UnreadableSample]",
        labels: Tensor,
        device: torch.device,
        draws: Draws | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        normalizer = Normalizer(self.normalization, self.peak, device)
        padding = self.augmentation.padding if isinstance(self.augmentation, Augmentation) else 0
        for (first, rows), batch in zip(plan, read_batches(loader, self.name), strict=True):
            if isinstance(batch, UnreadableSample):
                raise DataError(batch.reason)
            pixels = batch.to(device, non_blocking=True)
            targets = labels[rows].to(device, non_blocking=True)
            if draws is None:
                yield normalizer(pixels), targets
                continue
            chosen = draws.at(slice(first, first + len(rows)))
            store = PixelStore(pixels, padding, device)
            yield normalizer(store.read(torch.arange(len(rows), device=device), chosen), chosen.flips), targets


def _collate(samples: list[Sample | UnreadableSample]) -> Tensor | UnreadableSample:
    for sample in samples:
        if isinstance(sample, UnreadableSample):
            return sample
    return stacked([sample.pixels for sample in samples if isinstance(sample, Sample)])


def require_map_style(dataset: Dataset[Any], split: Split, name: str) -> None:
    """Refuse a data set without length and index, and an empty one.

    Raises:
        DataError: it is one.
    """
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"the {split} data of {name} is a {type(dataset).__name__} without length and index; "
            f"give a map-style torch Dataset, so that a run can continue at any batch"
        )
    if len(dataset) == 0:
        raise DataError(f"the {split} split of {name} is empty; it needs at least one sample")


def _labels_of(dataset: Dataset[Any], split: Split, name: str) -> Tensor:
    """Return the data set's own list of labels, or read every sample once."""
    size = len(dataset)  # type: ignore[arg-type]
    known = getattr(dataset, "targets", None)
    if known is None:
        known = getattr(dataset, "labels", None)
    if known is None:
        reader = SampleReader(dataset, f"{name} ({split})", seed=None)
        known = [_label(reader[row]) for row in range(size)]
    try:
        labels = torch.as_tensor(known)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the {split} labels of {name} are not numbers: {error}") from error
    return checked_labels(labels, size, split, name)


def _label(sample: Sample | UnreadableSample) -> int:
    if isinstance(sample, UnreadableSample):
        raise DataError(sample.reason)
    return sample.label


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
