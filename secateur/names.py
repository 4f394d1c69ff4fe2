"""The nearest known name to one that nobody knows."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses ``name``: the nearest known name if one is near, else all of them.

    Args:
        kind: what the name names, such as ``"criterion"``.
        name: the name that the user gave.
        known: the names that exist.
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}; choose one of: {', '.join(choices)}"
