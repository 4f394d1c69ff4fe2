"""The files that a run leaves for others: the dense model that it trained, the plan, and the cut model."""

import json
from pathlib import Path

from secateur.cost import Budget
from secateur.data import DataSource
from secateur.export import save
from secateur.files import write_text
from secateur.methods import Compressed
from secateur.recipe.rundir import RunDirectory
from secateur.recipe.settings import Recipe
from secateur.recipe.subject import Subject


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
    write_model(place.path("model"), recipe, subject, data, compressed, budget)


def write_model(
    path: Path, recipe: Recipe, subject: Subject, data: DataSource, compressed: Compressed, budget: Budget | None
) -> None:
    """Write what is left of the model, and where it comes from."""
    save(
        compressed.model,
        path,
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


def without_folder(name: str) -> str:
    """Return the name of a data set without the folders of this machine, which are nobody else's business."""
    kind, separator, path = (
        name.partition(":") if name.startswith(("parquet:", "folder:", "cub200:", "voc:")) else ("", "", name)
    )
    return f"{kind}{separator}{Path(path).name}"
