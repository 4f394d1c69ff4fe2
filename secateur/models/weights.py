"""Loading trained weights from a file, without ever running what the file says."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.errors import ModelError

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
NAMED = 5  # tensors that a message names before it counts

_COUNTER = ".num_batches_tracked"  # of batch norm; it came late to torch and changes no output

# How torch names what it found in a pickle besides tensors.
_FOREIGN_OBJECT = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)")


def load_weights(model: nn.Module, path: Path | str, *, new_head: str | None = None) -> None:
    """Put the weights in ``path`` into ``model``: all of them, or the model stays as it was.

    Args:
        model: every parameter and buffer must be in the file, in its shape; only the batch counters of batch
            norm may be absent.
        path: a ``.safetensors`` file, or one that ``torch.save`` wrote of tensors: a state dict, or a dict
            with one under ``state_dict``, ``model_state_dict`` or ``model``. Names may begin with
            ``module.``.
        new_head: path of layers that stay as they are, whatever the file holds under that path; all others have to be
            in the file, in their shapes, and nothing else.

    Raises:
        ModelError: the file is missing, corrupt, or holds Python objects (nothing of it is executed); a
            tensor is missing, unexpected or of another shape; or a tensor holds NaN or infinity.
    """
    path = Path(path)
    weights = _without_prefixes(_read(path))
    if new_head is not None:
        weights = {name: tensor for name, tensor in weights.items() if not _is_under(name, new_head)}
    _check_fit(model, weights, path, new_head)
    for name, tensor in weights.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: tensor {name!r} holds NaN or infinity; the training that wrote it diverged")
    # Not strict, because of the batch counters and a new head; everything else has been compared.
    model.load_state_dict(weights, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"there is no weight file {path}; give the path of a .safetensors or .pt file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise ModelError(f"{path} is empty; copy it again")
    # A safetensors file begins with the length of its JSON header, and the header itself with a brace.
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return _read_safetensors(path)
    return _named_tensors(_read_pickle(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is truncated or not a safetensors file ({_one_line(error)}); copy it again"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused below anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _FOREIGN_OBJECT.search(str(error))
        if foreign is None:
            raise ModelError(f"{path} is truncated or not a weight file of torch; copy it again") from error
        raise ModelError(
            f"{path} is refused, because it holds Python objects ({foreign[1] or foreign[2]}) that could run "
            "code; "
            f"nothing was executed. Save only tensors: torch.save(model.state_dict(), …) or safetensors"
        ) from error
    # A damaged archive can fail anywhere in torch's reader.
    except Exception as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript program, not weights; save its state_dict() as safetensors"
            ) from error
        raise ModelError(
            f"{path} is truncated or not a weight file of torch ({_one_line(error)}); copy it again"
        ) from error


def _named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return _named_tensors(content[key], path)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): tensor for name, tensor in content.items()}
        others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
        raise ModelError(
            f"{path} holds no state dict but {_some(others) or 'an empty dict'}; "
            f"save model.state_dict(), by itself or under 'state_dict'"
        )
    raise ModelError(f"{path} holds a {type(content).__name__} instead of named tensors; save model.state_dict()")


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES * 2:  # a compiled model in a data-parallel one, or the other way round
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _is_under(name: str, path: str) -> bool:
    return name.startswith(f"{path}.")


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor], path: Path, new_head: str | None) -> None:
    expected: Mapping[str, Any] = {
        name: tensor for name, tensor in model.state_dict().items() if new_head is None or not _is_under(name, new_head)
    }
    missing = [name for name in expected if name not in weights and not name.endswith(_COUNTER)]
    unexpected = [name for name in weights if name not in expected and not name.endswith(_COUNTER)]
    reshaped = [
        f"{name} (file {tuple(tensor.shape)}, model {tuple(expected[name].shape)})"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    kinds = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": reshaped}
    complaints = [f"{kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if complaints:
        raise ModelError(
            f"the weights in {path} do not fit {type(model).__name__}: {'; '.join(complaints)}. "
            f"Choose the model that they were trained in"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _one_line(error: BaseException) -> str:
    """Return the first sentence of a library's message."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return text[:160] or type(error).__name__
