"""Network Slimming with channel selections: streams are selected where they are read, as in the paper."""

import pytest
import torch
from test_network_slimming_runs import QUICK, blobs_task
from torch import nn

from secateur.cost import Budget
from secateur.graph import trace
from secateur.methods.network_slimming import NetworkSlimming
from secateur.methods.network_slimming.scales import norm_scales
from secateur.models.preact_resnet import PreActivationResNet
from secateur.training import Store


def preactivation() -> nn.Module:
    torch.manual_seed(0)
    model = PreActivationResNet(11, num_classes=2, in_channels=1, stem_width=4, widths=(3, 4, 5))
    with torch.no_grad():
        for name in norm_scales(model):
            model.get_parameter(name).uniform_(0.1, 1)
    return model.eval()


@pytest.mark.parametrize("budget", [None, Budget(macs=0.5)])
def test_selections_are_decided_by_the_norm_in_front(budget: Budget | None) -> None:
    model, task = preactivation(), blobs_task()
    graph = trace(model, task.example_inputs)
    method = NetworkSlimming(
        ratio=None if budget else 0.4, passes=2, sparse_epochs=1, finetune_epochs=1, training=QUICK
    )
    result = method.compress(model, task, budget, store=Store.temporary())
    selections = {entry.module for entry in graph.selections}
    assert result.plan.selected
    assert set(result.plan.selected) <= selections
    # Streams are selected where they are read and not cut; the middle of the blocks is cut.
    assert not any(graph.group(name).is_stream for name in result.plan.kept)
    first, second = result.record.steps
    assert selections <= set(first.scores)
    for name, entries in result.plan.selected.items():
        assert len(entries) == second.kept[name]
        assert result.model.get_submodule(name).indices.tolist() == list(entries)
    if budget is not None:
        assert graph.macs(result.plan) <= 0.5 * graph.macs()
    # The first pass by hand: one threshold for all γ, those in front of selections among them.
    else:
        values = sorted(value for scores in first.scores.values() for value in scores)
        limit = values[int(len(values) * 0.4)]
        assert first.kept == {
            name: max(1, sum(value > limit for value in scores)) for name, scores in first.scores.items()
        }
    norms = [module.num_features for module in result.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert max(norms) == max(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_without_selections_the_whole_stream_goes() -> None:
    model, task = preactivation(), blobs_task()
    graph = trace(model, task.example_inputs)
    plan = NetworkSlimming(ratio=0.2, selections=False, residual="group").decide(graph, model, None)
    assert any(graph.group(name).is_stream for name in plan.kept)
    inner = NetworkSlimming(ratio=0.2, selections=False).decide(graph, model, None)
    assert inner.kept
    assert not any(graph.group(name).is_stream for name in inner.kept)
    # Only what is cut goes from the selections that name it: the stem, which stage 1 does not add to.
    assert set(inner.selected) == ({"layer1.0.select"} if "conv1" in inner.kept else set())
