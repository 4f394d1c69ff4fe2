import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import trace
from secateur.errors import UsageError, VerificationError
from secateur.models import CifarResNet, build_model
from secateur.randomness import generator_for
from secateur.sparse import Masks, by_share, dead_units, nonzeros, prunable_weights, without_dead


def lively(model: nn.Module) -> nn.Module:
    """Draw biases and statistics, so that every dead unit leaves a constant that is not zero."""
    generator = generator_for("lively")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 1 and tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.data.copy_(drawn.abs() + 0.5 if name.endswith("var") else drawn)
    return model


def vgg(*, padding: int, bias: bool) -> nn.Module:
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    channels = 3
    for width in (8, 10, 12):
        layers += [nn.Conv2d(channels, width, 3, padding=padding, bias=bias), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 4))


def resnet() -> nn.Module:
    torch.manual_seed(6)
    return CifarResNet(8, shortcut="B", stem_width=8, stage_widths=(8, 12, 16))


class ThroughNorm(nn.Module):
    """A convolution without bias takes constants into the batch norm right behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(torch.tanh(self.first(x)), 2)
        result: Tensor = self.out(torch.relu(self.norm(self.second(x))).mean((2, 3)))
        return result


NETWORKS = {
    "lenet-300-100": (lambda: build_model("lenet-300-100"), (3, 1, 28, 28)),
    "lenet5": (lambda: build_model("lenet5"), (3, 1, 28, 28)),
    "resnet": (resnet, (3, 3, 12, 12)),
    "vgg": (lambda: vgg(padding=1, bias=True), (3, 3, 12, 12)),
    "vgg without padding": (lambda: vgg(padding=0, bias=False), (3, 3, 12, 12)),
    "through a norm": (ThroughNorm, (3, 3, 12, 12)),
}


def holed(model: nn.Module, *, rows: float, columns: float, weights: float = 0.4) -> Masks:
    names = prunable_weights(model)
    masks = by_share(model, weights)
    masks = by_share(model, rows, granularity="row", names=names[:-1], earlier=masks)
    return by_share(model, columns, granularity="column", names=names[1:], earlier=masks)


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(images)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_is_the_masked_one(name: str, dtype: torch.dtype) -> None:
    make, shape = NETWORKS[name]
    model = lively(make()).to(dtype)
    images = torch.randn(shape, generator=generator_for("images"), dtype=dtype)
    masks = holed(model, rows=0.7 if name == "resnet" else 0.5, columns=0.3)
    before = copy.deepcopy(model.state_dict())
    found = without_dead(trace(model, images), model, masks, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    masked = copy.deepcopy(model)
    masks.apply_(masked)
    for draw in (images, torch.randn(shape, generator=generator_for("others"), dtype=dtype)):
        wide, narrow = outputs(masked, draw), outputs(found.model, draw)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-12
        assert float((wide - narrow).abs().max()) <= tolerance * float(wide.abs().max())
    assert found.difference <= (1e-6 if dtype == torch.float32 else 1e-12)
    assert found.dead.count > 0
    assert found.dead.shifts, "no constant had to be folded, so folding was not tried"
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in model.parameters())
    found.masks.parameters_of(found.model)
    for key, mask in found.masks.items():
        assert not found.model.get_parameter(key).detach()[~mask].any()
    # All that goes as dead was not stored before, except weights that dead units held: those shrink the file too.
    assert nonzeros(found.model, found.masks) < nonzeros(model, masks)


def perceptron() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    values = {
        "0.weight": [[1.0, 2], [3, 4], [5, 6]],
        "0.bias": [0.5, -1, 2],
        "2.weight": [[1, 10, 100], [2, 20, 200]],
        "2.bias": [0, 0],
        "4.weight": [[1, 1]],
        "4.bias": [0],
    }
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).copy_(torch.tensor(value))
    return model


def masks_of(model: nn.Module, gone: dict[str, list[tuple[int, ...]]]) -> Masks:
    kept = {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool) for name in prunable_weights(model)}
    for name, places in gone.items():
        for place in places:
            kept[name][place] = False
    return Masks(kept)


def test_constants_are_folded_by_hand() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    graph = trace(model, images)
    # Unit 0 gives relu(0.5), unit 1 gives relu(-1) = 0, neither reads anything.
    masks = masks_of(model, {"0.weight": [(0, 0), (0, 1), (1, 0), (1, 1)]})
    found = without_dead(graph, model, masks, images)
    assert found.dead.without_inputs == {"0": (0, 1)}
    assert not found.dead.without_outputs
    assert {name: shift.tolist() for name, shift in found.dead.shifts.items()} == {"2.weight": [0.5, 1.0]}
    assert found.model[2].bias.tolist() == [0.5, 1.0]
    assert found.model[2].weight.tolist() == [[100.0], [200.0]]
    assert found.dead.sentence() == "2 dead units go (2 of 0)"


def test_units_without_outputs_are_dropped_and_take_others_with_them() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    graph = trace(model, images)
    # The last layer does not read unit 1 of the second layer, which alone reads unit 2 of the first.
    masks = masks_of(model, {"4.weight": [(0, 1)], "2.weight": [(0, 2)]})
    found = without_dead(graph, model, masks, images)
    assert found.dead.without_outputs == {"2": (1,), "0": (2,)}
    assert not found.dead.shifts
    assert [tuple(p.shape) for p in found.model.parameters()] == [(2, 2), (2,), (1, 2), (1,), (1, 1), (1,)]


def test_death_runs_forwards_through_several_layers() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    # Unit 0 of the second layer reads units 0 and 1 of the first alone, which read nothing.
    gone = {"0.weight": [(0, 0), (0, 1), (1, 0), (1, 1)], "2.weight": [(0, 2)]}
    found = without_dead(trace(model, images), model, masks_of(model, gone), images)
    assert found.dead.without_inputs == {"0": (0, 1), "2": (0,)}
    assert found.model[4].bias.tolist() == [0.5]  # relu(0.5 · 1)
    assert found.model[2].bias.tolist() == [1.0]


def test_every_group_keeps_a_unit_and_says_so() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    everything = [(row, column) for row in range(3) for column in range(2)]
    found = without_dead(trace(model, images), model, masks_of(model, {"0.weight": everything}), images)
    assert [tuple(p.shape) for p in found.model.parameters()][::2] == [(1, 2), (2, 1), (1, 2)]
    assert found.dead.staying == {"0": {0: "its group needs one unit"}}
    assert found.dead.sentence() == "2 dead units go (2 of 0); 1 more stays, because its group needs one unit"


class NamedTwice(nn.Module):
    """The outer module has a name of its own for the weight of a layer in it, which comes first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.layer, self.out = nn.Linear(5, 6), nn.Linear(6, 2)
        self.watched = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(torch.relu(self.layer(x)))
        return result


def test_a_weight_that_another_name_comes_before() -> None:
    model, images = NamedTwice(), torch.randn(4, 5)
    masks = masks_of(model, {"layer.weight": [(2, column) for column in range(5)]})
    found = without_dead(trace(model, images), model, masks, images)
    assert found.masks.shapes == {"layer.weight": (5, 5), "out.weight": (2, 5)}
    assert found.dead.sentence().startswith("1 dead unit goes (1 of ")
    assert found.difference <= 1e-6


def test_without_masks_nothing_is_dead() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    dead = dead_units(trace(model, images), model, masks_of(model, {}), images)
    assert dead.plan.is_empty
    assert dead.count == 0
    assert dead.sentence() == "no unit can go as dead"


def test_a_relu_that_is_closed_by_chance_is_not_dead() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    with torch.no_grad():
        model[0].bias[1] = -1000.0
    assert dead_units(trace(model, images), model, masks_of(model, {}), images).count == 0


def test_constants_before_padding_stay_unless_they_are_zero() -> None:
    model = lively(vgg(padding=1, bias=True))
    images = torch.randn(2, 3, 12, 12)
    graph = trace(model, images)
    with torch.no_grad():
        model[1].bias[:4] = -100.0  # closed for good, whatever the statistics say
        model[1].bias[4:] = 100.0
    kept = torch.ones_like(model[0].weight, dtype=torch.bool)
    kept[[0, 1, 4, 5]] = False
    found = without_dead(graph, model, Masks({"0.weight": kept}), images)
    assert found.dead.without_inputs == {"0": (0, 1)}
    assert set(found.dead.staying["0"]) == {4, 5}
    assert all("pads with zeros" in reason for reason in found.dead.staying["0"].values())
    assert "2 more stay, because a constant of it is read by a convolution that pads" in found.dead.sentence()


def test_a_stream_lives_while_one_of_its_branches_does() -> None:
    model = lively(resnet())
    images = torch.randn(2, 3, 12, 12)
    graph = trace(model, images)
    stream = ("layer3.0.conv2.weight", "layer3.0.shortcut.0.weight")
    kept = {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool) for name in stream}
    for name in stream:
        kept[name][3] = False
    both = dead_units(graph, model, Masks(kept), images)
    assert list(both.without_inputs.values()) == [(3,)]  # a linear layer reads it behind the pooling
    one = dead_units(graph, model, Masks({stream[0]: kept[stream[0]]}), images)
    assert one.count == 0


def test_where_no_bias_can_take_the_constant_the_unit_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    images = torch.randn(3, 4)
    kept = torch.ones(3, 4, dtype=torch.bool)
    kept[1] = False
    dead = dead_units(trace(model, images), model, Masks({"0.weight": kept}), images)
    assert dead.count == 0
    assert "neither a bias nor a batch norm right behind it" in dead.staying["0"][1]


def test_transposed_and_grouped_readers_keep_what_is_not_zero() -> None:
    torch.manual_seed(0)
    for reader in (nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, 1, groups=2)):
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), reader, nn.Flatten(), nn.LazyLinear(3))
        images = torch.randn(3, 2, 6, 6)
        model(images)
        with torch.no_grad():
            model[0].bias.copy_(torch.tensor([-1.0, 2.0, -1.0, 2.0]))
        kept = torch.zeros(4, 2, 3, 3, dtype=torch.bool)
        kept[0] = kept[2] = reader.groups == 1
        found = without_dead(trace(model, images), model, Masks({"0.weight": kept}), images)
        if reader.groups == 1:
            assert set(found.dead.staying["0"]) == {1, 3}
            assert found.dead.count == 0
        else:  # channels i and i + 2 of the two groups go together: (0, 2) are closed, (1, 3) are constant
            assert found.dead.without_inputs == {"0": (0,)}
            assert set(found.dead.staying["0"]) == {1}


def test_training_mode_is_the_same_where_the_norm_takes_the_constant() -> None:
    model = lively(ThroughNorm())
    images = torch.randn(4, 3, 12, 12)
    kept = torch.ones_like(model.first.weight, dtype=torch.bool)
    kept[:3] = False
    kept = Masks({"first.weight": kept})
    found = without_dead(trace(model, images), model, kept, images)
    kept.apply_(model)
    # The border of `first` is padded, but a constant is none of its inputs: it reads the image.
    assert found.dead.without_inputs == {"first": (0, 1, 2)}
    assert not torch.equal(found.model.norm.running_mean, model.norm.running_mean)
    for _ in range(3):
        torch.testing.assert_close(found.model.train()(images), model.train()(images), rtol=0, atol=2e-5)
    torch.testing.assert_close(outputs(found.model, images), outputs(model, images), rtol=0, atol=2e-5)


class Squared(nn.Module):
    """Reads its hidden units by a product too, which no weight shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden) + torch.einsum("ni,ni->n", hidden, hidden)[:, None]


def test_a_unit_that_counts_where_no_weight_shows_it_is_not_cut() -> None:
    torch.manual_seed(0)
    model, images = Squared(), torch.randn(3, 3)
    kept = torch.ones(2, 4, dtype=torch.bool)
    kept[:, 1] = False
    with pytest.raises(VerificationError, match="keep the masked model"):
        without_dead(trace(model, images), model, Masks({"second.weight": kept}), images)


def test_masks_of_another_model_are_refused() -> None:
    model, images = perceptron(), torch.randn(4, 2)
    with pytest.raises(UsageError, match="use masks that were made for this model"):
        dead_units(trace(model, images), model, Masks({"0.weight": torch.ones(1, 1, dtype=torch.bool)}), images)
