"""``secateur inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.options import CommonOptions, spread


@spread
def inspect(
    file: Annotated[
        Path, typer.Argument(help="a .safetensors model file, or a .sparse.safetensors file", metavar="FILE")
    ],
    common: CommonOptions,
) -> None:
    """Show what a file says about itself: class, cut, inputs, provenance, or what sparse weights take. Nothing is run.

    Example: `secateur inspect runs/r56/model.safetensors`
    """
    import dataclasses

    from secateur import recipe, report
    from secateur.recipe.sparse_files import is_sparse_file
    from secateur.report.sparse_sizes import sparse_facts, sparse_grid
    from secateur.sparse import file_sizes

    if file.is_file() and is_sparse_file(file):
        sizes = file_sizes(file)
        if common.as_json:
            show.show_json({"file_bytes": sizes.file_bytes, **dataclasses.asdict(sizes)})
            return
        show.show(sparse_grid(sizes), sparse_facts(sizes))
        return
    if common.as_json:
        show.show_json(recipe.artifact_json(file))
        return
    info = recipe.artifact_info(file)
    layers = report.artifact_grid(info)
    show.show(report.artifact_facts(info), *([] if layers is None else [layers]))
