"""The compact file of a run that pruned weights: written as the recipe asks, and read back."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.errors import ArtifactError
from secateur.methods import Compressed
from secateur.recipe.compact import Compact
from secateur.recipe.rundir import RunDirectory
from secateur.recipe.sparse_files import pack_file
from secateur.record import CodedWeight, SparseFile, TrainResult
from secateur.sparse import Codebook, FileSizes, Masks, SharedValues, cluster, decode
from secateur.sparse.preparing import usual_bits
from secateur.training import Store, Task
from secateur.wording import counted

PHASE = "codebook"
"""Of the training of shared values."""


def packed(
    place: RunDirectory,
    choice: Compact,
    compressed: Compressed,
    task: Task,
    store: Store,
    *,
    save: Callable[[Compressed, Path], None],
    tell: Callable[[str], None],
) -> Compressed:
    """Write the masks and the compact file, read it back, and note in the record what its parts take.

    Args:
        place: the run directory, which holds the model file.
        choice: what the compact file holds.
        compressed: the result.
        task: trains shared values.
        store: keeps that phase.
        save: writes a model like the model file.
        tell: told what is being done.

    Raises:
        ArtifactError: a value cannot be stored so, or what is read back is not what was stored.
    """
    weights = compressed.record.weights
    if compressed.masks is None or weights is None:
        return compressed
    masks, target = compressed.masks, place.path("sparse")
    masks.save(place.path("masks"))
    phases = compressed.record.phases
    tell("writing the compact file")
    if choice.values == "codebook":
        shared, books, trained = with_shared_values(compressed.model, masks, choice, task, store, tell)
        phases = (*phases, *([] if trained is None else [trained]))
        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            source = Path(folder, "model.safetensors")
            save(replace(compressed, model=shared), source)
            sizes = pack_file(
                source, target, weights=list(books), bits=choice.bits, codebooks=books, entropy=choice.entropy
            )
            wanted = load_file(source)
    else:
        sizes = pack_file(place.path("model"), target, values=choice.values, bits=choice.bits, entropy=choice.entropy)
        wanted = load_file(place.path("model"))
        if choice.values == "fp16":
            coded = {weight.name for weight in sizes.weights}
            wanted = {name: value.half().to(value.dtype) if name in coded else value for name, value in wanted.items()}
    _require_same(target, wanted)
    file = _sparse_file(sizes, choice)
    return replace(compressed, record=replace(compressed.record, phases=phases, weights=replace(weights, file=file)))


def with_shared_values(
    model: nn.Module, masks: Masks, choice: Compact, task: Task, store: Store, tell: Callable[[str], None]
) -> tuple[nn.Module, dict[str, Codebook], TrainResult | None]:
    """Return a copy of ``model`` whose pruned layers share values, the codebooks, and how these were trained.

    Source: Han et al. 2016, arXiv:1510.00149, §3. Where shared values are trained, everything else trains with them.
    """
    small = copy.deepcopy(model)
    parameters = masks.parameters_of(small)
    books = {
        name: cluster(parameter, bits=choice.codebook_bits or usual_bits(parameter))
        for name, parameter in parameters.items()
    }
    shared = SharedValues(books)
    shared.apply_(small)
    if not choice.codebook_epochs:
        return small, books, None
    tell(f"training the shared values: {counted(choice.codebook_epochs, 'epoch')}")
    result = store.train(
        PHASE, task, small, epochs=choice.codebook_epochs, settings=choice.codebook_training, hooks=(shared,)
    )
    return small, shared.codebooks(small), result


def _require_same(path: Path, wanted: Mapping[str, Tensor]) -> None:
    decoded = decode(path)
    for name in sorted({*wanted, *decoded}):
        if name not in decoded or name not in wanted or not torch.equal(wanted[name], decoded[name]):
            raise ArtifactError(
                f"{path} does not give {name} back as it was stored; keep the model file, and report this as a bug"
            )


def _sparse_file(sizes: FileSizes, choice: Compact) -> SparseFile:
    return SparseFile(
        values=choice.values,
        codebook_epochs=choice.codebook_epochs,
        file_bytes=sizes.file_bytes,
        dense_bytes=sizes.dense_bytes,
        other_bytes=sizes.dense_tensor_bytes + sizes.header_bytes,
        weights=tuple(
            CodedWeight(
                name=weight.name,
                survivors=weight.survivors,
                fillers=weight.fillers,
                bits=weight.bits,
                index_bytes=weight.index_bytes,
                value_bytes=weight.value_bytes,
                codebook_bytes=weight.codebook_bytes,
                dense_bytes=weight.dense_bytes,
                csr_bytes=weight.csr_bytes,
                zip_bytes=sizes.zip_bytes[weight.name],
            )
            for weight in sizes.weights
        ),
    )
