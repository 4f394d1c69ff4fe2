"""``secateur verify``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, spread


@spread
def verify(
    file: Annotated[Path, typer.Argument(help="model file, or plan.json", metavar="FILE")],
    model: ModelOptions,
    inputs: InputOptions,
    common: CommonOptions,
) -> None:
    """Prove that a model file, or a plan, is an exact cut of a dense network.

    Compares the cut network with the dense one masked, in float64, with its own weights and with redrawn ones. A file
    that was fine-tuned after the cut has other weights than the dense network; then its structure is proved. Where
    channels that are normalised together were cut (--allow-approximate), the proof is exact up to these statistics,
    and the drift from the dense network with those channels zeroed is reported.

    Example: `secateur verify runs/r56/model.safetensors --model resnet56-b --weights resnet56.safetensors`
    """
    from secateur import recipe

    checked = recipe.verify_file(file, choices.subject(model, inputs, common, file))
    if common.as_json:
        show.show_json({"compared": checked.compared, **checked.proof.to_json()})
    else:
        show.show((("compared", checked.compared), ("proof", checked.proof.sentence())))
    recipe.require_proof(checked.proof)
