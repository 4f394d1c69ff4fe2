"""``secateur pack``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.options import CommonOptions, spread


class Values(StrEnum):
    """How values are stored."""

    fp32 = "fp32"
    fp16 = "fp16"
    codebook = "codebook"


@spread
def pack(
    file: Annotated[Path, typer.Argument(help="a .safetensors file of a model or of weights", metavar="FILE")],
    common: CommonOptions,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="file to write; by default NAME.sparse.safetensors beside FILE")
    ] = None,
    values: Annotated[
        Values,
        typer.Option(help="fp32 keeps every bit, fp16 rounds, codebook lets the weights of a layer share values"),
    ] = Values.fp32,
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="N|best", help="width of an index, 1 to 16, or best; by default 5 for matrices and 8 for others"
        ),
    ] = None,
    codebook_bits: Annotated[
        int | None,
        typer.Option(min=1, max=8, help="width of a shared value's number; by default 5 for matrices and 8 for others"),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="weights to store so, such as 'fc*.weight'; may be repeated"),
    ] = None,
    entropy: Annotated[bool, typer.Option("--entropy/--no-entropy", help="compress indices and values further")] = True,
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Store weights that are mostly zero small: only those that are left, and how far each lies from the one before.

    Only the file gets smaller; unpacked, the network is the dense one again and runs no faster. With fp32 it is exact.

    Example: `secateur pack runs/lenet5/model.safetensors --values codebook --bits best`
    """
    import dataclasses

    from secateur import recipe
    from secateur.errors import UsageError
    from secateur.recipe.sparse_files import pack_file, packed_name
    from secateur.report.sparse_sizes import sparse_facts, sparse_grid

    if bits is not None and bits != "best" and not bits.isdecimal():
        raise UsageError(f"--bits is {bits!r}; give a number from 1 to 16, or best")
    if codebook_bits is not None and values is not Values.codebook:
        raise UsageError(f"--codebook-bits {codebook_bits} has no use with --values {values.value}; use codebook there")
    target = out or packed_name(file)
    recipe.check_target(target, force=force)
    sizes = pack_file(
        file,
        target,
        weights=only or None,
        values=values.value,
        bits=None if bits is None else "best" if bits == "best" else int(bits),
        codebook_bits=codebook_bits,
        entropy=entropy,
    )
    if common.as_json:
        show.show_json({"file": str(target), "file_bytes": sizes.file_bytes, **dataclasses.asdict(sizes)})
        return
    show.show(sparse_grid(sizes), (("written", str(target)), *sparse_facts(sizes)))
