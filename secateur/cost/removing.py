"""How many units of a queue have to go until a budget holds."""

from collections.abc import Callable

import numpy as np

from secateur.graph.units import UnitArray


def fewest_that_hold(total: int, holds: Callable[[int], bool]) -> int | None:
    """Return the fewest units whose removal makes the budget hold, of costs that only fall; None if all do not.

    Args:
        total: units that may go.
        holds: whether the budget holds without so many.
    """
    if not holds(total):
        return None
    # A model that is left whole needs no record of the cut, so its file is judged by itself.
    low, high = (0, 0) if holds(0) else (1, total)  # holds(high) is true throughout
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def first_that_holds(total: int, kept_after: Callable[[int], UnitArray], holds: Callable[[int], bool]) -> int | None:
    """Return the fewest units whose removal makes the budget hold, of costs that may also rise; None if none do.

    Fewer channels may take longer in a kernel that wants multiples of 8 or 16, so bisection could pass by the first
    number that holds, and the deepest cut need not be the cheapest. Every number is looked at that changes a size.

    Args:
        total: units that may go.
        kept_after: units that each group keeps without so many, shape (groups,).
        holds: whether the budget holds without so many.
    """
    before: UnitArray | None = None
    for count in range(total + 1):
        kept = kept_after(count)
        if before is not None and np.array_equal(kept, before):
            continue
        if holds(count):
            return count
        before = kept
    return None
