"""Data sets by name."""

from collections.abc import Callable
from pathlib import Path

from secateur.data.augment import Augmentation
from secateur.data.augmentation_sets import augmentation_named
from secateur.data.cub200 import cub200_folder_source, cub200_source
from secateur.data.digits import digits_source
from secateur.data.folders import folder_source, imagenet_source
from secateur.data.framing import Framing
from secateur.data.normalization import normalization_named
from secateur.data.options import GIBIBYTE, LoadOptions
from secateur.data.parquet import parquet_source
from secateur.data.resizing import Resizing
from secateur.data.source import DataSource
from secateur.data.user_data import user_source
from secateur.data.vision import PUBLISHED
from secateur.data.voc import VOC_DATA_SETS, voc_folder_source
from secateur.errors import UsageError
from secateur.names import unknown_name
from secateur.user_code import names_user_code

DATA_SETS: dict[str, Callable[[LoadOptions], DataSource]] = {
    "digits": digits_source,
    **PUBLISHED,
    "imagenet": imagenet_source,
    "cub200": cub200_source,
    **VOC_DATA_SETS,
}
"""Data sets that have a name of their own; all but the digits lie under ``root``."""

PARQUET, FOLDER, CUB200, VOC = "parquet:", "folder:", "cub200:", "voc:"
DATA_FOLDERS: dict[str, Callable[[str, LoadOptions], DataSource]] = {
    PARQUET: parquet_source,
    FOLDER: folder_source,
    CUB200: cub200_folder_source,
    VOC: voc_folder_source,
}
"""Layouts that are followed by the folder to read, as ``parquet:DIR``."""


def load_data(
    spec: str,
    *,
    root: Path | str = "data",
    validation_share: float = 0.1,
    split_seed: int = 0,
    normalize: str | None = None,
    augmentation: str | Augmentation | Resizing | Framing | None = None,
    download: bool = False,
    allow_code: bool = True,
    workers: int = 2,
    memory_limit_bytes: int = 2 * GIBIBYTE,
) -> DataSource:
    """Return the data set that ``spec`` names.

    ===================  ===========================================================================================
    ``digits``           1,797 digits of 1×8×8 that come with scikit-learn
    ``mnist``            ``root/MNIST/raw/…``, as torchvision lays it out
    ``fashion-mnist``    ``root/FashionMNIST/raw/…``
    ``cifar10``          ``root/cifar-10-batches-py/…``
    ``cifar100``         ``root/cifar-100-python/…``
    ``svhn``             ``root/train_32x32.mat`` and ``root/test_32x32.mat``
    ``imagenet``         ``root/train/WNID/*.JPEG`` and ``root/val/WNID/*.JPEG``, or both under ``root/imagenet``
    ``cub200``           ``root/CUB_200_2011/…``; ``cub200:DIR`` for another place
    ``voc2012``          ``root/VOCdevkit/VOC2012/…``, a mask per image; ``voc2011`` and ``voc2007`` likewise
    ``voc:DIR``          PASCAL VOC segmentation of one year: DIR is ``VOC2012``, or a folder that holds ``VOCdevkit``
    ``folder:DIR``       ``DIR/train/CLASS/…`` with ``DIR/test`` or ``DIR/val`` or both, or ``DIR/CLASS/…``
    ``parquet:DIR``      ``train*.parquet`` with ``test*.parquet`` or ``val*.parquet`` or both, in DIR or ``DIR/data``
    ``file.py:function`` what a function of the user's own returns, see :func:`user_source`
    ===================  ===========================================================================================

    Args:
        spec: one of the above.
        root: folder under which data sets with a name of their own lie.
        validation_share: part of train to set aside, each class in proportion, in [0, 1); unused where the
            data brings a validation set.
        split_seed: which samples are set aside.
        normalize: see :func:`normalization_named`; None takes what suits the data set.
        augmentation: see :func:`augmentation_named`; None takes what suits the data set. A set that resizes is what
            images of differing sizes need; it gives evaluated images its size as well. A :class:`Framing` is for images
            with masks, and only for those.
        download: fetch ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100`` or ``svhn`` where it is missing.
        allow_code: whether ``file.py:function`` may run.
        workers: reading processes of data that streams.
        memory_limit_bytes: data with more decoded pixels than this streams, and parquet files with more encoded
            bytes are read bit by bit.

    Raises:
        UsageError: a name is unknown (the nearest is suggested), an option is out of range, or a package is
            missing.
        DataError: the data cannot be read, fetched or used.
    """
    chosen = augmentation_named(augmentation) if isinstance(augmentation, str) else augmentation
    framing = chosen if isinstance(chosen, Framing) else None
    if framing is not None and spec not in VOC_DATA_SETS and not spec.startswith(VOC) and not names_user_code(spec):
        raise UsageError(
            f"the augmentation {augmentation} moves images together with their masks, and {spec} has one class per "
            "image; choose another augmentation, such as cifar or imagenet, or leave it out"
        )
    options = LoadOptions(
        root=Path(root).expanduser(),
        validation_share=validation_share,
        split_seed=split_seed,
        normalization=None if normalize is None else normalization_named(normalize),
        augmentation=None if isinstance(chosen, Framing) else chosen,
        framing=framing,
        download=download,
        allow_code=allow_code,
        workers=workers,
        memory_limit_bytes=memory_limit_bytes,
    )
    if spec in DATA_SETS:
        return DATA_SETS[spec](options)
    for prefix, reader in DATA_FOLDERS.items():
        if spec.startswith(prefix):
            folder = spec.removeprefix(prefix)
            if not folder:
                raise UsageError(f"{spec!r} names no folder; write it as {prefix}DIR")
            return reader(str(Path(folder).expanduser()), options)
    if names_user_code(spec):
        return user_source(spec, options)
    places = [f"{prefix}DIR" for prefix in DATA_FOLDERS]
    raise UsageError(unknown_name("data set", spec, [*DATA_SETS, *places, "file.py:function"]))
