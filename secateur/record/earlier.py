"""Settings that an earlier version wrote, as this one would write them."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from secateur.errors import SecateurError


def with_defaults(settings: Mapping[str, Any], kind: TypeAdapter[Any]) -> Mapping[str, Any]:
    """Return settings of an earlier version as this one writes them: a key that is new has its default.

    Settings that this version cannot read are returned as they are, so that comparing them names what differs.
    """
    try:
        filled: dict[str, Any] = kind.dump_python(kind.validate_python(settings), mode="json")
    except (ValidationError, SecateurError):
        return settings
    return filled
