"""What a model returned, in words, and which part of it looks like logits."""

import dataclasses
from collections.abc import Iterator, Mapping

from torch import Tensor

NAMED = 6  # parts that a description names before it counts


def described(value: object) -> str:
    """Return the kind of ``value`` with the shapes of its parts, such as ``dict with 'out' (2, 3), 'aux' (2, 3)``."""
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    kind = type(value).__name__
    parts = list(_parts(value))
    if not parts:
        return f"empty {kind}" if isinstance(value, Mapping | tuple | list) else kind
    shown = [f"{name} {_brief(part)}".strip() for name, _, part in parts[:NAMED]]
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return f"{kind} {'of' if isinstance(value, tuple | list) else 'with'} {', '.join(shown)}{more}"


def with_article(text: str) -> str:
    """Return ``text`` with "a" or "an" before it, where it takes one."""
    if text == "None":
        return text
    return f"{'an' if text[0] in 'aeiouAEIOU' else 'a'} {text}"


def place_of_logits(value: object, samples: int, classes: int) -> str | None:
    """Return how code reaches the first part of ``value`` that may be logits, such as ``["out"]``; None without one.

    Args:
        value: what a model returned.
        samples: in the batch that it was given.
        classes: that logits need a place for.
    """
    for _, access, part in _parts(value):
        if isinstance(part, Tensor) and part.ndim == 2 and len(part) == samples and part.shape[1] >= classes:
            return access
    return None


def tensors_within(value: object) -> list[tuple[str, Tensor]]:
    """Return the tensors directly in ``value``, each with how code reaches it; of a tensor itself, that one."""
    if isinstance(value, Tensor):
        return [("", value)]
    return [(access, part) for _, access, part in _parts(value) if isinstance(part, Tensor)]


def _parts(value: object) -> Iterator[tuple[str, str, object]]:
    """Yield (name to show, how code reaches it, the part)."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield repr(key), f'["{key}"]' if isinstance(key, str) else f"[{key!r}]", part
    elif isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield "", f"[{number}]", part
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield entry.name, f".{entry.name}", getattr(value, entry.name)
    elif not isinstance(value, Tensor | type):
        for name, part in getattr(value, "__dict__", {}).items():
            if isinstance(part, Tensor):
                yield name, f".{name}", part


def _brief(part: object) -> str:
    if isinstance(part, Tensor):
        return str(tuple(part.shape))
    return "None" if part is None else type(part).__name__
