"""``secateur evaluate``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, DataOptions, spread


@spread
def evaluate(
    file: Annotated[Path, typer.Argument(help="a .safetensors or .onnx file", metavar="FILE")],
    data: DataOptions,
    common: CommonOptions,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="which samples")] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="samples per batch; changes speed, not the result")] = 256,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE.PY:FUNCTION", help="builds the network of a file whose model is your code"),
    ] = None,
) -> None:
    """Measure the accuracy of a saved file, or its mean IoU on data with masks; an ONNX file runs in ONNX Runtime.

    Images are normalised as the file says; --normalize is for a file that does not say it.

    Example: `secateur evaluate runs/r56/model.onnx --data parquet:cifar10`
    """
    from secateur import recipe

    found = recipe.evaluate_file(
        file,
        choices.data_choice(data),
        split=split,
        batch_size=batch_size,
        code=model,
        machine=choices.machine(common, workers=data.workers),
    )
    if common.as_json:
        show.show_json({"file": str(file), "split": split, **vars(found)})
        return
    shares = (
        ("top-1", found.top1),
        ("top-5", found.top5),
        ("mean IoU", found.mean_iou),
        ("pixel accuracy", found.pixel_accuracy),
    )
    show.show(
        (
            *((name, f"{100 * value:.2f} %") for name, value in shares if value is not None),
            ("loss", f"{found.loss:.6f}"),
            ("samples", f"{found.samples:,} ({split})"),
        )
    )
