"""``secateur unpack``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.options import CommonOptions, spread


@spread
def unpack(
    file: Annotated[Path, typer.Argument(help="a .sparse.safetensors file", metavar="FILE")],
    common: CommonOptions,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="file to write; by default NAME.safetensors beside FILE")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=1, help="largest decoded size that is accepted; by default 256 MiB, or 1000 times FILE if that is more"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Make a dense .safetensors file of one that `secateur pack` wrote; a packed model file becomes a model file again.

    Example: `secateur unpack model.sparse.safetensors --out model.safetensors`
    """
    from secateur import recipe
    from secateur.errors import UsageError
    from secateur.recipe.sparse_files import unpack_file, unpacked_name

    target = out or unpacked_name(file)
    if target.resolve() == file.resolve():
        raise UsageError(f"{file} would be replaced by what is in it; give another name with --out")
    recipe.check_target(target, force=force)
    size_bytes = unpack_file(file, target, max_bytes=max_bytes)
    if common.as_json:
        show.show_json({"file": str(target), "size_bytes": size_bytes})
        return
    show.show((("written", f"{target}, {size_bytes:,} bytes, from {file.stat().st_size:,}"),))
