"""How many threads torch computes with, for a while."""

import contextlib
from collections.abc import Iterator

import torch

from secateur.errors import UsageError


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let one torch operator use ``threads`` threads inside the block, and as many as before afterwards.

    Args:
        threads: at least 1; None changes nothing.

    Raises:
        UsageError: below 1.
    """
    if threads is None:
        yield
        return
    if threads < 1:
        raise UsageError(f"threads is {threads}, but must be at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
