"""Fingerprints of data: whether a run that goes on still reads what it began with."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from secateur.data.cub200 import LISTS, cub200_folder
from secateur.data.folders import VALIDATION_NAMES, imagenet_folder
from secateur.data.image_tree import image_entries
from secateur.data.parquet import parquet_files
from secateur.data.registry import CUB200, FOLDER, PARQUET, VOC
from secateur.data.vision import PUBLISHED, read_files
from secateur.data.voc import FOLDERS as VOC_FOLDERS
from secateur.data.voc import LISTS as VOC_LISTS
from secateur.data.voc import VOC_DATA_SETS, voc_tree
from secateur.errors import DataError

WHOLE_BYTES = 100 * 10**6
"""A file up to this size is read whole; of a larger one the first and the last half of this count."""


def data_fingerprint(spec: str, root: Path | str = "data") -> str | None:
    """Return a hash of the files that ``spec`` is read from.

    * parquet files and those of MNIST, CIFAR and the like: names, sizes and content;
    * trees of images: name and size of each image, and for CUB-200 and PASCAL VOC the content of their lists as well.
      The images themselves are not read, as that would take as long as an epoch.

    Args:
        spec: as for :func:`load_data`.
        root: as for :func:`load_data`.

    Returns:
        32 hexadecimal digits; None for the digits and the user's own code, which have no files here, and where files
        are missing: the reader says which.

    Raises:
        DataError: a file is there but cannot be read.
    """
    root = Path(root).expanduser()
    try:
        # A reader may refuse the layout as well, and says so better when it is its turn.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, DataError):
            return _fingerprint(spec, root)
    except OSError as error:
        path = error.filename or root
        raise DataError(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
    return None


def _fingerprint(spec: str, root: Path) -> str | None:
    if spec.startswith(PARQUET):
        return _of_content(_parquet_files(Path(spec.removeprefix(PARQUET)).expanduser()))
    if spec in PUBLISHED:
        return _of_content(read_files(spec, root))
    if spec == "imagenet":
        # Of its own folders alone: other data sets may lie beside them.
        folder = imagenet_folder(root)
        return _of_tree(folder, inner=("train", *VALIDATION_NAMES))
    if spec.startswith(FOLDER):
        return _of_tree(Path(spec.removeprefix(FOLDER)).expanduser())
    if spec == "cub200" or spec.startswith(CUB200):
        folder = cub200_folder(root if spec == "cub200" else Path(spec.removeprefix(CUB200)).expanduser())
        return _of_tree(folder / "images", [folder / name for name in LISTS])
    if spec in VOC_DATA_SETS or spec.startswith(VOC):
        folder = voc_tree(spec, root, VOC)
        return _of_tree(folder, sorted((folder / VOC_LISTS).glob("*.txt")), inner=VOC_FOLDERS[:2])
    return None


def _parquet_files(folder: Path) -> list[Path]:
    found = parquet_files(folder)
    return [file for split in sorted(found) for file in found[split]]


def _of_content(files: Iterable[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        _add_content(digest, path)
    return digest.hexdigest()


def _of_tree(folder: Path, lists: Iterable[Path] = (), *, inner: Sequence[str] = ("",)) -> str:
    """Hash the images below the folders ``inner`` of ``folder``, those that are there, and the content of ``lists``."""
    digest = hashlib.blake2b(digest_size=16)
    for path in lists:
        _add_content(digest, path)
    for name in inner:
        if not name or (folder / name).is_dir():
            _add_names(digest, str(folder / name), name)
    return digest.hexdigest()


def _add_names(digest: "hashlib.blake2b", folder: str, inner: str) -> None:
    """Add path and size of every image below ``folder``, in order of their names."""
    for entry in image_entries(folder):
        name = f"{inner}{entry.path.removeprefix(folder)}".replace(os.sep, "/")
        digest.update(os.fsencode(f"{name}:{entry.stat().st_size}\n"))


def _add_content(digest: "hashlib.blake2b", path: Path) -> None:
    size, half = path.stat().st_size, WHOLE_BYTES // 2
    digest.update(os.fsencode(f"{path.name}:{size}\n"))
    with path.open("rb") as file:
        digest.update(file.read(half if size > WHOLE_BYTES else -1))
        if size > WHOLE_BYTES:
            file.seek(-half, os.SEEK_END)
            digest.update(file.read(half))
