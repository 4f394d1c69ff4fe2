"""``secateur export``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, spread


@spread
def export(
    file: Annotated[Path, typer.Argument(help="a .safetensors model file", metavar="FILE")],
    common: CommonOptions,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="ONNX file; by default beside FILE")] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="shape of one input, where the file does not say")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE.PY:FUNCTION", help="builds the network of a file whose model is your code"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Write a model file as ONNX, with a free batch size, and check it by running it against torch.

    A file that computes something else than the model is not kept.

    Example: `secateur export runs/r56/model.safetensors --out r56.onnx`
    """
    from secateur import recipe

    target = out or file.with_suffix(".onnx")
    recipe.check_target(target, force=force)
    found = recipe.export_file(file, target, shape=input_shape, code=model, machine=choices.machine(common))
    if common.as_json:
        show.show_json({"file": str(target), **vars(found)})
        return
    show.show(
        (
            ("ONNX file", f"{target}, {found.size_bytes:,} bytes, opset {found.opset}"),
            (
                "difference",
                f"{found.max_difference:.1e} at most in an output, {found.relative_difference:.1e} relative",
            ),
        )
    )
