"""Trees of image files with a folder for each class, ImageNet's among them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.data.encoded import EncodedImages, encoded_source
from secateur.data.image_tree import SUFFIXES, image_entries, is_image, leads_back
from secateur.data.memory import MemorySource
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.resizing import Resizing
from secateur.data.source import Split
from secateur.data.splits import stratified_split
from secateur.data.streaming import StreamingSource
from secateur.errors import DataError
from secateur.names import nearest_name

VALIDATION_NAMES = ("validation", "val", "valid")
TEST_SHARE = 0.1  # set aside where a tree has no split of its own
TEST_SEED = 0  # fixed: the test split is the same for everybody, whatever seed a run has


class ImageFiles(EncodedImages):
    """Image files under one folder."""

    def __init__(self, folder: Path, names: Sequence[str], labels: Tensor) -> None:
        """Remember where the images lie.

        Args:
            folder: what ``names`` are relative to.
            names: path of each image.
            labels: class of each image, int64, shape (N,).
        """
        super().__init__(labels)
        self.folder = folder
        # One block of bytes: a million Python strings would be copied into every reading process.
        self._names = np.array([os.fsencode(name) for name in names])

    def path(self, row: int) -> Path:
        """Return the file of image ``row``."""
        return self.folder / os.fsdecode(self._names[row].item())

    def describe(self, row: int) -> str:
        """Return the file's path."""
        return str(self.path(row))

    def encoded(self, row: int) -> bytes:
        """Return the bytes of image ``row``.

        Raises:
            DataError: the file is empty or cannot be read.
        """
        path = self.path(row)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        if not content:
            raise DataError(f"{path} is empty; fetch it again or remove it")
        return content

    def taken(self, rows: Tensor) -> "ImageFiles":
        """Return the images at ``rows`` alone."""
        names = [os.fsdecode(name) for name in self._names[rows.numpy()].tolist()]
        return ImageFiles(self.folder, names, self.labels[rows])


def folder_source(folder: str, options: LoadOptions) -> MemorySource | StreamingSource:
    """Return the images of ``folder``, which holds a folder per class, or such folders for each split.

    ``folder/train/CLASS/…``, ``folder/test/CLASS/…`` and ``folder/val/CLASS/…`` (or ``valid``, ``validation``).
    Without a test folder, the validation folder is what is tested on, and validation is taken off train, as papers
    report ImageNet. With neither, or with class folders directly in ``folder``, a tenth of each class is set aside
    as test: always the same one for the same files.

    Classes are the folders of train in the order of their names. Files with the suffix of an image format count,
    in subfolders as well; hidden ones do not. The first image decides: if it is grey, all must be; otherwise all
    become RGB. Pixels are divided by 255 and not normalised further unless ``options`` says so.

    Raises:
        DataError: there are no images or fewer than two classes, a class of another split is not in train, or an
            image cannot be used.
        UsageError: Pillow or torchvision is not installed.
    """
    classes, splits = read_tree(Path(folder), f"folder:{folder}")
    return encoded_source(
        f"folder:{folder}",
        splits,
        class_names=classes,
        normalization=NORMALIZATIONS["none"],
        options=options,
    )


def imagenet_source(options: LoadOptions) -> MemorySource | StreamingSource:
    """Return ImageNet (Russakovsky et al. 2015, arXiv:1409.0575) from ``root/train/WNID`` and ``root/val/WNID``.

    ``root/imagenet`` is looked at first; ``validation`` may stand for ``val``. The 50,000 validation images are what
    is tested on, as papers do; validation is taken off train. Classes are the WordNet ids in alphabetical order,
    which is the order of published weights. Any subset of the classes will do.

    Raises:
        DataError: the images are not there or cannot be used; they cannot be fetched.
        UsageError: Pillow or torchvision is not installed.
    """
    classes, splits = read_tree(imagenet_folder(options.root), "imagenet", tested_on="validation")
    return encoded_source(
        "imagenet",
        splits,
        class_names=classes,
        normalization=NORMALIZATIONS["imagenet"],
        augmentation=Resizing(),
        options=options,
    )


def imagenet_folder(root: Path) -> Path:
    """Return the folder that holds ``train`` and ``val``: ``root/imagenet`` or ``root``.

    Raises:
        DataError: one of them is missing.
    """
    nested = root / "imagenet"
    folder = nested if nested.is_dir() else root
    if not (folder / "train").is_dir() or not any((folder / name).is_dir() for name in VALIDATION_NAMES):
        raise DataError(
            f"ImageNet is not under {root}: it needs train/WNID/*.JPEG and val/WNID/*.JPEG, there or in {nested}; "
            "its licence allows no automatic download, so get ILSVRC2012 from image-net.org and unpack it"
        )
    return folder


def read_tree(folder: Path, name: str, *, tested_on: Split = "test") -> tuple[list[str], dict[Split, EncodedImages]]:
    """Return the classes and the images of each split.

    Args:
        folder: the tree.
        name: what messages call the data set.
        tested_on: "validation" leaves a test folder aside.

    Raises:
        DataError: a split or its images are missing, or a class is not in train.
    """
    try:
        folders = split_folders(folder)
        if tested_on == "validation":
            folders.pop("test", None)
        if "test" not in folders and "validation" in folders:
            folders["test"] = folders.pop("validation")
        classes = class_folders(folders["train"])
        files = {split: _images_of(place, classes, split) for split, place in folders.items()}
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    if len(classes) < 2:
        raise DataError(
            f"{name} has one class only, {classes[0]!r} in {folders['train']}; classification needs at least 2"
        )
    if "test" not in files:
        _refuse_loose_images(folder, folders["train"])
        train, test = stratified_split(files["train"].labels, TEST_SHARE, TEST_SEED, "folder test")
        if not len(test):
            raise DataError(
                f"{name} has no test folder, and its {len(train)} images are too few to set a tenth aside; add one"
            )
        files = {"train": files["train"].taken(train), "test": files["train"].taken(test)}
    return classes, {**files}


def split_folders(folder: Path) -> dict[Split, Path]:
    """Return the folder of each split; train alone, the tree itself, where class folders lie directly in it.

    Raises:
        DataError: there is no such folder, or it has other splits but no train.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; give the one that holds a folder for each class, or train/ and test/"
        )
    names: dict[Split, Sequence[str]] = {"train": ("train",), "validation": VALIDATION_NAMES, "test": ("test",)}
    # A class may well be called "train"; then images lie directly in it.
    found: dict[Split, Path] = {}
    for split, choices in names.items():
        present = [folder / name for name in choices if _has_folders(folder / name)]
        if len(present) > 1:
            raise DataError(f"{folder} has both {present[0].name} and {present[1].name}; leave one of them")
        if present:
            found[split] = present[0]
    if found and "train" not in found:
        empty = " (the one that is there holds no class folders)" if (folder / "train").is_dir() else ""
        raise DataError(
            f"{folder} has {' and '.join(path.name for path in found.values())} but no train folder{empty}; "
            "add train/ with a folder for each class"
        )
    return found or {"train": folder}


def _refuse_loose_images(folder: Path, train: Path) -> None:
    """Refuse a split without classes beside a train folder, in whose place a part of train would be tested on."""
    for name in (*VALIDATION_NAMES, "test") if train != folder else ():
        place = folder / name
        if place.is_dir() and any(is_image(entry.name) for entry in place.iterdir()):
            raise DataError(
                f"{place} holds images but no class folders, so nobody knows their classes; put the images of each "
                f"class in a folder of its own, such as {place}/cat, or move {name}/ away: then a tenth of train is "
                "set aside as test"
            )


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in order.

    Raises:
        DataError: there are none.
    """
    above = (os.path.realpath(folder),)
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and not leads_back(entry, above)
    )
    if not names:
        loose = any(is_image(entry.name) for entry in folder.iterdir())
        what = "images but no class folders" if loose else "no class folders"
        raise DataError(
            f"{folder} holds {what}; put the images of each class in a folder of its own, such as {folder}/cat"
        )
    return names


def _images_of(folder: Path, classes: Sequence[str], split: Split) -> ImageFiles:
    present = class_folders(folder)
    for name in present:
        if name not in classes:
            near = nearest_name(name, classes)
            hint = f" (it has {near!r})" if near is not None else ""
            raise DataError(f"{folder} has the class {name!r}, which train lacks{hint}; train needs every class")
    names, labels = [], []
    above = (os.path.realpath(folder),)
    for label, name in enumerate(classes):
        images = sorted(_images_under(str(folder / name), above)) if name in present else []
        if not images and split == "train":
            raise DataError(f"{folder / name} holds no images ({', '.join(SUFFIXES[:4])}, …); add some or remove it")
        names += [f"{name}{image}" for image in images]
        labels += [label] * len(images)
    if not names:
        raise DataError(f"{folder} holds no images; the {split} split needs at least one")
    return ImageFiles(folder, names, torch.tensor(labels))


def _images_under(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """Yield the path of each image below ``folder``, less ``folder`` itself."""
    for entry in image_entries(folder, above):
        yield entry.path[len(folder) :]


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())
