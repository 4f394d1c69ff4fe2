"""``secateur apply``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import choices, show
from secateur.cli.options import CommonOptions, InputOptions, ModelOptions, spread


@spread
def apply(
    plan: Annotated[Path, typer.Argument(help="plan written by `secateur plan --out`", metavar="PLAN.json")],
    model: ModelOptions,
    inputs: InputOptions,
    common: CommonOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="model file to write")] = Path("model.safetensors"),
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Cut a network as a plan says, prove the cut, and write the smaller model. Nothing is trained.

    A cut that cannot be proved is refused, and no file is written.

    Example: `secateur apply plan.json --model resnet56-b --weights resnet56.safetensors --out small.safetensors`
    """
    from secateur import recipe

    recipe.check_target(out, force=force)
    proof = recipe.apply_plan(choices.subject(model, inputs, common, plan), recipe.read_plan(plan), out)
    if common.as_json:
        show.show_json({"model": str(out), "proof": proof.to_json()})
        return
    show.show((("proof", proof.sentence()), ("model file", str(out))))
