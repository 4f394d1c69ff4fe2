"""Shared values that train: laws of the hook, beside a model whose parameters are the shared values themselves."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import TrainingError, UsageError
from secateur.sparse import Codebook, KeepMasks, Masks, SharedValues, by_share, cluster, decode, encode

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def shared_network() -> tuple[nn.Module, Masks, SharedValues]:
    model = network()
    masks = by_share(model, 0.6)
    masks.apply_(model)
    shared = SharedValues({name: cluster(model.get_parameter(name), bits=3) for name in masks})
    shared.apply_(model)
    return model, masks, shared


def batches(number: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(8, 1, 8, 8), torch.randint(5, (8,))) for _ in range(number)]


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, shared: SharedValues, number: int) -> None:
    shared.begin(model, optimizer)
    for images, labels in batches(number):
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(next(model.parameters()))), labels).backward()
        shared.after_backward(model)
        optimizer.step()
        shared.after_step(model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_that_share_a_value_share_it_after_any_number_of_steps(name: str) -> None:
    model, masks, shared = shared_network()
    before = {entry: model.get_parameter(entry).clone() for entry in masks}
    steps(model, OPTIMIZERS[name](model.parameters()), shared, 20)
    for entry, book in shared.codebooks(model).items():
        weight = model.get_parameter(entry).detach()
        assert torch.equal(book.weight(), weight)
        assert not bool(weight[~masks[entry]].any()), "pruned weights stay zero"
        assert not torch.equal(weight, before[entry])
        assert len(weight[masks[entry]].unique()) <= 7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_training_of_the_shared_values_themselves(name: str) -> None:
    model, masks, shared = shared_network()
    books = shared.codebooks(model)
    double = model.double()  # in which what differs is not rounding
    centroids = {entry: nn.Parameter(book.centroids.double()) for entry, book in books.items()}
    others = {key: nn.Parameter(value.detach().clone()) for key, value in model.named_parameters() if key not in masks}
    plain = copy.deepcopy(model)
    optimizer = OPTIMIZERS[name]([*centroids.values(), *others.values()])
    steps(double, OPTIMIZERS[name](double.parameters()), SharedValues(books), 5)
    for images, labels in batches(5):
        values = {
            entry: torch.cat([torch.zeros(1, dtype=torch.float64), centroids[entry]])[books[entry].codes.int()]
            for entry in masks
        }
        optimizer.zero_grad()
        F.cross_entropy(torch.func.functional_call(plain, {**values, **others}, (images.double(),)), labels).backward()
        optimizer.step()
    for entry in masks:
        expected = torch.cat([torch.zeros(1, dtype=torch.float64), centroids[entry]])[books[entry].codes.int()]
        torch.testing.assert_close(double.get_parameter(entry), expected.detach(), rtol=1e-9, atol=1e-12)


def test_the_summed_gradient_by_hand() -> None:
    layer = nn.Linear(4, 1, bias=False)
    book = Codebook(torch.tensor([-1.0, 2.0]), torch.tensor([[1, 2, 0, 2]], dtype=torch.uint8))
    shared = SharedValues({"weight": book})
    shared.apply_(layer)
    assert layer.weight.tolist() == [[-1.0, 2.0, 0.0, 2.0]]
    shared.begin(layer, torch.optim.SGD(layer.parameters(), lr=1.0))
    layer.weight.grad = torch.tensor([[0.5, 1.0, 7.0, 3.0]])
    shared.after_backward(layer)
    assert layer.weight.grad.tolist() == [[0.5, 4.0, 0.0, 4.0]]


def test_a_file_holds_what_was_trained(tmp_path: Path) -> None:
    model, _, shared = shared_network()
    steps(model, OPTIMIZERS["adamw"](model.parameters()), shared, 3)
    encode(model, tmp_path / "shared.sparse.safetensors", codebooks=shared.codebooks(model))
    decoded = decode(tmp_path / "shared.sparse.safetensors")
    torch.testing.assert_close(decoded, dict(model.state_dict()), rtol=0, atol=0)


def test_masks_and_shared_values_go_together() -> None:
    model, masks, shared = shared_network()
    other = copy.deepcopy(model)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    keep = KeepMasks(masks)
    with keep.during(model, optimizer):
        steps(model, optimizer, shared, 4)
    steps(other, OPTIMIZERS["sgd"](other.parameters()), shared, 4)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


def test_frozen_weights_stay() -> None:
    model, _, shared = shared_network()
    model[0].weight.requires_grad_(requires_grad=False)
    before = model[0].weight.clone()
    steps(model, OPTIMIZERS["sgd"](model[3].parameters()), shared, 2)
    assert torch.equal(model[0].weight, before)


def test_other_codebooks_are_refused() -> None:
    model, masks, shared = shared_network()
    state = shared.state_dict()
    shared.load_state_dict(state)
    coarse = SharedValues({name: cluster(model.get_parameter(name), bits=1) for name in masks})
    with pytest.raises(TrainingError, match="begun with other codebooks"):
        coarse.load_state_dict(state)
    with pytest.raises(UsageError, match=r"weights of 3\.weight differ"):
        coarse.begin(model, OPTIMIZERS["sgd"](model.parameters()))
    with pytest.raises(UsageError, match=r"did you mean '3\.weight'"):
        SharedValues({"3.weigt": cluster(model[3].weight, bits=2)}).apply_(model)
    with pytest.raises(UsageError, match="is for the shape"):
        SharedValues({"0.weight": cluster(model[3].weight, bits=2)}).apply_(model)
    with pytest.raises(UsageError, match="1 values that no weight has"):
        SharedValues({"w": Codebook(torch.tensor([1.0, 2.0]), torch.ones(2, dtype=torch.uint8))})
