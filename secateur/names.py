"""The nearest known name to one that nobody knows."""

import difflib
from collections.abc import Iterable

ALL, SOME = 30, 4  # names that are all listed, and how many are of more


def unknown_name(kind: str, name: str, known: Iterable[str], *, rather: Iterable[str] = ()) -> str:
    """Return the sentence that refuses ``name``: the nearest known name if one is near, else all of them, if not many.

    Args:
        kind: what the name names, such as ``"criterion"``.
        name: the name that the user gave.
        known: the names that exist.
        rather: those of them that would serve, such as the layers that may be cut: others are suggested only where
            none of these is near, and are not listed where there are any of these.
    """
    useful, every = sorted(rather), sorted(known)
    choices = useful or every
    near = None if is_pattern(name) else nearest_name(name, choices) or nearest_name(name, every)
    if near is not None:
        return f"unknown {kind} {name!r}; did you mean {near!r}?"
    if not choices:
        return f"unknown {kind} {name!r}; there is none"
    if len(choices) <= ALL:
        return f"unknown {kind} {name!r}; choose one of: {', '.join(choices)}"
    return f"unknown {kind} {name!r}; there are {len(choices)}, such as {', '.join(choices[:SOME])}"


def is_pattern(text: str) -> bool:
    """Say whether a name is a pattern, which stands for many and has no nearest name."""
    return any(sign in text for sign in "*?[")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``, or None where none is like it.

    Of names that are equally like it, the one with the longest common beginning is taken, then the one whose letters
    are nearest: ``resnet20`` and not ``resnet32`` for ``resnet21``.
    """
    near = difflib.get_close_matches(name, sorted(known), n=20, cutoff=0.5)
    if not near:
        return None

    def likeness(candidate: str) -> tuple[float, int, int, str]:
        ratio = difflib.SequenceMatcher(None, candidate, name).ratio()
        pairs = list(zip(candidate, name, strict=False))
        common = next((place for place, (one, other) in enumerate(pairs) if one != other), len(pairs))
        return -round(ratio, 6), -common, sum(abs(ord(one) - ord(other)) for one, other in pairs), candidate

    return min(near, key=likeness)
