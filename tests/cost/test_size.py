"""The predicted size of the saved file is an upper bound, and a close one."""

from pathlib import Path

import pytest
import torch

from secateur.cost import Budget, allocate, size_bytes
from secateur.criteria import score
from secateur.export import save
from secateur.graph import apply, trace
from secateur.models import build_model


@pytest.mark.parametrize(("name", "shape"), [("resnet20", (3, 32, 32)), ("lenet5", (1, 28, 28))])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.4])
def test_the_file_is_no_larger_than_predicted(name: str, shape: tuple[int, ...], share: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(name)
    graph = trace(model, torch.zeros(1, *shape))
    plan = allocate(graph, score(graph, model, "l1"), Budget(size_bytes=share))
    assert plan.is_empty == (share == 1.0)
    path = tmp_path / "small.safetensors"
    save(apply(model, plan, verify_with=None), path, plan=None if plan.is_empty else plan)
    predicted = size_bytes(graph, graph.kept_sizes(plan))
    assert path.stat().st_size <= predicted <= share * size_bytes(graph, graph.sizes)
    assert predicted - path.stat().st_size <= 0.02 * predicted + 1024
