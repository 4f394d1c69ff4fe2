"""Layers that read a cut one, fitted anew: never worse, means restored, and the networks' outputs nearer."""

import copy

import pytest
import torch
from cut_nets import Joined, halved, images, resnet
from torch import Tensor, nn

from secateur.compensation import compensate
from secateur.compensation.survey import kept_filters
from secateur.errors import DataError, PlanError, UsageError
from secateur.graph import Plan, apply, trace

DATA = images(12, 8, 4)
ALL = torch.cat([inputs for inputs, _ in DATA])
NETS = {"resnet": resnet, "joined": lambda: Joined().eval()}


def output(model: nn.Module, inputs: Tensor = ALL) -> Tensor:
    with torch.no_grad():
        return model(inputs)


def error(model: nn.Module, small: nn.Module, inputs: Tensor = ALL) -> float:
    wanted = output(model, inputs)
    return float((output(small, inputs) - wanted).square().sum() / wanted.square().sum())


def given_by(model: nn.Module, paths: list[str]) -> dict[str, Tensor]:
    """What layers give, less the running mean of the norm behind where they have no bias, as (positions, filters)."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda _m, _a, out, path=path: found.setdefault(path, out))
        for path in paths
    ]
    output(model)
    for handle in handles:
        handle.remove()
    return {path: out.double().movedim(1, -1).flatten(0, -2) for path, out in found.items()}


def norm_mean(model: nn.Module, path: str) -> Tensor:
    """The running mean of the norm behind a layer of the residual network, 0 where there is none."""
    norms = {"conv": "bn", "shortcut.0": "shortcut.1"}
    for layer, norm in norms.items():
        if layer in path:
            return model.get_submodule(path.replace(layer, norm)).running_mean.double()
    return torch.zeros(())


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("how", ["mean", "scale", "both"])
def test_no_layer_is_worse_than_before_and_the_output_is_nearer(net: str, how: str) -> None:
    model = NETS[net]()
    small, plan, _ = halved(model)
    before = error(model, small)
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    weights = copy.deepcopy(model.state_dict())
    found = compensate(model, small, plan, lambda: DATA, how)
    assert found.images == len(ALL)
    assert found.layers
    assert all(after <= first + 1e-9 for first, after in found.errors.values())
    assert any(after < 0.95 * first for first, after in found.errors.values())
    assert error(model, small) < before
    assert {name: tensor.shape for name, tensor in small.state_dict().items()} == shapes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_images_that_were_not_fitted_to_are_nearer_as_well() -> None:
    model = resnet()
    small, plan, graph = halved(model)
    others = torch.cat([inputs for inputs, _ in images(64, seed=9)])
    before = error(model, small, others)
    compensate(model, small, plan, lambda: images(64), "both", graph=graph)
    assert error(model, small, others) < 0.8 * before


@pytest.mark.parametrize("how", ["mean", "both"])
@pytest.mark.parametrize("net", NETS)
def test_with_constants_every_filter_has_the_mean_that_it_had(net: str, how: str) -> None:
    """Of layers in a row too: each sees what those before give now, and is given what it gave once."""
    model = NETS[net]()
    small, plan, _ = halved(model)
    found = compensate(model, small, plan, lambda: DATA, how)
    paths = [path for path, refit in found.layers.items() if refit.how == how]
    assert len(paths) > 2
    had, have = given_by(model, paths), given_by(small, paths)
    for path in paths:
        filters = list(kept_filters(plan, f"{path}.weight"))
        biased = model.get_submodule(path).bias is not None
        wanted, got = had[path].mean(0)[filters], have[path].mean(0)
        if not biased:  # the constant is in the norm behind
            wanted, got = wanted - norm_mean(model, path)[filters], got - norm_mean(small, path)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["scale", "both"])
def test_the_reported_error_is_that_of_the_layer(how: str) -> None:
    model = NETS["joined"]()
    small, plan, _ = halved(model)
    found = compensate(model, small, plan, lambda: DATA, how)
    path = "linear"  # has a bias, and reads what all others made
    wanted, got = given_by(model, [path])[path], given_by(small, [path])[path]
    bias = model.linear.bias.detach().double()
    expected = float((wanted - got).square().sum() / (wanted - bias).square().sum())
    assert found.layers[path].after == pytest.approx(expected, rel=1e-3)


def test_channels_that_only_repeat_others_are_made_up_for_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight[3:] = 2 * model[0].weight[:3]
        model[0].bias[3:] = 2 * model[0].bias[:3]
        model[2].weight[:, 3:] = -model[2].weight[:, :3]
    plan = trace(model, ALL[:2]).plan({"0": [0, 1, 5]})
    small = apply(model, plan, verify_with=None)
    assert error(model, small) > 0.01
    found = compensate(model, small, plan, lambda: DATA, "scale")
    assert list(found.layers) == ["2"]
    assert found.layers["2"].after == pytest.approx(0, abs=1e-7)
    assert error(model, small) == pytest.approx(0, abs=1e-7)


def test_a_constant_channel_is_made_up_for_by_the_bias_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 5
    plan = trace(model, ALL[:2]).plan({"0": [0, 1, 3]})
    small = apply(model, plan, verify_with=None)
    found = compensate(model, small, plan, lambda: DATA, "mean")
    assert found.layers["2"].after == pytest.approx(0, abs=1e-7)
    torch.testing.assert_close(output(small), output(model))


def test_a_constant_that_was_folded_already_is_not_added_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    plan = trace(model, ALL[:2]).plan({"0": [0, 1, 3]})
    small, again = apply(model, plan, verify_with=None), apply(model, plan, verify_with=None)
    with torch.no_grad():
        again[2].bias += 7
    for one in (small, again):
        compensate(model, one, plan, lambda: DATA, "mean")
    torch.testing.assert_close(again[2].bias, small[2].bias)


def test_what_has_no_place_for_a_constant_is_told() -> None:
    model = NETS["joined"]()
    small, plan, _ = halved(model)
    found = compensate(copy.deepcopy(model), small, plan, lambda: DATA, "mean")
    assert list(found.left) == ["bare.weight"]
    assert "neither a bias nor a batch norm right behind" in found.left["bare.weight"]
    small, plan, _ = halved(model)
    found = compensate(model, small, plan, lambda: DATA, "both")
    assert not found.left
    assert {path: refit.how for path, refit in found.layers.items()}["bare"] == "scale"
    assert "1 got factors alone" in found.note()


def test_the_same_images_split_otherwise_give_the_same_weights() -> None:
    model = resnet()
    one, plan, graph = halved(model)
    other = copy.deepcopy(one)
    compensate(model, one, plan, lambda: images(24), "both", graph=graph)
    compensate(model, other, plan, lambda: images(7, 1, 16), "both", graph=graph)
    torch.testing.assert_close(output(one), output(other), rtol=1e-4, atol=1e-5)


def test_modes_hooks_and_gradients_stay_as_they_were() -> None:
    model = resnet().train()
    small, plan, graph = halved(model)
    small.train()
    small.bn1.eval()
    statistics = copy.deepcopy(small.bn1.state_dict())
    small.linear.weight.grad = torch.ones_like(small.linear.weight)
    modes = [module.training for module in (*model.modules(), *small.modules())]
    compensate(model, small, plan, lambda: DATA, "scale", graph=graph)
    assert [module.training for module in (*model.modules(), *small.modules())] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert torch.equal(small.linear.weight.grad, torch.ones_like(small.linear.weight))
    assert all(parameter.requires_grad for parameter in small.parameters())
    for name, tensor in small.bn1.state_dict().items():
        assert torch.equal(tensor, statistics[name])


def test_none_does_nothing_and_looks_at_nothing() -> None:
    model = resnet()
    small, plan, _ = halved(model)
    before = copy.deepcopy(small.state_dict())
    found = compensate(model, small, plan, lambda: [], "none")
    assert (found.images, dict(found.layers)) == (0, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_what_reads_otherwise_is_left_and_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 1))
    small, plan, _ = halved(model.eval())
    found = compensate(model, small, plan, lambda: DATA, "scale")
    assert list(found.layers) == ["4"]
    assert "ConvTranspose2d" in found.left["2.weight"]


def test_what_cannot_be_compensated_is_refused() -> None:
    model = resnet()
    small, plan, graph = halved(model)
    with pytest.raises(UsageError, match="unknown way to compensate 'means'; did you mean 'mean'"):
        compensate(model, small, plan, lambda: DATA, "means")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="give at least one batch"):
        compensate(model, small, plan, lambda: [], "mean")
    with pytest.raises(PlanError, match="should have shape"):
        compensate(model, copy.deepcopy(model), plan, lambda: DATA, "mean", graph=graph)
    other: Plan = trace(Joined(), ALL[:2]).plan({})
    with pytest.raises(PlanError, match="made for"):
        compensate(model, small, other, lambda: DATA, "mean", graph=graph)


@pytest.mark.parametrize(
    ("shape", "number", "reason"),
    [
        ((4, 1, 8, 8), 1, r"is of type Conv2d for 3 channels, but gets 1, in .*; pass inputs of the shape"),
        ((4, 2, 8, 8), 2, r"is of type Conv2d for 3 channels, but gets 2, in .*; pass inputs of the shape"),
        ((4, 3, 9, 9), 1, r"'linear' is of type Linear for 48 features, but gets 75"),
    ],
)
def test_images_that_a_model_does_not_take_are_named(shape: tuple[int, ...], number: int, reason: str) -> None:
    model = Joined().eval()
    small, plan, graph = halved(model)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    batches = [*images(4), torch.zeros(shape)][-number:]
    with pytest.raises(DataError, match=rf"Joined does not run on batch {number}, of shape .*{reason}"):
        compensate(model, small, plan, batches, "both", graph=graph)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *small.modules())
    )
