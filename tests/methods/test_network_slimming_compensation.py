"""What a removed channel leaves behind, folded into what reads it: exactly without padding, and said so with it."""

import copy
from typing import Any

import pytest
import torch
from test_network_slimming_runs import QUICK, blobs_task, chain
from torch import nn

from secateur.errors import UsageError, VerificationError
from secateur.graph import apply, trace
from secateur.methods.network_slimming import NetworkSlimming
from secateur.methods.network_slimming.compensation import Compensated, compensate, require_exact, silence
from secateur.methods.network_slimming.scales import layers_of, scales_in
from secateur.training import Store


@pytest.mark.parametrize("bias", [True, False])  # folded into a bias, or into the running mean behind it
def test_compensation_is_exact_without_padding(bias: bool) -> None:
    model = chain(bias=bias)
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = trace(model, inputs)
    layers = layers_of(graph, scales_in(graph, model), streams=False)
    plan = NetworkSlimming(ratio=0.5).decide(graph, model, None)
    plain = apply(model, plan, verify_with=inputs)
    small = copy.deepcopy(plain)
    found = compensate(model, small, graph, plan, layers, inputs)
    require_exact(found)
    closed = copy.deepcopy(model)
    silence(closed, graph, plan, layers)
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), closed(inputs), rtol=1e-5, atol=1e-5)
        assert (plain(inputs) - closed(inputs)).abs().max() > 0.01  # what the paper's authors drop
    assert found.folded == ["4.weight", "9.weight"]
    assert model[1].weight.ne(0).all()  # the model itself is as it was


def test_compensation_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(1, 1)
    ).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 0.1]))
        model[1].bias.copy_(torch.tensor([0.0, 0.25]))
        model[3].weight.copy_(torch.arange(18.0).reshape(1, 2, 3, 3))
        model[3].bias.zero_()
    inputs = torch.randn(2, 1, 3, 3)
    graph = trace(model, inputs)
    plan = graph.plan({"0": [0]})
    small = apply(model, plan, verify_with=inputs)
    compensate(model, small, graph, plan, layers_of(graph, scales_in(graph, model), streams=False), inputs)
    # relu(β) = 0.25 times the sum of the nine weights of the second input, 9 + … + 17 = 117.
    assert small[3].bias.tolist() == pytest.approx([0.25 * 117])


def test_compensation_behind_padding_is_refused_or_noted() -> None:
    model, task = chain(padding=1), blobs_task()
    settings: dict[str, Any] = {"ratio": 0.5, "sparse_epochs": 1, "finetune_epochs": 0, "training": QUICK}
    with pytest.raises(UsageError, match=r"4\.weight exactly, because it pads with zeros; give compensation: everywh"):
        NetworkSlimming(**settings, compensation="exact").compress(model, task, None, store=Store.temporary())
    result = NetworkSlimming(**settings, compensation="everywhere").compress(model, task, None, store=Store.temporary())
    note = next(note for note in result.record.notes if note.startswith("compensation"))
    assert "folded into 2 layers; not exactly in 1 of them, which pad with zeros (4.weight)" in note
    assert result.record.trained_between_cuts  # the result is not the dense model cut
    circular = chain(padding=1)
    circular[4].padding_mode = "circular"
    circular[4]._reversed_padding_repeated_twice = [1, 1, 1, 1]
    result = NetworkSlimming(**settings, compensation="exact").compress(circular, task, None, store=Store.temporary())
    note = next(note for note in result.record.notes if note.startswith("compensation"))
    assert "not exactly" not in note
    assert "dropped" not in note


def test_a_compensation_that_is_not_exact_after_all_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"compensation is exact, but it is not: .* is 2\.0e-03"):
        require_exact(Compensated(folded=["a.weight"], difference=2e-3))
    with pytest.raises(VerificationError, match="dropped before 1"):
        require_exact(Compensated(left={"a.weight": "what it reads is not constant"}))


def test_a_reader_in_groups_is_left_alone_and_said_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(4 * 16, 2)).eval()
    with torch.no_grad():
        model[1].weight.uniform_(0, 1)
        model[1].bias.fill_(1.0)
    inputs = torch.randn(2, 1, 8, 8)
    graph = trace(model, inputs)
    plan = graph.plan({"0": [0, 2]})
    small = apply(model, plan, verify_with=inputs)
    found = compensate(model, small, graph, plan, layers_of(graph, scales_in(graph, model), streams=False), inputs)
    assert found.left == {"3.weight": "its channels are in 2 groups"}
    assert found.difference > 1e-3
    with pytest.raises(VerificationError):
        require_exact(found)
