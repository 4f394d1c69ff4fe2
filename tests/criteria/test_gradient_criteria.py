"""Criteria of gradients: hand-worked nets, gates against norms, groups, and what is refused."""

import pytest
import torch
from scored_nets import Gate, TwoChannels, cross_entropy, graph_of, images, tiny_resnet
from torch import nn

from secateur.criteria import Criterion, score
from secateur.errors import PlanError, UsageError
from secateur.graph import trace

SMALL = [(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), torch.zeros(2, dtype=torch.long))]


def mean_output(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return model(batch[0]).mean()


def two_channels(**kinds: bool) -> TwoChannels:
    """conv: 2x + 1 and −x; a norm γ = (2, 3), β = (1, 4) on mean 0, variance 1 − ε; out: 5·first + 7·second."""
    model = TwoChannels(**kinds).eval()
    with torch.no_grad():
        model.conv.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
        if model.conv.bias is not None:
            model.conv.bias.copy_(torch.tensor([1.0, 0.0]))
        if isinstance(model.norm, nn.BatchNorm2d):
            model.norm.eps = 0.0
            model.norm.weight.copy_(torch.tensor([2.0, 3.0]))
            model.norm.bias.copy_(torch.tensor([1.0, 4.0]))
        model.out.weight.copy_(torch.tensor([5.0, 7.0]).reshape(1, 2, 1, 1))
    return model


def scored(model: nn.Module, criterion: str | Criterion, **settings: object) -> torch.Tensor:
    graph = trace(model, torch.zeros(2, 1, 1, 1))
    return score(graph, model, criterion, batches=SMALL, loss=mean_output, only=["conv"], **settings)["conv"]  # type: ignore[arg-type]


def test_gate_taylor_by_hand() -> None:
    """z = (2x + 1, −x) is (3, −1) and (7, −3); γz + β is (7, 1) and (15, −5), of which the ReLU passes all but −5.

    L is the mean of 5·first + 7·second, so φ·∂L/∂φ is 5·(7 + 15)/2 = 55 and 7·1/2 = 3.5.
    """
    expected = torch.tensor([55.0, 3.5], dtype=torch.float64)
    torch.testing.assert_close(scored(two_channels(), "gate_taylor"), expected)
    torch.testing.assert_close(scored(two_channels(gate=True), "gate_taylor"), expected)


def test_without_a_norm_the_layer_itself_gives_the_derivative_of_a_gate_behind_it() -> None:
    """relu(z) is (3, 0) and (7, 0): 5·(3 + 7)/2 = 25 and 0."""
    expected = torch.tensor([25.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(scored(two_channels(norm=False), "gate_taylor"), expected)
    torch.testing.assert_close(scored(two_channels(norm=False, gate=True), "gate_taylor"), expected)


def test_weight_taylor_by_hand() -> None:
    """Without norm, Σ p·∂L/∂p over a filter and its bias is the (25, 0) above; squared (625, 0).

    Behind a norm, ∂L/∂z is γ times 5 and 7 where the ReLU is open: z·∂L/∂z = 2·5·(3 + 7)/2 = 50 and 3·7·(−1)/2 = −10.5.
    """
    torch.testing.assert_close(scored(two_channels(norm=False), "weight_taylor"), torch.tensor([625.0, 0.0]).double())
    torch.testing.assert_close(scored(two_channels(), "weight_taylor"), torch.tensor([2500.0, 110.25]).double())


def test_absolute_values_are_taken_of_each_mini_batch_and_summed() -> None:
    model = two_channels(norm=False)
    with torch.no_grad():
        model.conv.bias.zero_()
    graph = trace(model, torch.zeros(2, 1, 1, 1))
    ones = torch.ones(1, 1, 1, 1)

    def signed(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (model(batch[0]) * batch[1]).mean()

    batches = [(ones, torch.ones(1)), (ones, -torch.ones(1))]
    once = score(graph, model, "gate_taylor", batches=batches[:1], loss=signed, only=["conv"])["conv"]
    both = score(graph, model, "gate_taylor", batches=batches, loss=signed, only=["conv"])["conv"]
    together = [(torch.cat([ones, ones]), torch.tensor([1.0, -1.0]))]
    assert torch.equal(both, 2 * once)  # 10 each
    assert once.tolist() == [10.0, 0.0]
    cancelled = score(graph, model, "gate_taylor", batches=together, loss=signed, only=["conv"])["conv"]
    assert cancelled.tolist() == [0.0, 0.0]
    averaged = score(graph, model, "weight_taylor", batches=batches, loss=signed, only=["conv"])["conv"]
    assert averaged.tolist() == [100.0, 0.0]


class Gated(nn.Module):
    """A norm and an explicit gate behind it."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm, self.gate = norm, Gate(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(self.norm(x))


def gated(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Gated(module, module.num_features))
    return model


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("combine", [None, "mean", "max", "l2"])
def test_the_score_from_scales_and_shifts_is_that_of_an_explicit_gate(mode: str, combine: str | None) -> None:
    plain, explicit = tiny_resnet().double(), gated(tiny_resnet()).double()
    batches = [(inputs.double(), labels) for inputs, labels in images(3)]
    settings = {"batches": batches, "loss": cross_entropy, "mode": mode, "combine": combine}
    without = score(trace(plain, batches[0][0]), plain, "gate_taylor", **settings)  # type: ignore[arg-type]
    behind = score(trace(explicit, batches[0][0]), explicit, "gate_taylor", **settings)  # type: ignore[arg-type]
    assert without.keys() == behind.keys()
    for name, values in without.items():
        torch.testing.assert_close(values, behind[name], rtol=1e-9, atol=1e-12)


def test_a_streams_score_is_the_sum_over_all_of_its_norms() -> None:
    model, batches = tiny_resnet(), images(2)
    scores = score(graph_of(model), model, "gate_taylor", batches=batches, loss=cross_entropy)
    norms = [model.bn1, model.layer1[0].bn2]
    expected = torch.zeros(4, dtype=torch.float64)
    for batch in batches:
        model.zero_grad()
        cross_entropy(model, batch).backward()
        for norm in norms:
            expected += (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs().detach()
    torch.testing.assert_close(scores["conv1"], expected, rtol=1e-5, atol=1e-9)
    inner = model.layer1[0].bn1
    assert scores["layer1.0.conv1"].shape == inner.weight.shape


def test_a_unit_of_several_channels_is_judged_as_a_whole() -> None:
    """A grouped convolution ties channel i of one half to channel i of the other: their derivatives add up first."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 1)
    )
    model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten(1)).eval()
    batches = images(1)
    scores = score(graph_of(model), model, "gate_taylor", batches=batches, loss=cross_entropy)
    cross_entropy(model, batches[0]).backward()
    norm, conv = model[1], model[3]
    products = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad
    torch.testing.assert_close(scores["0"], (products[:2] + products[2:]).abs().double(), rtol=1e-4, atol=1e-8)
    grouped = (conv.weight * conv.weight.grad).sum((1, 2, 3)) + conv.bias * conv.bias.grad
    torch.testing.assert_close(scores["3"], (grouped[:2] + grouped[2:]).abs().double(), rtol=1e-4, atol=1e-8)
    squared = score(graph_of(model), model, "weight_taylor", batches=batches, loss=cross_entropy, only=["3"])
    torch.testing.assert_close(squared["3"], scores["3"].square(), rtol=1e-4, atol=1e-10)


def test_scales_of_norms_by_hand() -> None:
    assert scored(two_channels(), "bn_scale").tolist() == [2.0, 3.0]
    model = tiny_resnet()
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        model.layer1[0].bn2.weight.copy_(torch.tensor([3.0, 0.0, -0.5, 1.0]))
    scores = score(graph_of(model), model, "bn_scale")
    assert scores["conv1"].tolist() == [2.0, 1.0, 0.5, 0.5]
    assert score(graph_of(model), model, "bn_scale", combine="max")["conv1"].tolist() == [3.0, 2.0, 0.5, 1.0]


def test_gates_are_the_scales_where_there_are_any() -> None:
    model = two_channels(gate=True)
    with torch.no_grad():
        model.gate.phi.copy_(torch.tensor([-0.25, 9.0]))
    assert scored(model, "bn_scale").tolist() == [0.25, 9.0]


def test_a_graph_from_before_the_gates_is_refused() -> None:
    graph = trace(two_channels(), torch.zeros(2, 1, 1, 1))
    with pytest.raises(PlanError, match=r"the gate gate.phi, but the graph does not; trace this model again"):
        score(graph, two_channels(gate=True), "gate_taylor", batches=SMALL, loss=mean_output)


def test_groups_without_a_norm_are_named_unless_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    graph = graph_of(model)
    with pytest.raises(
        UsageError,
        match=r"cannot score 1 group, because no norm .*: 2; .*only=.*missing='leave'.*--setting missing=leave",
    ):
        score(graph, model, "bn_scale")
    assert set(score(graph, model, "bn_scale", only=["0"])) == {"0"}
    assert set(score(graph, model, "bn_scale", missing="leave")) == {"0"}
    assert set(score(graph, model, "l1")) == {"0", "2"}
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    for missing in ("leave", "refuse"):
        # Nothing is left at all, so that leaving these whole is no advice.
        with pytest.raises(UsageError, match=r"cannot score any of 1 group.*; take another criterion .*gates") as met:
            score(graph_of(plain), plain, "bn_scale", missing=missing)  # type: ignore[arg-type]
        assert "leave" not in str(met.value)
        assert "only=" not in str(met.value)


def test_norms_of_other_libraries_and_frozen_ones() -> None:
    class OwnNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.tensor([2.0, -3.0])), nn.Parameter(torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight[:, None, None] + self.bias[:, None, None]

    model = two_channels()
    model.norm = OwnNorm()
    assert scored(model, "bn_scale").tolist() == [2.0, 3.0]
    frozen = two_channels()
    weight = frozen.norm.weight.detach()
    del frozen.norm.weight
    frozen.norm.register_buffer("weight", weight)
    with pytest.raises(UsageError, match="no norm with a scale"):
        scored(frozen, "bn_scale")


def test_an_own_criterion_of_gradients() -> None:
    largest = Criterion("largest", lambda values, gradients: gradients.abs().amax(1), "own", needs="gradients")
    model = two_channels(norm=False)
    assert scored(model, largest).tolist() == [10.0, 0.0]  # ∂L/∂w = 5·(1 + 3)/2, larger than ∂L/∂b = 5
    wrong = Criterion("wrong", lambda values, gradients: gradients.sum(), "own", needs="gradients")
    with pytest.raises(UsageError, match=r"gives shape \(\) for 2 channels"):
        scored(model, wrong)


def test_layers_that_no_batch_reaches_are_named_and_not_scored_zero() -> None:
    """Heads that only training uses, as GoogLeNet's: a score of zero would cut them first."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
            self.extra, self.extra_out = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            more = self.extra_out(self.extra(x)).mean((2, 3)) if self.training else 0.0
            return self.out(x).mean((2, 3)) + more

    model, batches = Auxiliary().train(), images(2)
    graph = graph_of(model)
    assert graph.group("extra").prunable
    for name in ("gate_taylor", "weight_taylor", "fisher"):
        with pytest.raises(UsageError, match=r"has run, or no gradient|no gradient has reached them: extra"):
            score(graph, model, name, batches=batches, loss=cross_entropy)
        found = score(graph, model, name, batches=batches, loss=cross_entropy, missing="leave")
        assert set(found) == {"conv"}
        assert set(score(graph, model, name, batches=batches, loss=cross_entropy, mode="train")) == {"conv", "extra"}
