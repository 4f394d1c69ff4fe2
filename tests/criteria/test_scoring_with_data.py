"""The verb ``score`` with batches: what it leaves untouched, what it refuses, and modes."""

import copy

import pytest
import torch
from scored_nets import cross_entropy, graph_of, images, tiny_resnet
from torch import nn

from secateur.criteria import CRITERIA, score
from secateur.errors import DataError, PlanError, UsageError

WITH_DATA = [name for name, criterion in CRITERIA.items() if criterion.needs_data]
WITH_LOSS = [name for name, criterion in CRITERIA.items() if criterion.needs_loss]


def everything(model: nn.Module) -> dict[str, object]:
    """All that scoring may not change, as plain values."""
    return {
        "tensors": {name: value.tolist() for name, value in model.state_dict().items()},
        "grads": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "identity": [id(p) for p in model.parameters()] + [id(b) for b in model.buffers()],
        "modes": [module.training for module in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", CRITERIA)
def test_scoring_leaves_the_model_as_it_was_to_the_bit(name: str, mode: str) -> None:
    model = tiny_resnet().train()
    model.layer1.eval()
    model.layer2[0].conv1.weight.requires_grad_(False)
    cross_entropy(model, images(1)[0]).backward()
    graph, batches = graph_of(model), images(2, seed=1)
    before = everything(model)
    scores = score(graph, model, name, batches=batches, loss=cross_entropy, mode=mode)  # type: ignore[arg-type]
    assert everything(model) == before
    assert {group.name for group in graph.groups if group.prunable} <= set(scores)
    for group_name, values in scores.items():
        assert values.shape == (graph.group(group_name).size,)
        assert values.dtype == torch.float64
        assert (values >= 0).all()
        assert (values > 0).any()
    again = score(graph, model, name, batches=batches, loss=cross_entropy, mode=mode)  # type: ignore[arg-type]
    assert all(torch.equal(scores[key], again[key]) for key in scores)


@pytest.mark.parametrize("name", ["gate_taylor", "fisher", "apoz"])
def test_the_model_is_put_back_when_the_loss_fails(name: str) -> None:
    model = tiny_resnet().train()
    before = everything(model)

    def fails(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        model(batch[0])
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        score(graph_of(model), model, name, batches=images(1), loss=fails, mode="train")
    assert everything(model) == before


@pytest.mark.parametrize("name", WITH_LOSS)
def test_only_what_is_looked_at_gets_gradients(name: str) -> None:
    model = tiny_resnet()
    trained: list[set[str]] = []

    def watched(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        trained.append({key for key, parameter in model.named_parameters() if parameter.requires_grad})
        return cross_entropy(model, batch)

    score(graph_of(model), model, name, batches=images(1), loss=watched)
    kinds = {key.rpartition(".")[0].rpartition(".")[2].rstrip("0123456789") for key in trained[0]}
    # Gates stand behind norms, also the one of the shortcut, whose name is its number in a sequence.
    expected = {"gate_taylor": {"bn", ""}, "weight_taylor": {"conv", ""}}.get(name, set())
    assert kinds == expected


def test_scores_are_the_same_under_no_grad_and_on_a_copy() -> None:
    model, batches = tiny_resnet(), images(2)
    graph = graph_of(model)
    ordinary = score(graph, model, "gate_taylor", batches=batches, loss=cross_entropy)
    with torch.no_grad():
        within = score(graph, copy.deepcopy(model), "gate_taylor", batches=batches, loss=cross_entropy)
    assert all(torch.equal(ordinary[key], within[key]) for key in ordinary)


def test_training_mode_uses_the_statistics_of_the_batch() -> None:
    model, batches = tiny_resnet(), images(2)
    graph = graph_of(model)
    scores = {
        mode: score(graph, model, "gate_taylor", batches=batches, loss=cross_entropy, mode=mode)  # type: ignore[arg-type]
        for mode in ("eval", "train")
    }
    assert not torch.allclose(scores["eval"]["conv1"], scores["train"]["conv1"], rtol=1e-2)


def test_dropout_is_drawn_from_the_seed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 3, 1), nn.Flatten(2))
    graph = graph_of(model)

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]).mean(2), batch[1])

    def scored(seed: int) -> torch.Tensor:
        torch.rand(1)  # the global state does not matter
        return score(graph, model, "fisher", batches=images(1), loss=loss, mode="train", seed=seed)["0"]

    assert torch.equal(scored(0), scored(0))
    assert not torch.equal(scored(0), scored(1))


def test_progress_is_told_after_each_batch() -> None:
    model, told = tiny_resnet(), []
    score(graph_of(model), model, "apoz", batches=iter(images(3)), progress=told.append)
    assert told == [1, 2, 3]


@pytest.mark.parametrize("name", WITH_DATA)
def test_missing_data_is_refused_before_anything_runs(name: str) -> None:
    model = tiny_resnet()
    graph = graph_of(model)
    with pytest.raises(UsageError, match=rf"'{name}' needs batches"):
        score(graph, model, name, loss=cross_entropy)
    with pytest.raises(DataError, match="got no batches"):
        score(graph, model, name, batches=[], loss=cross_entropy)
    with pytest.raises(DataError, match="batch 2 has no samples"):
        score(graph, model, name, batches=[*images(1), *images(1, 0)], loss=cross_entropy)
    with pytest.raises(DataError, match="batch 1 holds no tensor"):
        score(graph, model, name, batches=[("cat.jpg", 3)], loss=cross_entropy)  # type: ignore[list-item]


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_missing_or_senseless_loss_is_refused(name: str) -> None:
    model, batches = tiny_resnet(), images(1)
    graph = graph_of(model)
    with pytest.raises(UsageError, match=rf"'{name}' needs gradients of a loss"):
        score(graph, model, name, batches=batches)
    with pytest.raises(UsageError, match=r"must be one number, but is \(6, 3\)"):
        score(graph, model, name, batches=batches, loss=lambda model, batch: model(batch[0]))
    with pytest.raises(UsageError, match="must be one number, but is float"):
        score(graph, model, name, batches=batches, loss=lambda model, batch: 1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="does not depend on what criterion"):
        score(graph, model, name, batches=batches, loss=lambda model, batch: batch[0].mean())


@pytest.mark.parametrize("name", WITH_DATA)
def test_nan_is_refused(name: str) -> None:
    model = tiny_resnet()
    bad = images(1)
    bad[0][0][0, 0, 0, 0] = float("nan")
    # A NaN is no zero, so that the share of non-zeros is a number; but its loss is none.
    if CRITERIA[name].needs_loss:
        with pytest.raises(UsageError, match="the loss of batch 2 is nan"):
            score(graph_of(model), model, name, batches=[*images(1), *bad], loss=cross_entropy)
    elif name != "apoz":
        with pytest.raises(UsageError, match="not finite; weights, images or gradients"):
            score(graph_of(model), model, name, batches=bad)


def test_names_and_settings_are_checked() -> None:
    model = tiny_resnet()
    graph = graph_of(model)
    with pytest.raises(PlanError, match=r"did you mean 'layer1\.0\.conv1'"):
        score(graph, model, "l1", only=["layer1.0.conv"])
    with pytest.raises(UsageError, match=r"give a list of names, such as \['conv1'\]"):
        score(graph, model, "l1", only="conv1")
    locked = next(group.name for group in graph.groups if group.locked)
    with pytest.raises(UsageError, match="is not scored, because it cannot be cut"):
        score(graph, model, "l1", only=[locked])
    with pytest.raises(UsageError, match="did you mean 'train'"):
        score(graph, model, "apoz", batches=images(1), mode="training")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="did you mean 'leave'"):
        score(graph, model, "apoz", batches=images(1), missing="leaves")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="scored_by names weights"):
        score(graph, model, "bn_scale", scored_by={"conv1": "conv1.weight"})
    assert score(graph, model, "gate_taylor", batches=images(1), loss=cross_entropy, only=[]) == {}


def test_another_model_than_the_graph_s_is_refused() -> None:
    graph = graph_of(tiny_resnet())
    other = type(tiny_resnet())(8, shortcut="B", num_classes=3, stem_width=4, stage_widths=(4, 7, 8))
    for name in CRITERIA:
        if name != "random":
            with pytest.raises(PlanError, match="trace this model again"):
                score(graph, other, name, batches=images(1), loss=cross_entropy)


def test_one_weight_may_lead_its_group() -> None:
    model = tiny_resnet()
    graph = graph_of(model)
    led = score(graph, model, "l1", scored_by={"conv1": "layer1.0.conv2.weight"})["conv1"]
    torch.testing.assert_close(
        led, model.layer1[0].conv2.weight.detach().abs().sum((1, 2, 3)).double(), rtol=1e-5, atol=0
    )
    with pytest.raises(UsageError, match="unknown weight that produces group 'conv1'"):
        score(graph, model, "l1", scored_by={"conv1": "layer1.0.conv1.weight"})
