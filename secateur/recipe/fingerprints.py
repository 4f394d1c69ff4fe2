"""Fingerprints of what a recipe only names: weight files, the user's code, parquet data."""

import hashlib
from dataclasses import replace
from pathlib import Path

from secateur.data import PARQUET
from secateur.errors import DataError, ModelError, SecateurError, UsageError
from secateur.export import file_fingerprint
from secateur.recipe.settings import DataChoice, ModelChoice
from secateur.user_code import code_path

WHOLE_BYTES = 100 * 10**6
"""A data file up to this size is read whole; of a larger one the first and the last half of this count."""


def with_fingerprint(choice: ModelChoice) -> ModelChoice:
    """Return ``choice`` with the fingerprints of its weight file and of the file with the code that builds it.

    Raises:
        ModelError: the weight file is missing.
        UsageError: the code file is missing.
    """
    weights = None
    if choice.weights is not None:
        path = Path(choice.weights)
        if not path.is_file():
            raise ModelError(f"there is no weight file {path}; give the path of a .safetensors or .pt file")
        weights = file_fingerprint(path)
    return replace(choice, weights_fingerprint=weights, code_fingerprint=_code_fingerprint(choice.spec))


def with_data_fingerprint(choice: DataChoice) -> DataChoice:
    """Return ``choice`` with the fingerprint of its parquet files, or of the file with the code that makes the data.

    Raises:
        DataError: a parquet file cannot be read.
        UsageError: the code file is missing.
    """
    if choice.spec.startswith(PARQUET):
        return replace(choice, fingerprint=_folder_fingerprint(Path(choice.spec.removeprefix(PARQUET))))
    return replace(choice, fingerprint=_code_fingerprint(choice.spec))


def _code_fingerprint(spec: str) -> str | None:
    path = code_path(spec)
    if path is None:
        return None
    try:
        return _digest([path], UsageError)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}; give the path of a Python file, as path/file.py:function") from None


def _folder_fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of the files that the data is read from; None where there are none."""
    names = ("train", "validation", "test")
    files = [file for name in names for file in sorted(folder.glob(f"{name}*.parquet"))]
    return _digest(files, DataError) if files else None


def _digest(files: list[Path], kind: type[SecateurError]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        try:
            size = path.stat().st_size
            if len(files) > 1:
                digest.update(f"{path.name}:{size}\n".encode())
            with path.open("rb") as file:
                half = WHOLE_BYTES // 2
                digest.update(file.read(half if size > WHOLE_BYTES else -1))
                if size > WHOLE_BYTES:
                    file.seek(-half, 2)
                    digest.update(file.read(half))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise kind(f"cannot read {path}: {error.strerror or error}; give a file that can be read") from error
    return digest.hexdigest()
