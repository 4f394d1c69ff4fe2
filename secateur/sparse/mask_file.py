"""Masks as a safetensors file: per weight a one-dimensional ``U8`` tensor of its bits, in the order of the weight.

Bit 7 of byte 0 is the first weight of the flattened (row-major) tensor; bits after the last weight are 0. The header's
metadata has the one key ``secateur``, JSON with ``format`` (1), ``kind`` (``masks``) and ``shapes`` (name → sizes).
A file that differs from that in anything is refused before a mask is unpacked.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

from secateur.errors import ArtifactError
from secateur.files import whole_file
from secateur.tensor_file import DIMENSION_LIMIT, SIZE_LIMIT, parse_json, read_container, shown

FORMAT = 1
_KEY = "secateur"

Shapes = dict[str, tuple[int, ...]]
Bits = dict[str, NDArray[np.uint8]]


def write(path: Path | str, shapes: Mapping[str, tuple[int, ...]], bits: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write packed masks, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    header = {"format": FORMAT, "kind": "masks", "shapes": {name: list(shape) for name, shape in shapes.items()}}
    with whole_file(path) as temporary:
        try:
            safetensors.numpy.save_file(dict(bits), temporary, metadata={_KEY: json.dumps(header)})
        except safetensors.SafetensorError as error:  # a full disk, which it does not report as an OSError
            raise OSError(str(error)) from error


def read(path: Path | str) -> tuple[Shapes, Bits]:
    """Return what :func:`write` wrote.

    Raises:
        ArtifactError: the file is missing, or is anything but that.
    """
    path = Path(path)
    container = read_container(path)
    shapes = _shapes_in(container.metadata, container.tensors, path)
    for name, shape in shapes.items():
        stored, size = container.tensors[name], math.prod(shape)
        if stored.dtype != torch.uint8 or stored.shape != (-(-size // 8),):
            raise ArtifactError(
                f"{path}: {shown(name)} has {size} weights by its shape {shape}, but bits of type {stored.dtype} and "
                f"shape {stored.shape}; write the masks again"
            )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            bits = {name: file.get_tensor(name) for name in shapes}
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"cannot read {path}: {shown(error)}; check the file and its permissions") from error
    for name, values in bits.items():
        spare = -math.prod(shapes[name]) % 8
        if spare and int(values[-1]) & ((1 << spare) - 1):
            raise ArtifactError(f"{path}: {shown(name)} has bits set after its last weight; the file is damaged")
    return shapes, bits


def _shapes_in(metadata: dict[str, str], names: Collection[str], path: Path) -> Shapes:
    if list(metadata) != [_KEY]:
        raise ArtifactError(
            f"{path} is no file of masks: its metadata has the keys {shown(sorted(metadata))} instead of {_KEY!r} alone"
        )
    header = parse_json(metadata[_KEY], f"the description of the masks in {path}")
    if not isinstance(header, dict) or sorted(header) != ["format", "kind", "shapes"] or header["kind"] != "masks":
        raise ArtifactError(f"{path} is no file of masks: it does not describe itself by kind, format and shapes")
    if type(header["format"]) is not int or header["format"] != FORMAT:
        raise ArtifactError(
            f"{path} has format {shown(header['format'])} of masks, but this version reads format {FORMAT}"
        )
    shapes = header["shapes"]
    if not isinstance(shapes, dict) or set(shapes) != set(names):
        raise ArtifactError(f"{path} describes other weights than it has bits of; the file is damaged")
    for name, shape in shapes.items():
        sizes = shape if isinstance(shape, list) and len(shape) <= DIMENSION_LIMIT else [None]
        if any(type(size) is not int or not 0 <= size <= SIZE_LIMIT for size in sizes):
            raise ArtifactError(
                f"{path}: {shown(name)} has the shape {shown(shape)}; a shape is up to {DIMENSION_LIMIT} whole numbers "
                f"from 0 to {SIZE_LIMIT}"
            )
    return {name: tuple(shape) for name, shape in shapes.items()}
