"""``secateur inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import show


def inspect(
    file: Annotated[Path, typer.Argument(help="a .safetensors model file", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show where an error came from")] = False,
) -> None:
    """Show what a model file says about itself: class, cut, inputs, provenance. Nothing in it is run.

    Example: `secateur inspect runs/r56/model.safetensors`
    """
    from secateur import recipe, report

    del verbose
    if as_json:
        show.show_json(recipe.artifact_json(file))
        return
    show.show(report.artifact_facts(recipe.artifact_info(file)))
