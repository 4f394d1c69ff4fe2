"""PASCAL VOC segmentation, read by torchvision's own reader from a tree that is already there."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from secateur.data.framing import Framing
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.segmentation import SegmentationSource
from secateur.data.source import Split
from secateur.errors import DataError, UsageError
from secateur.torchvision_shim import import_torchvision

CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""In the order of the palette; 255, the border of objects, is none of them."""

TREES: dict[str, str] = {
    "2007": "VOCdevkit/VOC2007",
    "2011": "TrainVal/VOCdevkit/VOC2011",
    "2012": "VOCdevkit/VOC2012",
}
"""Where the published archives of each year put it, and where torchvision looks."""

FOLDERS = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
LISTS = "ImageSets/Segmentation"
PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/"
NAMED = 3  # missing files in a sentence


class VocImages(Dataset[tuple[Any, Any]]):
    """The images of one list with their masks, both as PIL images; every file was looked at."""

    def __init__(self, tree: Path, year: str, image_set: str) -> None:
        """Read the list, and the size of every image and mask from the beginnings of their files.

        Raises:
            DataError: the list names nothing, a file is missing or no image, or image and mask differ in size.
            UsageError: torchvision is not installed.
        """
        reader: Any = import_torchvision().datasets.VOCSegmentation
        path = tree / LISTS / f"{image_set}.txt"
        try:
            self._read = reader(str(root_of(tree, year)), year=year, image_set=image_set, download=False)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        named = [row for row, image in enumerate(self._read.images) if Path(image).stem not in ("", ".jpg")]
        self.images: list[str] = [self._read.images[row] for row in named]
        self.masks: list[str] = [self._read.masks[row] for row in named]
        self._rows = named
        if not named:
            raise DataError(f"{path} names no image; a list holds one name per line, without folder and suffix")
        self._require_files(path)
        self.largest = max(max(self._size(row)) for row in range(len(named)))  # pixels, the longest side of all

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        image, mask = self._read[self._rows[row]]
        if mask.mode not in ("P", "L"):
            mask.close()
            raise DataError(
                f"has a mask, {self.masks[row]}, of mode {mask.mode}; masks are PNG files with a palette (or grey) and "
                "their pixels are numbers of classes"
            )
        return image, mask

    def describe(self, row: int) -> str:
        """Return the file of image ``row``, for messages."""
        return self.images[row]

    def _require_files(self, path: Path) -> None:
        missing = [name for name in (*self.images, *self.masks) if not os.path.isfile(name)]  # noqa: PTH113
        if missing:
            shown = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
            raise DataError(f"{path} names images of which these files are missing: {shown}; unpack the archive again")

    def _size(self, row: int) -> tuple[int, int]:
        image, mask = (_size_of(name) for name in (self.images[row], self.masks[row]))
        if image != mask:
            raise DataError(
                f"{self.images[row]} is {image[0]}×{image[1]} pixels, but its mask {self.masks[row]} is "
                f"{mask[0]}×{mask[1]}; give both the same size"
            )
        return image


def voc_source(year: str, options: LoadOptions) -> SegmentationSource:
    """Return PASCAL VOC of ``year`` under ``options.root``, laid out as its archive is; see :func:`voc_folder_source`.

    Raises:
        DataError: see there.
        UsageError: see there.
    """
    tree = options.root / TREES[year]
    _require_tree(tree, options.root)
    return _source(f"voc{year}", tree, year, options)


def voc_folder_source(folder: str, options: LoadOptions) -> SegmentationSource:
    """Return PASCAL VOC segmentation (Everingham et al. 2010): 21 classes with the background, 255 ignored.

    ``folder`` is ``VOC2012`` itself, or what holds it: ``VOCdevkit``, or the folder into which the archive was
    unpacked.

    The list ``train.txt`` is trained on, less the validation share, and ``val.txt`` is the test split: only of 2007
    were the masks of the challenge's own test images published. Where those are there, with ``test.txt``, they are the
    test split and ``val.txt`` is the validation split.

    Raises:
        DataError: there is no such tree, or several, or a file is missing or damaged.
        UsageError: torchvision is not installed, or an option does not suit segmentation.
    """
    root = Path(folder)
    found = {year: tree for year in TREES if (tree := _tree_below(root, year)) is not None}
    if not found:
        raise DataError(_nothing_there(root))
    if len(found) > 1:
        choices = ", ".join(f"voc:{tree}" for tree in found.values())
        raise DataError(f"{root} holds PASCAL VOC of {len(found)} years; choose one of: {choices}")
    ((year, tree),) = found.items()
    return _source(f"voc:{folder}", tree, year, options)


VOC_DATA_SETS = {f"voc{year}": partial(voc_source, year) for year in TREES}
"""Each year by its own name."""


def voc_tree(spec: str, root: Path, prefix: str) -> Path:
    """Return the folder that ``spec`` is read from: of a name of its own under ``root``, or ``prefix`` and a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if not spec.startswith(prefix):
        return root / TREES[spec.removeprefix("voc")]
    folder = Path(spec.removeprefix(prefix)).expanduser()
    for year in TREES:
        tree = _tree_below(folder, year)
        if tree is not None:
            return tree
    raise FileNotFoundError(folder)


def root_of(tree: Path, year: str) -> Path:
    """Return the folder under which torchvision finds ``tree``.

    Raises:
        DataError: the tree does not lie as it does in the archive.
    """
    place = Path(TREES[year])
    absolute = tree.absolute()
    if absolute.parts[-len(place.parts) :] != place.parts:
        raise DataError(f"{tree} lies elsewhere than in the archive of {year}; move it to a folder {place}")
    return absolute.parents[len(place.parts) - 1]


def _tree_below(root: Path, year: str) -> Path | None:
    """Return where VOC of ``year`` lies at or below ``root``, by the beginnings of its usual place that are missing."""
    parts = Path(TREES[year]).parts
    if root.absolute().name == parts[-1] and root.is_dir():
        return root
    for first in range(len(parts)):
        if (root / Path(*parts[first:])).is_dir():
            return root / Path(*parts[first:])
    return None


def _nothing_there(root: Path) -> str:
    kind = "there is no folder" if not root.is_dir() else "there is no PASCAL VOC in"
    return (
        f"{kind} {root}; give the folder that holds {TREES['2012']} with {', '.join(FOLDERS)}; it is not fetched "
        f"automatically, so get the training and validation data from {PAGE} and unpack it there"
    )


def _require_tree(tree: Path, root: Path) -> None:
    if not tree.is_dir():
        raise DataError(_nothing_there(root))
    missing = [name for name in FOLDERS if not (tree / name).is_dir()]
    if missing:
        raise DataError(f"{tree} is not complete: missing {', '.join(missing)}; unpack the archive again")


def _source(name: str, tree: Path, year: str, options: LoadOptions) -> SegmentationSource:
    if options.augmentation is not None:
        raise UsageError(
            f"{name} has a mask per image, and the augmentation that was asked for knows images only; choose "
            "segmentation or segmentation-plain, perhaps with a size, such as segmentation:512, or leave it out"
        )
    _require_tree(tree, tree)
    framing = options.framing or Framing()
    splits = {split: VocImages(tree, year, listed) for split, listed in _lists(tree, year).items()}
    largest = max(images.largest for images in splits.values())
    if largest > framing.size:
        raise DataError(
            f"the largest image of {name} has a side of {largest} pixels, but images are put into frames of "
            f"{framing.size}×{framing.size}; give a larger frame, such as --augment "
            f"segmentation:{-(-largest // 32) * 32}"
        )
    datasets: dict[str, Any] = dict(splits.items())
    return SegmentationSource(
        name=name,
        **datasets,
        class_names=CLASS_NAMES,
        normalization=options.normalization or NORMALIZATIONS["imagenet"],
        framing=framing,
        validation_share=options.validation_share,
        split_seed=options.split_seed,
        workers=options.workers,
    )


def _lists(tree: Path, year: str) -> Mapping[Split, str]:
    if year == "2007" and (tree / LISTS / "test.txt").is_file():
        return {"train": "train", "validation": "val", "test": "test"}
    return {"train": "train", "test": "val"}


def _size_of(name: str) -> tuple[int, int]:
    """Return (width, height) of the image in a file, of which only the beginning is read."""
    from PIL import Image

    try:
        with Image.open(name) as image:
            width, height = image.size
            return width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not an image that Pillow can read: {error}; replace or remove it") from error
