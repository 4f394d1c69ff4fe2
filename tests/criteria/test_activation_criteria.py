"""Criteria of activations: hand-worked nets, what counts as a reading, and laws."""

import pytest
import torch
from scored_nets import cross_entropy, graph_of, images, tiny_resnet
from torch import nn

from secateur.criteria import Criterion, score
from secateur.errors import UsageError
from secateur.graph import trace


class Two(nn.Module):
    """x → (x, −x) → ReLU → 5·first + 7·second, averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.out.weight.copy_(torch.tensor([5.0, 7.0]).reshape(1, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(x))).mean((1, 2, 3))


# Two batches, of two samples and of one, two positions each.
BATCHES = [
    (torch.tensor([[1.0, -2.0], [3.0, 5.0]]).reshape(2, 1, 1, 2), torch.ones(2)),
    (torch.tensor([[-4.0, -6.0]]).reshape(1, 1, 1, 2), torch.ones(1)),
]


def mean_output(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) * batch[1]).mean()


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        # What is read: sample 1 (1, 0) and (0, 2); sample 2 (3, 5) and (0, 0); sample 3 (0, 0) and (4, 6).
        ("apoz", [3 / 6, 3 / 6]),
        ("mean_activation", [9 / 6, 12 / 6]),
        # A sample's own loss is the mean over two positions, so its gradient is 5/2 and 7/2 wherever it is read.
        # Σ a·g: 2.5, 20, 0 and 7, 0, 35; half of that is the mean over positions.
        ("activation_taylor_raw", [(1.25 + 10) / 3, (3.5 + 17.5) / 3]),
        ("fisher", [(6.25 + 400) / 6, (49 + 1225) / 6]),
        ("activation_taylor", [11.25 / (11.25**2 + 21**2) ** 0.5, 21 / (11.25**2 + 21**2) ** 0.5]),
    ],
)
def test_by_hand(criterion: str, expected: list[float]) -> None:
    model = Two().eval()
    graph = trace(model, torch.zeros(2, 1, 1, 2))
    scores = score(graph, model, criterion, batches=BATCHES, loss=mean_output, only=["conv"])["conv"]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))
    if criterion in ("apoz", "mean_activation"):  # no loss is needed: the model is called on the inputs
        without = score(graph, model, criterion, batches=BATCHES, only=["conv"])["conv"]
        bare = score(graph, model, criterion, batches=[inputs for inputs, _ in BATCHES], only=["conv"])["conv"]
        assert torch.equal(without, scores)
        assert torch.equal(bare, scores)


@pytest.mark.parametrize("criterion", ["activation_taylor_raw", "fisher", "apoz", "mean_activation"])
def test_how_samples_are_cut_into_batches_does_not_matter(criterion: str) -> None:
    """Each sample counts by itself, in evaluation mode, so that batches are a matter of memory only."""
    model = tiny_resnet().double()
    inputs, labels = images(1, 12)[0]
    inputs = inputs.double()
    graph = trace(model, inputs)
    together = score(graph, model, criterion, batches=[(inputs, labels)], loss=cross_entropy)
    split = [(inputs[:5], labels[:5]), (inputs[5:], labels[5:])]
    apart = score(graph, model, criterion, batches=split, loss=cross_entropy)
    for name, values in together.items():
        torch.testing.assert_close(values, apart[name], rtol=1e-9, atol=1e-15)


def test_each_layer_has_unit_length_in_the_paper_s_normalisation() -> None:
    model, batches = tiny_resnet(), images(2)
    graph = graph_of(model)
    normalised = score(graph, model, "activation_taylor", batches=batches, loss=cross_entropy)
    raw = score(graph, model, "activation_taylor_raw", batches=batches, loss=cross_entropy)
    inner = normalised["layer1.0.conv1"]
    assert inner.square().sum().item() == pytest.approx(1)
    torch.testing.assert_close(inner, raw["layer1.0.conv1"] / raw["layer1.0.conv1"].norm())


def test_the_reading_of_a_feature_map_is_the_gate_taylor_of_one_sample() -> None:
    """A gate behind the ReLU has φ·∂L/∂φ = Σ a·∂L/∂a: with batches of one sample, M times the activations' score."""
    model = tiny_resnet()
    batches = [(inputs[[row]], labels[[row]]) for inputs, labels in images(1, 4) for row in range(4)]
    graph = graph_of(model)
    by_reading = score(
        graph, model, "activation_taylor_raw", batches=batches, loss=cross_entropy, only=["layer1.0.conv1"]
    )
    gate = torch.ones(4, requires_grad=True)
    hook = model.layer1[0].conv2.register_forward_pre_hook(lambda module, args: (args[0] * gate[:, None, None],))
    slopes = [torch.autograd.grad(cross_entropy(model, batch), gate)[0] for batch in batches]
    hook.remove()
    expected = torch.stack(slopes).abs().mean(0) / 64  # of the 8×8 positions of a map
    torch.testing.assert_close(by_reading["layer1.0.conv1"], expected.double(), rtol=1e-4, atol=1e-9)


class Shared(nn.Module):
    """A stream that two modules read, and a module that reads twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.two(x + self.one(self.one(x))).mean((2, 3))


def test_what_several_modules_read_is_not_counted_twice() -> None:
    """All readings together are the derivative of one gate on every reading of the group."""
    torch.manual_seed(0)
    model, (inputs, labels) = Shared().double(), images(1, 1)[0]
    inputs = inputs.double()
    graph = trace(model, inputs)
    signed = Criterion(
        "signed",
        lambda a, g: (a * g).sum((0, 2)),
        "own",
        needs="activation_gradients",
        combine="sum",
        over_batches="sum",
    )
    found = score(graph, model, signed, batches=[(inputs, labels)], loss=cross_entropy, only=["stem"])["stem"]
    gate = torch.ones(4, dtype=torch.float64, requires_grad=True)
    hooks = [
        module.register_forward_pre_hook(lambda module, args: (args[0] * gate[:, None, None],))
        for module in (model.one, model.two)
    ]
    (slope,) = torch.autograd.grad(cross_entropy(model, (inputs, labels)), gate)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-12)


class Tokens(nn.Module):
    """Linear layers on tokens: (N, L, C) with a flatten behind, so that a unit owns several inputs of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.second(x)).transpose(1, 2).flatten(1))


def test_linear_layers_read_the_last_dimension() -> None:
    torch.manual_seed(0)
    model, inputs = Tokens().eval(), torch.randn(4, 6, 3)
    scores = score(trace(model, inputs), model, "mean_activation", batches=[(inputs, torch.zeros(4))])
    hidden = torch.relu(model.first(inputs))
    torch.testing.assert_close(scores["first"], hidden.mean((0, 1)).double().detach())
    torch.testing.assert_close(scores["second"], torch.relu(model.second(hidden)).mean((0, 1)).double().detach())


class Windows(nn.Module):
    """Cuts images into windows, which a layer reads as if they were samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        batch, channels = x.shape[:2]
        windows = x.unflatten(3, (2, -1)).permute(0, 3, 2, 4, 1).reshape(batch * 2, -1, channels)
        return self.mix(windows).mean(1).reshape(batch, 2, -1).mean(1)


def test_windows_of_one_image_are_one_sample() -> None:
    torch.manual_seed(0)
    model, (inputs, labels) = Windows().double(), images(1, 3, side=4)[0]
    inputs = inputs.double()
    graph = trace(model, inputs)
    whole = score(graph, model, "fisher", batches=[(inputs, labels)], loss=cross_entropy)
    single = [(inputs[[row]], labels[[row]]) for row in range(3)]
    torch.testing.assert_close(
        whole, score(graph, model, "fisher", batches=single, loss=cross_entropy), rtol=1e-9, atol=0
    )


def test_changes_in_place_behind_a_reading_are_refused() -> None:
    """A linear layer that is not trained does not keep its input, so autograd itself does not notice."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            y = self.out(x)
            x.mul_(2)
            return y

    model, inputs = InPlace(), torch.randn(2, 3)
    batches = [(inputs, torch.tensor([0, 1]))]
    with pytest.raises(UsageError, match=r"what out reads is changed in place"):
        score(trace(model, inputs), model, "fisher", batches=batches, loss=cross_entropy)


def test_modules_that_never_run_as_such_are_named() -> None:
    class Bypassed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mid, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.conv2d(self.conv(x), self.mid.weight)
            return self.out(x).mean((2, 3))

    model = Bypassed()
    graph = graph_of(model)
    with pytest.raises(UsageError, match=r"none of the modules that read them has run: conv"):
        score(graph, model, "apoz", batches=images(1))
    assert set(score(graph, model, "apoz", batches=images(1), missing="leave")) == {"mid"}
