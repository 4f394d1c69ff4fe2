"""From the share of a layer that goes to the number of units that stay."""

import math
from fractions import Fraction


def kept_units(size: int, share: float | Fraction, *, min_units: int = 1, round_to: int = 1) -> int:
    """Return how many of ``size`` units stay when ``share`` of them goes: floor(size × (1 − share)).

    With this rounding the published sizes of Li et al. 2017, arXiv:1608.08710, come out, and with floor(size × share)
    removed they do not (16 × 0.9 keeps 14, not 15).

    Args:
        size: units of the layer.
        share: in [0, 1); a float counts as the decimal number that it is written as, so that of 10 units 0.9 keeps 1.
        min_units: at least so many stay.
        round_to: what is kept is rounded up to a multiple of this, or to all.
    """
    exact = share if isinstance(share, Fraction) else Fraction(str(share))
    kept = math.floor(size * (1 - exact))
    return min(size, -(-max(min_units, kept) // round_to) * round_to)
