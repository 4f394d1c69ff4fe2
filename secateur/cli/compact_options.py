"""Options that say what the compact file of a run holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from secateur.cli.options import option

if TYPE_CHECKING:
    from secateur.recipe import Compact

PANEL = "Compact file"


@dataclass(frozen=True)
class CompactOptions:
    """What the compact file of pruned weights holds."""

    compact: Annotated[
        Literal["fp32", "fp16", "codebook"] | None,
        option(
            PANEL,
            help="of --method weights_and_connections: fp32 (default) keeps every bit, fp16 rounds, codebook "
            "lets the weights of a layer share values; the file is evaluated as it decodes",
        ),
    ] = None
    compact_bits: Annotated[
        str | None,
        option(PANEL, metavar="N|best", help="width of an index, 1 to 16, or best; by default 5 for matrices, else 8"),
    ] = None
    codebook_bits: Annotated[
        int | None,
        option(PANEL, min=1, max=8, help="of a shared value's number; by default 5 for matrices, else 8"),
    ] = None
    codebook_epochs: Annotated[
        int | None,
        option(PANEL, min=0, help="in which shared values train, by summed gradients; 0 by default"),
    ] = None


def compact(options: CompactOptions) -> Compact:
    """Return what is asked for.

    Raises:
        UsageError: a value is out of range, or options do not go together.
    """
    from secateur.errors import UsageError
    from secateur.recipe import Compact

    bits = options.compact_bits
    if bits is not None and bits != "best" and not bits.isdecimal():
        raise UsageError(f"--compact-bits is {bits!r}; give a number from 1 to 16, or best")
    return Compact(
        values=options.compact or "fp32",
        bits=None if bits is None else "best" if bits == "best" else int(bits),
        codebook_bits=options.codebook_bits,
        codebook_epochs=options.codebook_epochs or 0,
    )
