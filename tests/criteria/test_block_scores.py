"""Blocks scored by every criterion for channels."""

import pytest
import torch
from scored_nets import cross_entropy, graph_of, images

from secateur.criteria import CRITERIA, score_blocks
from secateur.errors import PlanError, UsageError
from secateur.models.cifar_resnet import CifarResNet


def deeper() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(14, shortcut="B", num_classes=3, stem_width=4, stage_widths=(4, 6, 8)).eval()


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_every_block_that_can_be_dropped(name: str) -> None:
    model = deeper()
    graph = graph_of(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scores = score_blocks(graph, model, name, batches=images(2), loss=cross_entropy)
    assert list(scores) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert all(value >= 0 for value in scores.values())
    assert len(set(scores.values())) == 4 or name == "bn_scale"  # all scales are 1
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    one = score_blocks(graph, model, name, batches=images(2), loss=cross_entropy, only=["layer2.1"])
    assert one == {"layer2.1": pytest.approx(scores["layer2.1"])}


def test_gate_taylor_of_a_block_is_that_of_its_norms() -> None:
    model, batch = deeper(), images(1)[0]
    scores = score_blocks(graph_of(model), model, "gate_taylor", batches=[batch], loss=cross_entropy)
    cross_entropy(model, batch).backward()
    model.requires_grad_(False)
    norms = (model.layer2[1].bn1, model.layer2[1].bn2)
    expected = sum(float((norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs().mean()) for norm in norms)
    assert scores["layer2.1"] == pytest.approx(expected, rel=1e-5)


def test_a_block_whose_branch_is_zeroed_scores_least() -> None:
    model = deeper()
    with torch.no_grad():
        model.layer2[1].bn2.weight.zero_()
        model.layer2[1].bn2.bias.zero_()
        model.layer2[1].bn1.weight.zero_()
        model.layer2[1].bn1.bias.zero_()
    for name in ("bn_scale", "gate_taylor"):
        scores = score_blocks(graph_of(model), model, name, batches=images(2), loss=cross_entropy)
        assert scores["layer2.1"] == 0 < min(value for key, value in scores.items() if key != "layer2.1")


def test_names_are_checked() -> None:
    model = deeper()
    graph = graph_of(model)
    with pytest.raises(PlanError, match=r"did you mean 'layer1\.1'"):
        score_blocks(graph, model, "l1", only=["layer1.11"])
    with pytest.raises(UsageError, match=r"give a list of names, such as \['layer1.1'\]"):
        score_blocks(graph, model, "l1", only="layer1.1")
    with pytest.raises(UsageError, match="'apoz' needs batches"):
        score_blocks(graph, model, "apoz")
    with pytest.raises(UsageError, match="did you mean 'sum'"):
        score_blocks(graph, model, "l1", combine="summ")  # type: ignore[arg-type]
