import dataclasses

import pytest
import torch
from torch import nn

from secateur.errors import UsageError
from secateur.models import build_model
from secateur.sparse import SparseSpeed, by_share, measure_sparse
from secateur.sparse.runtime import not_two_of_four

SPEED = SparseSpeed(
    form="csr",
    device="cpu",
    layers=("a",),
    left=(),
    density=0.1,
    dense_ms=4.0,
    sparse_ms=1.0,
    difference=0.0,
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "This sparsity speeds up a forward 4.00× on cpu: 1 ms sparse (csr) against 4 ms dense at batch 1",
        ),
        (
            {"sparse_ms": 8.0, "left": ("b", "c")},
            "This sparsity saves storage only: on cpu sparse kernels make a forward 2.00× slower, 8 ms sparse "
            "(csr) against 4 ms dense at batch 1; 2 other pruned layers have no such kernel and stayed dense",
        ),
        (
            {"sparse_ms": 4.1},
            "This sparsity saves storage only: on cpu sparse kernels make no difference, 4.1 ms sparse (csr) "
            "against 4 ms dense at batch 1",
        ),
        (
            {"sparse_ms": None, "layers": (), "left": ("b", "c")},
            "This sparsity saves storage only: on cpu there is no sparse kernel (csr) for any of the 2 pruned layers",
        ),
    ],
)
def test_the_sentence_says_what_was_measured(changes: dict[str, object], sentence: str) -> None:
    assert dataclasses.replace(SPEED, **changes).sentence() == sentence


def test_linear_layers_are_measured_dense_and_sparse() -> None:
    model = build_model("lenet5")
    masks = by_share(model, 0.9)
    masks.apply_(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speed = measure_sparse(model, masks, torch.randn(3, 1, 28, 28), rounds=5)
    assert speed.form == "csr"
    assert speed.layers == ("fc1.weight", "fc2.weight")
    assert speed.left == ("conv1.weight", "conv2.weight")
    assert speed.density == pytest.approx(0.1, abs=1e-3)
    assert speed.dense_ms > 0
    assert speed.sparse_ms is not None
    assert speed.sparse_ms > 0
    assert speed.difference < 1e-5  # the two networks compute the same
    assert speed.sentence().startswith("This sparsity")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_without_a_sparse_kernel_only_the_dense_time_is_measured() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    masks = by_share(model, 0.5)
    speed = measure_sparse(model, masks, torch.randn(1, 1, 8, 8), rounds=2)
    assert (speed.layers, speed.sparse_ms, speed.speedup) == ((), None, None)
    assert speed.dense_ms > 0


def test_what_cannot_be_measured_is_said() -> None:
    model = build_model("lenet-300-100")
    masks = by_share(model, 0.0, granularity="2:4")
    with pytest.raises(UsageError, match="they need a CUDA device, but the model is on cpu; choose csr"):
        measure_sparse(model, masks, torch.randn(1, 1, 28, 28), form="2:4")
    with pytest.raises(UsageError, match="choose csr or 2:4"):
        measure_sparse(model, masks, torch.randn(1, 1, 28, 28), form="coo")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rounds is 0"):
        measure_sparse(model, masks, torch.randn(1, 1, 28, 28), rounds=0)


def test_which_weights_can_be_held_as_two_of_four() -> None:
    weight = torch.tensor([1.0, 0, 0, 1]).repeat(32, 16).half()
    assert not_two_of_four(weight) is None
    assert "but the model has torch.float32" in str(not_two_of_four(weight.float()))
    assert "a layer has 10 and 64" in str(not_two_of_four(weight[:10]))
    weight[31, 62] = 1
    assert "more than 2 non-zeros" in str(not_two_of_four(weight))


@pytest.mark.gpu
def test_two_of_four_runs_on_a_gpu() -> None:
    layers = [nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 128), nn.Linear(128, 10)]  # 10 outputs fit no kernel
    model = nn.Sequential(*layers).to("cuda", torch.float16)
    masks = by_share(model, 0.0, granularity="2:4")
    masks.apply_(model)
    speed = measure_sparse(model, masks, torch.randn(2, 256, device="cuda", dtype=torch.float16))
    assert speed.form == "2:4"
    assert (speed.layers, speed.left) == (("0.weight", "2.weight"), ("3.weight",))
    assert speed.difference < 1e-2
    with pytest.raises(UsageError, match="more than 2 non-zeros among 4"):
        measure_sparse(model.apply(redrawn), masks, torch.randn(1, 256, device="cuda").half(), form="2:4")


def redrawn(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.ones_(layer.weight)
