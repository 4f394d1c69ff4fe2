"""A safetensors file made small by its zeros, and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
from pydantic import JsonValue
from torch import Tensor

from secateur import sparse
from secateur.errors import ArtifactError, UsageError
from secateur.export import inspect as inspect_file
from secateur.export.header import FORMAT as MODEL_FORMAT
from secateur.files import whole_file
from secateur.sparse.coding import Width
from secateur.sparse.container import Values
from secateur.sparse.layout import is_sparse, read_header
from secateur.tensor_file import parse_json, read_container, shown

SUFFIX = ".sparse.safetensors"
_KEPT = "metadata"  # where the provenance holds the metadata of the packed file


def packed_name(source: Path) -> Path:
    """Return the file beside ``source`` that it is packed into."""
    return source.with_name(source.name.removesuffix(".safetensors") + SUFFIX)


def unpacked_name(source: Path) -> Path:
    """Return the file beside ``source`` that it is unpacked into."""
    return source.with_name(source.name.removesuffix(SUFFIX) + ".safetensors")


def is_sparse_file(path: Path) -> bool:
    """Say whether a file calls itself a sparse one; it may still be refused."""
    try:
        return is_sparse(read_container(path))
    except ArtifactError:
        return False


def pack_file(
    source: Path,
    target: Path,
    *,
    weights: Sequence[str] | None = None,
    values: Values = "fp32",
    bits: Width | None = None,
    codebook_bits: int | None = None,
    codebooks: Mapping[str, sparse.Codebook] | None = None,
    entropy: bool = True,
) -> sparse.FileSizes:
    """Write the tensors of a safetensors file as a sparse one, and return what they take, dense and zipped as well.

    What the file says beside its tensors is kept, so that a model file comes back as one.

    Args:
        source: a model file, or any file of weights.
        target: where to.
        weights: names or patterns of the weights to code; by default all floating tensors of two dimensions and more.
        values: ``fp32``, ``fp16`` or ``codebook``.
        bits: width of an index, or ``best``.
        codebook_bits: width of a code.
        codebooks: name → codebook, for weights that share values already.
        entropy: compress further.

    Raises:
        ArtifactError: the file is missing, corrupt or hostile, or a weight cannot be stored so.
        UsageError: it is packed already or holds no weights, a setting is out of range or matches nothing, or the
            target cannot be written.
    """
    container = read_container(source)
    if is_sparse(container):
        raise UsageError(f"{source} is a sparse file already; unpack it first, or copy it")
    state: dict[str, Tensor] = {}
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            for name in container.tensors:
                state[name] = file.get_tensor(name)
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"cannot read the tensors of {source} ({shown(error, 120)}); copy it again") from error
    if weights is None and not any(tensor.is_floating_point() and tensor.dim() > 1 for tensor in state.values()):
        raise UsageError(
            f"{source} holds no floating tensor of two dimensions or more, so there are no weights to pack; give the "
            "file of a model, such as a run's model.safetensors"
        )
    kept: dict[str, JsonValue] = {_KEPT: {**container.metadata}} if container.metadata else {}
    sizes = sparse.encode(
        state,
        target,
        weights=weights,
        values=values,
        bits=bits,
        codebook_bits=codebook_bits,
        codebooks=codebooks,
        entropy=entropy,
        provenance=kept,
    )
    return sizes.with_zip(state)


def unpack_file(source: Path, target: Path, *, max_bytes: int | None = None) -> int:
    """Write the tensors of a sparse file as a safetensors file, dense, and return its bytes.

    Args:
        source: what :func:`pack_file` or ``secateur.sparse.encode`` wrote.
        target: where to.
        max_bytes: the largest decoded state that is accepted.

    Raises:
        ArtifactError: the file is missing, corrupt, hostile or larger than allowed.
        UsageError: the target cannot be written.
    """
    state = sparse.decode(source, max_bytes=max_bytes)
    _, header = read_header(source)
    # Tied names share one tensor, which the file had once.
    tensors = {name: tensor for name, tensor in state.items() if name not in header.aliases}
    metadata = _metadata(header.provenance, source)
    with whole_file(target) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error
        if _is_model(metadata):
            try:
                inspect_file(temporary)
            except ArtifactError as error:
                sentence = str(error).replace(str(temporary), f"the model in {source}")
                raise ArtifactError(f"{source} was not packed from a model file: {sentence}") from error
        return temporary.stat().st_size


def _metadata(provenance: Mapping[str, JsonValue], source: Path) -> dict[str, str] | None:
    kept = provenance.get(_KEPT)
    if kept is None:
        return None
    if not isinstance(kept, dict):
        raise ArtifactError(f"the provenance of {source} keeps {shown(kept)} as metadata, not an object of strings")
    metadata = {key: value for key, value in kept.items() if isinstance(value, str)}
    if len(metadata) != len(kept):
        raise ArtifactError(f"the provenance of {source} keeps metadata that are not strings; pack the model again")
    return metadata


def _is_model(metadata: Mapping[str, str] | None) -> bool:
    text = (metadata or {}).get("secateur")
    if text is None:
        return False
    content = parse_json(text, "the metadata that was packed")
    return isinstance(content, dict) and content.get("format") == MODEL_FORMAT
