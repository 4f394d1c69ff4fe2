"""``encode``, ``decode`` and ``load_sparse``: the state of a pruned model as one small file; see FORMAT.md."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from secateur.errors import ArtifactError, UsageError
from secateur.files import whole_file
from secateur.names import unknown_name
from secateur.record import environment
from secateur.sparse.codebook import Codebook, cluster
from secateur.sparse.coding import Width, code
from secateur.sparse.coding import decode as decoded
from secateur.sparse.layout import (
    KEY,
    NO_CHECKSUM,
    Coded,
    SparseHeader,
    check_size,
    checksum_start,
    checksum_with,
    read_header,
    stored_shape,
)
from secateur.sparse.preparing import (
    aliases_of,
    check_widths,
    per_weight,
    plain,
    refuse_unsaveable,
    to_code,
    usual_bits,
)
from secateur.sparse.sizes import FileSizes, sizes_of
from secateur.tensor_file import Container, StoredShape, shown

Values = Literal["fp32", "fp16", "codebook"]
VALUES: tuple[Values, ...] = ("fp32", "fp16", "codebook")
SUFFIX = ".sparse.safetensors"


def encode(
    model_or_state: nn.Module | Mapping[str, Tensor],
    path: Path | str,
    *,
    weights: Iterable[str] | None = None,
    values: Values = "fp32",
    bits: Width | Mapping[str, Width] | None = None,
    codebook_bits: int | Mapping[str, int] | None = None,
    codebooks: Mapping[str, Codebook] | None = None,
    entropy: bool = True,
    provenance: Mapping[str, JsonValue] | None = None,
) -> FileSizes:
    """Write the state of a pruned model to one file, whole or not at all, and return what its parts take.

    Weights are coded by relative indices (Han et al. 2015): those of a model's convolutions and linear layers, and of a
    state dict all floating tensors of two dimensions and more. With ``values="fp32"`` a weight is coded only where that
    takes fewer bytes. All other tensors are stored as they are. Equal arguments give equal bytes, given the same zlib.

    Args:
        model_or_state: a model, or its state dict.
        path: where to; folders are made.
        weights: names or patterns of the weights to code instead of these, or a single one; floating tensors of one
            dimension or more.
        values: ``fp32`` keeps every bit (whatever the floating type; −0.0 alone becomes +0.0), ``fp16`` rounds to half
            precision, ``codebook`` lets the weights of a layer share at most 255 values.
        bits: width of an index, 1 to 16, or ``best`` for the one that gives the fewest bytes; for all weights, or by
            pattern of their names. By default 5 for matrices and 8 for others, as in the paper.
        codebook_bits: width of a code, 1 to 8, alike. By default 5 for matrices and 8 for others; layers with few
            survivors get smaller codebooks.
        codebooks: name → codebook, for weights whose shared values were trained; stored so, whatever ``values``.
        entropy: compress indices and codes further where that helps.
        provenance: JSON values to note. Versions are added.

    Raises:
        ArtifactError: something cannot be stored.
        UsageError: a setting is out of range or matches nothing, or the file cannot be written.
    """
    if values not in VALUES:
        raise UsageError(unknown_name("kind of values", str(values), VALUES))
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else dict(model_or_state)
    refuse_unsaveable(state)
    aliases = aliases_of(state)
    names = to_code(model_or_state, {name: state[name] for name in state if name not in aliases}, weights)
    given = dict(codebooks or {})
    for name, book in given.items():
        if name not in names:
            raise UsageError(unknown_name("weight with a codebook", name, names))
        if book.codes.shape != state[name].shape:
            raise ArtifactError(
                f"the codebook of {name} is for the shape {tuple(book.codes.shape)}, but the weight has "
                f"{tuple(state[name].shape)}; give the codebook of this weight"
            )
    widths = per_weight(bits, names, "bits", {name: usual_bits(state[name]) for name in names})
    code_widths = per_weight(codebook_bits, names, "codebook_bits", {name: usual_bits(state[name]) for name in names})
    check_widths(widths, code_widths)
    coded_weights: dict[str, Coded] = {}
    stored: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name in sorted(set(state) - set(aliases)):
        tensor = state[name]
        if name in names:
            try:
                shared = given.get(name)
                if shared is None and values == "codebook":
                    shared = cluster(tensor, bits=code_widths[name])
                half = values == "fp16"
                coded, data = code(tensor, width=widths[name], half=half, codebook=shared, entropy=entropy)
            except ArtifactError as error:
                raise ArtifactError(f"{name} cannot be stored: {error}") from error
            if coded.kind != "own" or len(data) < tensor.nbytes:
                coded_weights[name] = coded
                stored[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
                continue
        stored[name] = plain(tensor, taken)
    place = environment()
    header = SparseHeader(
        weights=coded_weights,
        aliases=aliases,
        provenance={"versions": {"secateur": place.secateur, "torch": place.torch}, **(provenance or {})},
    )
    text = header.to_text()
    header = replace(header, crc32=_checksum(text, stored))
    return _write(stored, header.to_text(), Path(path))


def decode(path: Path | str, *, max_bytes: int | None = None) -> dict[str, Tensor]:
    """Return the state dict in a sparse file, dense, in the types that were encoded.

    Args:
        path: what :func:`encode` wrote.
        max_bytes: the largest decoded state that is accepted; by default 256 MiB, or 1000 times the size of the file
            if that is more.

    Raises:
        ArtifactError: the file is missing, corrupt, hostile or larger than allowed; nothing was allocated for what its
            header claims.
    """
    path = Path(path)
    container, header = read_header(path)
    check_size(container, header, max_bytes, path)
    return _read(path, container, header)


def load_sparse(model: nn.Module, path: Path | str, *, max_bytes: int | None = None) -> nn.Module:
    """Put the tensors of a sparse file into ``model`` and return it; if they do not fit, ``model`` stays as it was.

    Args:
        model: of the class and shapes that were encoded.
        path: what :func:`encode` wrote.
        max_bytes: as for :func:`decode`.

    Raises:
        ArtifactError: the file is missing, corrupt, hostile, or does not fit the model; it says which tensor.
    """
    path = Path(path)
    container, header = read_header(path)
    check_size(container, header, max_bytes, path)
    _check_fits(model, container, header, path)
    model.load_state_dict(_read(path, container, header))
    return model


def _read(path: Path, container: Container, header: SparseHeader) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    checksum = checksum_start(container.metadata[KEY], header.crc32)
    try:
        with path.open("rb") as file:
            for name in sorted(container.tensors):
                stored = container.tensors[name]
                file.seek(container.begins[name])
                data = np.empty(stored.size_bytes, np.uint8)
                if file.readinto(data.data) != data.size:
                    raise ArtifactError(f"{path} changed while it was read; read it again")
                checksum = checksum_with(checksum, name, stored, data)
                state[name] = _tensor(name, data, container, header, path)
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror or error}; check the file and its permissions"
        ) from error
    if f"{checksum:08x}" != header.crc32:
        raise ArtifactError(
            f"{path} has the checksum {checksum:08x} instead of {header.crc32}; it is damaged, copy it again"
        )
    return state | {other: state[name] for other, name in header.aliases.items()}


def _tensor(name: str, data: NDArray[np.uint8], container: Container, header: SparseHeader, path: Path) -> Tensor:
    if name in header.weights:
        try:
            return decoded(header.weights[name], data)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: weight {shown(name)}: {error}") from error
    dtype, shape = stored_shape(container, header, name)
    if dtype == torch.bool and (data > 1).any():
        raise ArtifactError(f"{path}: tensor {shown(name)} of BOOL holds bytes other than 0 and 1; the file is damaged")
    return torch.from_numpy(data).view(dtype).reshape(shape) if data.size else torch.empty(shape, dtype=dtype)


def _check_fits(model: nn.Module, container: Container, header: SparseHeader, path: Path) -> None:
    own = model.state_dict()
    sources = {**{name: name for name in container.tensors}, **header.aliases}
    for name in sorted(set(own) ^ set(sources)):
        holder = "the file" if name in sources else f"this {type(model).__name__}"
        raise ArtifactError(f"{path} does not fit: only {holder} has {shown(name)}; build the model that was encoded")
    for name, tensor in own.items():
        dtype, shape = stored_shape(container, header, sources[name])
        if tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{path} holds {name} in the shape {shape}, but the model's is {tuple(tensor.shape)}; "
                "build the model that was encoded"
            )
        if dtype != tensor.dtype and not (dtype.is_floating_point and tensor.dtype.is_floating_point):
            raise ArtifactError(
                f"{path} holds {name} as {dtype}, but the model's is {tensor.dtype}; build the model that was encoded"
            )


def _write(stored: dict[str, Tensor], text: str, path: Path) -> FileSizes:
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(stored, temporary, metadata={KEY: text})
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        try:
            return sizes_of(*read_header(temporary))
        except ArtifactError as error:
            raise ArtifactError(
                f"the model cannot be saved: {str(error).replace(str(temporary), str(path))}"
            ) from error


def _checksum(text: str, stored: Mapping[str, Tensor]) -> str:
    checksum = checksum_start(text, NO_CHECKSUM)
    for name in sorted(stored):
        tensor = stored[name]
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        checksum = checksum_with(checksum, name, StoredShape(tensor.dtype, tuple(tensor.shape)), data)
    return f"{checksum:08x}"
