"""Data from the user's own function: a ready source, tensors, or torch data sets."""

from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from secateur.data.augment import Augmentation
from secateur.data.augmentation_sets import augmentation_named, tensor_source
from secateur.data.framing import Framing
from secateur.data.memory import LabelledImages
from secateur.data.normalization import Normalization, normalization_named
from secateur.data.options import LoadOptions
from secateur.data.resizing import Resizing
from secateur.data.source import SPLITS, DataSource, Split
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError, UsageError
from secateur.names import unknown_name
from secateur.user_code import call_user_function

KEYS = (*SPLITS, "class_names", "normalization", "augmentation")


def user_source(spec: str, options: LoadOptions) -> DataSource:
    """Return what ``file.py:function`` makes: a :class:`DataSource`, or a mapping that describes one.

    The mapping has ``train`` and ``test``, perhaps ``validation``, each a pair (images, labels) of tensors or
    arrays (uint8 0 … 255, or floats that count as already scaled; shape (N, C, H, W) or (N, H, W)) or a
    map-style torch data set. It may also have ``class_names``, ``normalization`` (a :class:`Normalization` or
    its name) and ``augmentation`` (an :class:`Augmentation`, a :class:`Resizing` or a name such as ``"cifar"``);
    without them images are neither normalised nor augmented. Pairs are held in memory; data sets stream through
    workers, so that their own random transforms stay random. A :class:`Resizing` takes images of any size. For images
    with a class per pixel the function returns a :class:`~secateur.data.SegmentationSource`.

    Raises:
        DataError: the function failed (its file and line are named), or what it returned cannot be used.
        UsageError: the file or function does not exist, or running code is not allowed.
    """
    made = call_user_function(spec, allow_code=options.allow_code, error=DataError)
    if isinstance(made, DataSource):
        if options.normalization is not None:
            raise UsageError(f"{spec} returns a DataSource, which normalises by itself; leave the normalisation out")
        if options.augmentation is not None or options.framing is not None:
            raise UsageError(f"{spec} returns a DataSource, which augments by itself; leave the augmentation out")
        return made
    if options.framing is not None:
        raise UsageError(
            f"{spec} returns images with one class each, and the augmentation moves images together with their masks; "
            "choose another augmentation, or return a SegmentationSource"
        )
    if not isinstance(made, Mapping):
        raise DataError(
            f"{spec} returned {type(made).__name__}; return a DataSource, or a dict with 'train' and 'test'"
        )
    for key in made:
        if key not in KEYS:
            raise DataError(f"{spec} returned an {unknown_name('entry', str(key), KEYS)}")
    for key in ("train", "test"):
        if key not in made:
            raise DataError(f"{spec} returned no {key!r} entry, only {', '.join(map(str, made)) or 'nothing'}; add it")
    return _from_mapping(spec, made, options)


def _from_mapping(spec: str, made: Mapping[str, Any], options: LoadOptions) -> DataSource:
    shared: dict[str, Any] = {
        "name": spec,
        "class_names": made.get("class_names"),
        "normalization": options.normalization or _normalization(made.get("normalization", "none"), spec),
    }
    augmentation = _augmentation(made.get("augmentation", Augmentation()), spec)
    splits: dict[Split, Any] = {split: made[split] for split in SPLITS if made.get(split) is not None}
    pairs = {split: _as_pair(value) for split, value in splits.items()}
    if all(pair is not None for pair in pairs.values()):
        images = {split: _as_images(pair, split, spec) for split, pair in pairs.items() if pair is not None}
        peak = 255.0 if images["train"].pixels.dtype == torch.uint8 else 1.0
        return tensor_source(images, augmentation=augmentation, options=options, peak=peak, **shared)
    for split, value in splits.items():
        if pairs[split] is not None or not (isinstance(value, Sized) and hasattr(value, "__getitem__")):
            raise DataError(
                f"{spec} returned {type(value).__name__} as {split!r}; "
                "return for every split a pair (images, labels), or for every split a map-style torch "
                "Dataset"
            )
    datasets: dict[str, Any] = dict(splits.items())
    return StreamingSource(
        **datasets,
        **shared,
        augmentation=options.augmentation or augmentation,
        validation_share=options.validation_share,
        split_seed=options.split_seed,
        workers=options.workers,
    )


def _as_pair(value: Any) -> tuple[Any, Any] | None:
    if isinstance(value, TensorDataset):
        value = value.tensors
    return (value[0], value[1]) if isinstance(value, (tuple, list)) and len(value) == 2 else None


def _as_images(pair: tuple[Any, Any], split: str, spec: str) -> LabelledImages:
    try:
        pixels, labels = torch.as_tensor(pair[0]), torch.as_tensor(pair[1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{spec} returned {split!r} data that is not numbers: {error}") from error
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    return LabelledImages(_uint8_or_float32(pixels), labels)


def _uint8_or_float32(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) if pixels.is_floating_point() else pixels


def _normalization(value: object, spec: str) -> Normalization:
    if isinstance(value, Normalization):
        return value
    if isinstance(value, str):
        return normalization_named(value)
    raise DataError(f"{spec} returned {value!r} as normalization; return a Normalization or a name such as 'imagenet'")


def _augmentation(value: object, spec: str) -> Augmentation | Resizing:
    if isinstance(value, (Augmentation, Resizing)):
        return value
    if isinstance(value, str):
        named = augmentation_named(value)
        if not isinstance(named, Framing):
            return named
    raise DataError(
        f"{spec} returned {value!r} as augmentation; return Augmentation(padding=…, flip=…), Resizing(size=…) or a "
        "name such as 'cifar'"
    )
