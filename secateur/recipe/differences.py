"""Where the settings of two runs differ, if they do not give the same result."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

UNDECISIVE = ("machine.", "title", "data.download")
"""Beginnings of the names of settings that do not touch the result."""

ORDERED = ("ratios", "keep", "longer", "quality")
"""Mappings of a method whose order decides as well: the first pattern that fits a layer."""


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return (setting, value before, value now) of the first setting that decides the result and differs, or None."""
    then, this = dict(_flat(before)), dict(_flat(now))
    if then.get("model.weights_fingerprint") == this.get("model.weights_fingerprint"):
        # The same file under another name is the same file.
        then.pop("model.weights", None)
        this.pop("model.weights", None)
    if then.get("latency_table_fingerprint") == this.get("latency_table_fingerprint"):
        then.pop("latency_table", None)
        this.pop("latency_table", None)
    for name in dict.fromkeys((*this, *then)):
        if not name.startswith(UNDECISIVE) and then.get(name) != this.get(name):
            return name, then.get(name), this.get(name)
    for name in ORDERED:
        earlier, later = list(_at(before, ("method", name))), list(_at(now, ("method", name)))
        if earlier != later:
            return f"the order of method.{name}", earlier, later
    return None


def _at(values: Mapping[str, Any], place: Sequence[str]) -> Mapping[str, Any]:
    """Return the mapping at ``place``, an empty one where there is none."""
    for key in place:
        inner = values.get(key)
        values = inner if isinstance(inner, Mapping) else {}
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
