"""What a run keeps for its figures: how weights were spread, also where it trains before the first pruning."""

from pathlib import Path

import torch
from test_network_slimming_runs import blobs_task
from torch import nn

from secateur.cost import Budget
from secateur.methods import WeightsAndConnections
from secateur.record import ImageLayer
from secateur.sparse import histogram
from secateur.training import Store


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4))


def test_histograms_are_of_the_weights_right_before_the_first_pruning_and_at_the_end(tmp_path: Path) -> None:
    task, store = blobs_task(), Store(tmp_path)
    method = WeightsAndConnections(
        connect_epochs=1, finetune_epochs=1, allocation="global", activation_batches=1, cut_dead=False
    )
    images = task.example_inputs
    result = method.compress(perceptron(), task, Budget(nonzeros=0.3), store=store)
    found = result.record.weights
    assert found is not None
    assert result.masks is not None
    connected = store.phase("connect").load()
    assert connected is not None
    for entry in found.histograms:
        assert entry.dense == histogram(connected.weights[entry.layer])
        left = result.model.get_parameter(entry.layer)[result.masks[entry.layer]]
        assert entry.left == histogram(left)
    assert [entry.layer for entry in found.histograms] == ["1.weight", "3.weight"]
    assert found.image_layer == ImageLayer(layer="1.weight", shape=(1, images.shape[2], images.shape[3]))
    again = method.compress(perceptron(), blobs_task(), Budget(nonzeros=0.3), store=store)
    assert again.record.weights is not None
    assert again.record.weights.histograms == found.histograms, "a run that continues says the same"
