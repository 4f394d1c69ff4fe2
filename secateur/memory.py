"""What running out of memory looks like, whoever tells of it: torch on any device, NumPy, ONNX Runtime, Python."""

import re

# Only CUDA and Python have a type of error for it; of the others only the text tells.
_SIGNS = (
    "can't allocate memory",  # torch on a CPU
    "not enough memory: you tried to allocate",  # torch on a CPU, Windows
    "Cannot allocate memory",  # the system, mapping a file or starting a process
    "Failed to allocate memory",  # ONNX Runtime
    "out of memory",  # CUDA, MPS
    "_STATUS_ALLOC_FAILED",  # cuDNN, cuBLAS
    "could not create a primitive",  # oneDNN, which does not say why; it is the usual reason
    "could not create a memory",  # oneDNN
    "bad_alloc",  # C++
    "bad allocation",  # C++, Windows
)

_AMOUNT = re.compile(r"(?:tried to allocate|Unable to allocate|buffer of size) ([\d.,]+)\s*(bytes|[KMGT]iB)?")
_BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def ran_out(error: BaseException | None) -> BaseException | None:
    """Return what says that memory ran out: ``error`` or one of its causes; None if none of them does."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error can be made its own cause
        seen.add(id(error))
        # torch.OutOfMemoryError by its name, so that nobody has to import torch to ask.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return error
        if any(sign in str(error) for sign in _SIGNS):
            return error
        error = error.__cause__
    return None


def asked_for(error: BaseException) -> str:
    """Return how much memory was asked for in vain, as `` (1.2 GB more were asked for)``; empty if nobody says."""
    found = _AMOUNT.search(str(error))
    if found is None:
        return ""
    amount = float(found[1].replace(",", "")) * _BYTES.get(found[2] or "", 1)
    return f" ({amount / 1e9:,.1f} GB more were asked for)" if amount >= 1e9 else f" ({amount / 1e6:,.0f} MB more)"
