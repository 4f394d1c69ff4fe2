"""``secateur inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.options import CommonOptions, spread


@spread
def inspect(
    file: Annotated[Path, typer.Argument(help="a .safetensors model file", metavar="FILE")],
    common: CommonOptions,
) -> None:
    """Show what a model file says about itself: class, cut, inputs, provenance. Nothing in it is run.

    Example: `secateur inspect runs/r56/model.safetensors`
    """
    from secateur import recipe, report

    if common.as_json:
        show.show_json(recipe.artifact_json(file))
        return
    show.show(report.artifact_facts(recipe.artifact_info(file)))
