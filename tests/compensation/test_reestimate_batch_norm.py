"""Running statistics measured anew are averages of what batches show, and nothing else changes."""

import copy

import pytest
import torch
from cut_nets import images, resnet
from torch import Tensor, nn

from secateur.compensation import reestimate_batch_norm
from secateur.errors import DataError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel."""
    flat = x.double().movedim(1, 0).flatten(1)
    return flat.mean(1), flat.var(1)


def test_one_batch_gives_the_mean_and_variance_of_the_activations() -> None:
    model = net().eval()
    ((inputs, _),) = images(16)
    assert reestimate_batch_norm(model, images(16)) == 2
    with torch.no_grad():
        first = model[0](inputs)
        mean, variance = moments(first)
        torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[1].running_var.double(), variance, rtol=1e-5, atol=1e-6)
        # The second norm sees what the first gives normalised by the batch (biased variance), without dropout.
        normed = nn.functional.batch_norm(first, None, None, model[1].weight, model[1].bias, training=True)
        mean, variance = moments(model[4](torch.relu(normed)))
    torch.testing.assert_close(model[5].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[5].running_var.double(), variance, rtol=1e-5, atol=1e-6)


def test_a_batch_counts_as_much_as_it_has_samples() -> None:
    model, data = net().eval(), images(8, 6, 2)
    reestimate_batch_norm(model, data)
    with torch.no_grad():
        found = [moments(model[0](inputs)) for inputs, _ in data]
    weights = torch.tensor([8.0, 6.0, 2.0], dtype=torch.float64) / 16
    expected = [weights @ torch.stack(values) for values in zip(*found, strict=True)]
    assert not model[1]._forward_pre_hooks
    torch.testing.assert_close(model[1].running_mean.double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var.double(), expected[1], rtol=1e-5, atol=1e-6)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    one, other = net(), net()
    reestimate_batch_norm(one, images(8, 1))
    reestimate_batch_norm(other, [images(8, 1)[0]])
    assert torch.equal(one[1].running_mean, other[1].running_mean)


def test_all_else_stays_as_it_was() -> None:
    model = net().train()
    model[1].eval()
    model[5].momentum = 0.3
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(4)
    state = torch.get_rng_state()
    reestimate_batch_norm(model, images(8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{norm}.{name}" for norm in (1, 5) for name in ("running_mean", "running_var")}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_norms_that_are_frozen_or_keep_nothing_are_left() -> None:
    frozen = net()
    frozen[1].requires_grad_(False)
    before = copy.deepcopy(frozen[1].state_dict())
    assert reestimate_batch_norm(frozen, images(8)) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen[1].state_dict().items())
    still = net()
    still[1].momentum = 0.0
    assert reestimate_batch_norm(still, images(8)) == 1
    none = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4))
    assert reestimate_batch_norm(none, []) == 0
    # Where nothing trains at all, nothing is meant by it.
    assert reestimate_batch_norm(net().requires_grad_(False), images(8)) == 2


def test_without_anything_to_measure_nothing_is_lost() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="without batches"):
        reestimate_batch_norm(model, [])
    tiny = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4))
    with pytest.raises(DataError, match="batch 1 gives a batch norm one value per channel"):
        reestimate_batch_norm(tiny, images(1))
    assert tiny[1].momentum == 0.1
    assert not tiny[1].running_mean.any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_images_that_the_model_does_not_take_are_named_and_nothing_is_lost() -> None:
    model = resnet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError, match=r"does not run on batch 2, of shape \(4, 1, 8, 8\): .* 3 channels, but gets 1"):
        reestimate_batch_norm(model, [torch.randn(4, 3, 8, 8), torch.randn(4, 1, 8, 8)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
