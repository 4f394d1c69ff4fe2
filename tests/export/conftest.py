import copy

import pytest
import torch
from small_net import Cut, build

from secateur import graph


@pytest.fixture(scope="session")
def traced() -> Cut:
    dense, x = build(), torch.randn(2, 3, 8, 8)
    channels = graph.trace(dense, x)
    plan = channels.plan({group.name: range(1, group.size, 2) for group in channels.groups if group.prunable})
    return Cut(dense, graph.apply(dense, plan, verify_with=x), plan, x, build)


@pytest.fixture
def cut(traced: Cut) -> Cut:
    """A dense model, the same one cut, and the plan; a copy for each test."""
    return copy.deepcopy(traced)
