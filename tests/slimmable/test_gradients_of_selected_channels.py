"""Channels that are no range are selected with a backward pass of its own, which must be that of ``index_select``."""

import numpy as np
import pytest
import torch

from secateur.graph.cuts import DimensionCut
from secateur.graph.narrowing import narrow_tensor


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_gradients_of_both_orders(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(5, 6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    cut = DimensionCut("weight", dim, tensor.shape[dim], np.asarray([1]))
    assert torch.equal(narrow_tensor(tensor, (cut,)), tensor.index_select(dim, torch.from_numpy(cut.kept)))
    assert torch.autograd.gradcheck(lambda t: narrow_tensor(t, (cut,)), tensor)
    assert torch.autograd.gradgradcheck(lambda t: narrow_tensor(t, (cut,)).square(), tensor)
