"""The plan as a model file writes it: equal lists of indices once, because a group cuts many tensors alike."""

from pathlib import Path
from typing import Any

from secateur.errors import ArtifactError

INDEX_LIMIT = 4_000_000
"""Removed indices that a file may list after unpacking; a short file must not become a large plan."""


def packed(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a plan with every list of removed indices replaced by its number in ``indices``."""
    numbers: dict[tuple[int, ...], int] = {}
    removed = {
        name: {dim: numbers.setdefault(tuple(indices), len(numbers)) for dim, indices in dims.items()}
        for name, dims in plan["removed"].items()
    }
    return {**plan, "removed": removed, "indices": [list(indices) for indices in numbers]}


def unpacked(content: Any, path: Path) -> dict[str, Any]:
    """Return the JSON of the plan that :func:`packed` wrote.

    Raises:
        ArtifactError: it is something else, or lists more than :data:`INDEX_LIMIT` indices.
    """
    refusal = f"the plan in {path} is refused: it is malformed or was edited; save the model again"
    if not isinstance(content, dict):
        raise ArtifactError(refusal)
    lists, tensors = content.get("indices"), content.get("removed")
    if not isinstance(lists, list) or not isinstance(tensors, dict):
        raise ArtifactError(refusal)
    total, removed = 0, {}
    for name, dims in tensors.items():
        if not isinstance(dims, dict) or not all(type(number) is int for number in dims.values()):
            raise ArtifactError(refusal)
        if not all(0 <= number < len(lists) and isinstance(lists[number], list) for number in dims.values()):
            raise ArtifactError(refusal)
        removed[name] = {dim: lists[number] for dim, number in dims.items()}
        total += sum(len(indices) for indices in removed[name].values())
        if total > INDEX_LIMIT:
            raise ArtifactError(f"the plan in {path} removes more than {INDEX_LIMIT:,} indices; it is not a model's")
    return {key: value for key, value in content.items() if key != "indices"} | {"removed": removed}
