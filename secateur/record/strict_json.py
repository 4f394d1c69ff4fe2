"""Results as JSON files: written whole or not at all, read back only where every key and the format are known."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from secateur.errors import ArtifactError, SecateurError
from secateur.files import write_text

T = TypeVar("T")


def write_json(path: Path | str, adapter: TypeAdapter[Any], value: object, *, indent: int = 2) -> None:
    """Write ``value`` as indented JSON, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    write_text(path, adapter.dump_json(value, indent=indent).decode() + "\n")


def read_json(path: Path | str, adapter: TypeAdapter[T], what: str, *, format: int) -> T:
    """Return what :func:`write_json` wrote.

    Args:
        path: of the file.
        adapter: of a dataclass with an attribute ``format``.
        what: what messages call it, such as ``"run record"``.
        format: the number that this version reads.

    Raises:
        ArtifactError: the file is missing, is something else, or has keys or a format that are not known.
    """
    try:
        value = adapter.validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(f"{path} is not a {what}: {where}: {first['msg']}") from error
    except SecateurError as error:  # of a value that checks itself
        raise ArtifactError(f"{path} is not a {what}: {error}") from error
    found = getattr(value, "format", None)
    if found != format:
        raise ArtifactError(f"{path} has {what} format {found}, but this version reads format {format}")
    return value
