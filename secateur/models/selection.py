"""Channel selection: which channels of a normalised stream a block reads (Liu et al. 2017, arXiv:1708.06519, §3)."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import ModelError


class ChannelSelection(nn.Module):
    """Passes on the channels that its index buffer names, and no others.

    In networks with pre-activation one output is normalised anew by every layer that reads it, so that each layer can
    leave out channels of its own. The norm in front keeps its width; what reads the selection is as wide as
    ``indices`` is long. A selection of all channels in order returns its input, without a copy.

    Attributes:
        indices: buffer, the channels that are passed on, rising, shape (selected channels,), int64.
        copies_when_dense: whether a selection of all channels copies too; set while a graph watches the operators.
    """

    indices: Tensor
    copies_when_dense = False

    def __init__(self, indices: Iterable[int]) -> None:
        """Select the given channels; ``range(channels)`` is the dense selection.

        Raises:
            ModelError: no index, one that is no whole number from 0 on, or indices that do not rise.
        """
        super().__init__()
        found = [int(index) for index in indices]
        if not found or found[0] < 0 or any(second <= first for first, second in itertools.pairwise(found)):
            raise ModelError(f"a channel selection needs rising indices from 0 on, at least one, not {found[:8]}")
        self.register_buffer("indices", torch.tensor(found, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, …) to (N, selected channels, …)."""
        # Indices rise, so as many as there are channels are all of them; sizes are known without reading values.
        if self.indices.shape[0] == x.shape[1] and not self.copies_when_dense:
            return x
        return x.index_select(1, self.indices)

    def is_sound(self) -> bool:
        """Whether the indices rise from 0 or more on, as they must."""
        return _rises(self.indices)

    def extra_repr(self) -> str:
        """Return how many channels are passed on."""
        return f"{self.indices.shape[0]} channels"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse indices that do not rise: a selection of all channels would take them for the identity."""
        given = state_dict.get(f"{prefix}indices")
        if isinstance(given, Tensor) and not given.is_meta and not _rises(given):
            errors: list[str] = rest[-1]
            errors.append(f"{prefix}indices are not rising channel numbers from 0 on.")
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _rises(indices: Tensor) -> bool:
    """Whether numbers rise from 0 or more on; those of another shape are left to the check of shapes."""
    if indices.dim() != 1 or not indices.numel():
        return True
    return bool(indices[0] >= 0) and bool((indices.diff() > 0).all())
