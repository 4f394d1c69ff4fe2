"""Counts in sentences: ``1 layer``, ``2 layers``."""


def counted(number: float, thing: str, things: str | None = None) -> str:
    """Return so many of a thing, in the singular for exactly one.

    Args:
        number: how many; shown with separators of thousands, and a part such as 0.5 as it is.
        thing: what one is called, with whatever else depends on the number: ``"group loses units"``.
        things: what several are called; by default ``thing`` with an s.
    """
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {thing if number == 1 else things or f'{thing}s'}"
