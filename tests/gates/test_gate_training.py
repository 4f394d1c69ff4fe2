"""The hooks of Ticks and Tocks, by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.criteria import score
from secateur.errors import UsageError
from secateur.gates import Gates, TickScores, decorate, gate_penalty
from secateur.graph import trace
from secateur.models import build_model


class TwoChannels(nn.Module):
    """y = w · φ · x, channel by channel, so that every derivative can be had by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 2, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0], [1.0]]))
            self.head.weight.copy_(torch.tensor([[2.0, -3.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


def two_channels() -> tuple[nn.Module, Gates]:
    model = TwoChannels()
    gates = decorate(model, trace(model, torch.ones(2, 1)))
    with torch.no_grad():
        gates.parameters(model)[0].copy_(torch.tensor([0.5, 2.0]))
    return model, gates


def test_the_score_of_a_gate_by_hand() -> None:
    model, gates = two_channels()
    ticking = TickScores(gates)
    # L = mean of w·φ·x, so φ·∂L/∂φ = φ·w·mean(x): (1, −6)·mean(x).
    for batch in (torch.tensor([[1.0], [2.0]]), torch.tensor([[-1.0], [-3.0]])):
        model.zero_grad()
        model(batch).mean().backward()
        ticking.after_backward(model)
    # |1.5·(1, −6)| + |−2·(1, −6)|: absolute values per mini-batch; of the sum it would be 0.5·(1, 6), per sample 3.5·.
    torch.testing.assert_close(ticking.scores()["hidden"], torch.tensor([3.5, 21.0], dtype=torch.float64))


def test_scores_go_through_a_checkpoint() -> None:
    model, gates = two_channels()
    ticking, fresh = TickScores(gates), TickScores(gates)
    assert ticking.state_dict() == {}
    with pytest.raises(UsageError, match="has seen no mini-batch"):
        ticking.scores()
    model(torch.ones(2, 1)).mean().backward()
    ticking.after_backward(model)
    fresh.load_state_dict({name: value.clone() for name, value in ticking.state_dict().items()})
    ticking.after_backward(model)
    fresh.after_backward(model)
    assert torch.equal(ticking.scores()["hidden"], fresh.scores()["hidden"])
    assert ticking.state_dict()["sums"].dtype == torch.float64


def test_a_masked_gate_scores_nothing_and_an_overflowing_batch_counts_nothing() -> None:
    model, gates = two_channels()
    with torch.no_grad():
        model.get_buffer(gates.gates[0].mask)[1] = 0
    ticking = TickScores(gates)
    model(torch.ones(2, 1)).mean().backward()
    ticking.after_backward(model)
    model.zero_grad()
    model(torch.full((2, 1), float("inf"))).mean().backward()
    ticking.after_backward(model)
    assert ticking.scores()["hidden"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ["norms", "layers"])
def test_the_penalty_in_the_loss_equals_the_sub_gradient(name: str) -> None:
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(5)] if name == "norms" else []
    model = nn.Sequential(nn.Conv2d(3, 5, 3), *norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 4
    gates = decorate(model, trace(model, images))
    with torch.no_grad():
        gates.parameters(model)[0].copy_(torch.tensor([0.7, -0.4, 0.0, 1.3, -2.0]))
    stepped = []
    for form in ("sub-gradient", "loss"):
        copied = copy.deepcopy(model)
        optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
        hook = gate_penalty(gates, 0.3, form=form)  # type: ignore[arg-type]
        loss = F.cross_entropy(copied(images), labels)
        if form == "loss":
            loss = hook.loss(copied, (images, labels), loss)  # type: ignore[union-attr]
            gate = gates.parameters(model)[0].detach()
            bare = F.cross_entropy(model(images), labels)
            torch.testing.assert_close(loss, bare + 0.3 * gate.abs().sum())
        loss.backward()
        if form == "sub-gradient":
            hook.after_backward(copied)  # type: ignore[union-attr]
        optimizer.step()
        stepped.append(dict(copied.state_dict()))
    torch.testing.assert_close(stepped[0], stepped[1], rtol=1e-6, atol=1e-7)


def test_bad_penalties_are_refused() -> None:
    _, gates = two_channels()
    with pytest.raises(UsageError, match="at least 0 and finite"):
        gate_penalty(gates, -1.0)
    with pytest.raises(UsageError, match="did you mean 'loss'"):
        gate_penalty(gates, 1.0, form="los")  # type: ignore[arg-type]


def test_the_criterion_gives_the_scores_of_a_tick_with_gates_and_without() -> None:
    """γ·∂γ + β·∂β of every norm, φ·∂φ of every gate, and the hook in a loop agree on a residual network."""
    torch.manual_seed(0)
    model = build_model("digits-resnet").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name != "linear.bias":
                parameter.uniform_(0.5, 1.5)
    batches = [(torch.randn(6, 1, 8, 8), torch.arange(6)) for _ in range(3)]

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1])

    images = batches[0][0]
    graph = trace(model, images)
    without = score(graph, model, "gate_taylor", batches=batches, loss=loss)
    gates = decorate(model, graph)
    within = score(trace(model, images), model, "gate_taylor", batches=batches, loss=loss)
    ticking = TickScores(gates)
    for batch in batches:
        model.zero_grad()
        loss(model, batch).backward()
        ticking.after_backward(model)
    found = ticking.scores()
    assert set(found) == {group.name for group in graph.groups if group.prunable}
    for name, values in found.items():
        torch.testing.assert_close(without[name], values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(within[name], values, rtol=1e-4, atol=1e-5)
