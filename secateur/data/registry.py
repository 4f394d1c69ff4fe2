"""Data sets by name."""

from collections.abc import Callable
from pathlib import Path

from secateur.data.digits import digits_source
from secateur.data.normalization import normalization_named
from secateur.data.options import GIBIBYTE, LoadOptions
from secateur.data.parquet import parquet_source
from secateur.data.source import DataSource
from secateur.data.user_data import user_source
from secateur.data.vision import cifar10_source, mnist_source
from secateur.errors import UsageError
from secateur.names import unknown_name
from secateur.user_code import names_user_code

DATA_SETS: dict[str, Callable[[LoadOptions], DataSource]] = {
    "digits": digits_source,
    "mnist": mnist_source,
    "cifar10": cifar10_source,
}
PARQUET = "parquet:"


def load_data(
    spec: str,
    *,
    root: Path | str = "data",
    validation_share: float = 0.1,
    split_seed: int = 0,
    normalize: str | None = None,
    download: bool = False,
    allow_code: bool = True,
    workers: int = 2,
    memory_limit_bytes: int = 2 * GIBIBYTE,
) -> DataSource:
    """Return the data set that ``spec`` names.

    Args:
        spec: a key of :data:`DATA_SETS`, ``parquet:DIR``, or ``file.py:function``.
        root: folder under which ``mnist`` and ``cifar10`` lie, as torchvision lays them out.
        validation_share: part of train to set aside, each class in proportion, in [0, 1); unused where the
            data brings a validation set.
        split_seed: which samples are set aside.
        normalize: see :func:`normalization_named`; None takes what suits the data set.
        download: let torchvision fetch ``mnist`` and ``cifar10`` where they are missing.
        allow_code: whether ``file.py:function`` may run.
        workers: reading processes of data that streams.
        memory_limit_bytes: parquet data with more decoded pixels than this streams.

    Raises:
        UsageError: the name is unknown (the nearest is suggested), an option is out of range, or a package is
            missing.
        DataError: the data cannot be read or used.
    """
    options = LoadOptions(
        root=Path(root),
        validation_share=validation_share,
        split_seed=split_seed,
        normalization=None if normalize is None else normalization_named(normalize),
        download=download,
        allow_code=allow_code,
        workers=workers,
        memory_limit_bytes=memory_limit_bytes,
    )
    if spec in DATA_SETS:
        return DATA_SETS[spec](options)
    if spec.startswith(PARQUET):
        return parquet_source(spec.removeprefix(PARQUET), options)
    if names_user_code(spec):
        return user_source(spec, options)
    raise UsageError(unknown_name("data set", spec, [*DATA_SETS, "parquet:DIR", "file.py:function"]))
