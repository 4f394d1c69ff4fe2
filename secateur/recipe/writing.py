"""The files that a run leaves for others: the dense model that it trained, the plan, and the cut model."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from secateur.cost import Budget
from secateur.data import DataSource
from secateur.errors import ArtifactError
from secateur.export import save
from secateur.files import write_text
from secateur.methods import Compressed
from secateur.recipe.rundir import RunDirectory
from secateur.recipe.settings import Recipe
from secateur.recipe.sparse_files import pack_file
from secateur.recipe.subject import Subject
from secateur.record import CodedWeight, SparseFile
from secateur.sparse import Masks, decode


def write_dense(place: RunDirectory, recipe: Recipe, subject: Subject, data: DataSource) -> None:
    """Write the dense model that the run trained itself, for other cuts of it."""
    save(
        subject.model,
        place.path("dense"),
        preprocessing=subject.preprocessing,
        builder=subject.builder,
        provenance={
            "data": without_folder(data.name),
            "train_epochs": recipe.train_epochs,
            "seed": recipe.seed,
        },
    )


def write_compressed(
    place: RunDirectory,
    recipe: Recipe,
    subject: Subject,
    data: DataSource,
    compressed: Compressed,
    budget: Budget | None,
) -> None:
    """Write the plan, if anything was cut, and the model file, whose bytes depend on the recipe alone."""
    if not compressed.plan.is_empty:
        write_text(place.path("plan"), json.dumps(compressed.plan.to_json(), indent=1) + "\n")
    save(
        compressed.model,
        place.path("model"),
        plan=None if compressed.plan.is_empty else compressed.plan,
        preprocessing=subject.preprocessing,
        builder=subject.builder,
        provenance={
            "source_weights": recipe.model.weights_fingerprint,
            "data": without_folder(data.name),
            "budget": None if budget is None else budget.describe(),
            "method": compressed.record.method,
            # As asked for: a control runs the method without its fine-tuning.
            "method_settings": recipe.to_json()["method"],
            "control": recipe.control,
            "seed": recipe.seed,
        },
    )


def write_sparse(place: RunDirectory, masks: Masks) -> SparseFile:
    """Write the masks and the compact form of the model file, read it back, and return what its parts take.

    Raises:
        ArtifactError: what is read back is not the model file, bit for bit.
    """
    masks.save(place.path("masks"))
    sizes = pack_file(place.path("model"), place.path("sparse"))
    kept, decoded = load_file(place.path("model")), decode(place.path("sparse"))
    for name in sorted({*kept, *decoded}):
        if name not in decoded or name not in kept or not torch.equal(kept[name], decoded[name]):
            raise ArtifactError(
                f"{place.path('sparse')} does not give {name} of {place.path('model')} back; keep the model file, and "
                "report this as a bug"
            )
    return SparseFile(
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


def without_folder(name: str) -> str:
    """Return the name of a data set without the folders of this machine, which are nobody else's business."""
    kind, separator, path = (
        name.partition(":") if name.startswith(("parquet:", "folder:", "cub200:", "voc:")) else ("", "", name)
    )
    return f"{kind}{separator}{Path(path).name}"
