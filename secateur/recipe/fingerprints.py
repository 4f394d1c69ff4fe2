"""Fingerprints of what a recipe only names: weight files, the user's code, the files of a data set."""

import hashlib
from dataclasses import replace
from pathlib import Path

from secateur.data import data_fingerprint
from secateur.errors import DataError, ModelError, SecateurError, UsageError
from secateur.export import file_fingerprint
from secateur.recipe.settings import DataChoice, ModelChoice
from secateur.user_code import code_path

WHOLE_BYTES = 100 * 10**6
"""A code file up to this size is read whole; of a larger one the first and the last half of this count."""


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
        if choice.weights_fingerprint not in (None, weights):
            raise ModelError(
                f"the recipe was made with another weight file: it names the fingerprint {choice.weights_fingerprint}, "
                f"and {path} has {weights}; give that file, or take weights_fingerprint out of the recipe"
            )
    code = _code_fingerprint(choice.spec)
    if choice.code_fingerprint not in (None, code):
        raise UsageError(
            f"the recipe was made with other code: it names the fingerprint {choice.code_fingerprint}, and "
            f"{choice.spec} has {code or 'none'}; give that code, or take code_fingerprint out of the recipe"
        )
    return replace(choice, weights_fingerprint=weights, code_fingerprint=code)


def with_data_fingerprint(choice: DataChoice) -> DataChoice:
    """Return ``choice`` with the fingerprint of its data's files, or of the file with the code that makes the data.

    See :func:`secateur.data.data_fingerprint` for what of the files counts.

    Raises:
        DataError: a file cannot be read, or the data is not what the recipe was made with.
        UsageError: the code file is missing.
    """
    found = data_fingerprint(choice.spec, choice.root) or _code_fingerprint(choice.spec)
    if choice.fingerprint is not None and choice.fingerprint != found:
        raise DataError(
            f"the recipe was made with other data: it names the fingerprint {choice.fingerprint}, and {choice.spec} "
            f"has {found or 'none'}; give that data, or take data.fingerprint out of the recipe"
        )
    return replace(choice, fingerprint=found)


def _code_fingerprint(spec: str) -> str | None:
    path = code_path(spec)
    if path is None:
        return None
    try:
        return _digest([path], UsageError)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}; give the path of a Python file, as path/file.py:function") from None


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
