"""CUB-200-2011: 200 kinds of birds, listed in text files beside the images."""

from pathlib import Path

import torch

from secateur.data.encoded import EncodedImages, encoded_source
from secateur.data.folders import ImageFiles
from secateur.data.memory import MemorySource
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.resizing import Resizing
from secateur.data.source import Split
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError

FOLDER = "CUB_200_2011"
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
PAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"


def cub200_source(options: LoadOptions) -> MemorySource | StreamingSource:
    """Return the birds under ``options.root``; see :func:`cub200_folder_source`."""
    return _source("cub200", options.root, options)


def cub200_folder_source(folder: str, options: LoadOptions) -> MemorySource | StreamingSource:
    """Return CUB-200-2011 (Wah et al. 2011, CNS-TR-2011-001): 5,994 + 5,794 images of 200 classes, colour.

    ``folder``, or ``CUB_200_2011`` in it, holds ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt``,
    ``classes.txt`` and ``images/``. Validation is taken off train.

    Raises:
        DataError: a file is missing, a line of a list cannot be read, or an image cannot be used.
        UsageError: Pillow or torchvision is not installed.
    """
    return _source(f"cub200:{folder}", Path(folder), options)


def cub200_folder(root: Path) -> Path:
    """Return the folder that holds the lists: ``root/CUB_200_2011`` or ``root``.

    Raises:
        DataError: a list is missing.
    """
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    missing = [name for name in LISTS if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"CUB-200-2011 is not complete under {root}: missing {', '.join(f'{FOLDER}/{name}' for name in missing)}; "
            f"it is not fetched automatically, so get CUB_200_2011.tgz from {PAGE} and unpack it there"
        )
    return folder


def _source(name: str, root: Path, options: LoadOptions) -> MemorySource | StreamingSource:
    folder = cub200_folder(root)
    classes = _read_list(folder / "classes.txt")
    images, parts = _read_list(folder / "images.txt"), _read_list(folder / "train_test_split.txt")
    class_of = _read_list(folder / "image_class_labels.txt")
    order = {number: place for place, number in enumerate(classes)}
    members: dict[Split, list[str]] = {"train": [], "test": []}
    for number in images:
        if parts.get(number) not in ("0", "1") or class_of.get(number) not in order:
            list_name = LISTS[2] if parts.get(number) not in ("0", "1") else LISTS[1]
            raise DataError(f"{folder / list_name} says nothing of use about image {number}; fetch the data set again")
        members["train" if parts[number] == "1" else "test"].append(number)
    splits: dict[Split, EncodedImages] = {}
    for split, numbers in members.items():
        if not numbers:
            raise DataError(f"{folder / LISTS[2]} puts no image into {split}; fetch the data set again")
        labels = torch.tensor([order[class_of[number]] for number in numbers])
        splits[split] = ImageFiles(folder / "images", [images[number] for number in numbers], labels)
    return encoded_source(
        name,
        splits,
        class_names=[name.partition(".")[2] or name for name in classes.values()],
        normalization=NORMALIZATIONS["imagenet"],
        augmentation=Resizing(),
        options=options,
    )


def _read_list(path: Path) -> dict[str, str]:
    """Return {number: text} of lines such as ``17 002.Laysan_Albatross/photo.jpg``, in their order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, str] = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        number, _, text = line.strip().partition(" ")
        if not number.isdigit() or not text.strip():
            raise DataError(f"line {place} of {path} is {line.strip()[:60]!r}; it should be a number and a text")
        found[number] = text.strip()
    if not found:
        raise DataError(f"{path} is empty; fetch the data set again")
    return found
