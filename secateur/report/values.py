"""Numbers as people read them, each with its unit, and names that fit where they stand."""

from secateur.record import Latency

NOTHING = "–"


def count(value: int | None) -> str:
    """Return a count in thousands, millions or billions, such as ``62.9M``."""
    if value is None:
        return NOTHING
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return str(value)


def size(value: int | None) -> str:
    """Return bytes in kB, MB or GB (powers of ten)."""
    if value is None:
        return NOTHING
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value} B"


def share(value: float | None, digits: int = 2) -> str:
    """Return a share as a percentage."""
    return NOTHING if value is None else f"{100 * value:.{digits}f} %"


def of_dense(value: int | None, dense: int | None) -> str:
    """Return the share of the dense model's, in brackets, or nothing where it is all of it."""
    if value is None or not dense or value == dense:
        return ""
    # Rounded up, so that what is shown never promises more than what is true.
    return f" ({-(-value * 1000 // dense) / 10:.1f} %)"


def latency(value: Latency | None) -> str:
    """Return the median in milliseconds and the distance of the quartiles."""
    if value is None:
        return NOTHING
    return f"{value.median_ms:.3g} ms ± {value.spread_ms:.2g}"


def shortened(name: str, letters: int) -> str:
    """Return ``name`` in so many letters at most: the end of a module's name tells more than its beginning."""
    return name if len(name) <= letters else "…" + name[1 - letters :]
