"""The sandwich step: by hand on a two-layer network, against plain training, and in two real processes."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sandwich_processes import jointly_trained
from slimmable_networks import labels, photos, source, tiny_residual
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import DataError, PlanError, UsageError
from secateur.graph import ChannelGraph, apply, trace
from secateur.slimmable import Sandwich, batch_statistics, plan_of, width_space
from secateur.slimmable.sandwich import soft_cross_entropy
from secateur.training import SupervisedTask, TrainSettings

Array = NDArray[np.float64]


def two_layers() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def by_hand(model: nn.Module, units: int, x: Array, target: Array) -> tuple[float, dict[str, Array], Array]:
    """Return loss, gradients and logits of the network of ``units`` hidden units, with the formulas written out."""
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in model.parameters())
    a = x @ w1[:units].T + b1[:units]
    h = np.maximum(a, 0)
    z = h @ w2[:, :units].T + b2
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    loss = -(target * np.log(p)).sum(axis=1).mean()
    dz = (p - target) / len(x)
    da = (dz @ w2[:, :units]) * (a > 0)
    gradients = {name: np.zeros_like(parameter.detach().numpy()) for name, parameter in model.named_parameters()}
    gradients["2.weight"][:, :units] = dz.T @ h
    gradients["2.bias"][:] = dz.sum(axis=0)
    gradients["0.weight"][:units] = da.T @ x
    gradients["0.bias"][:units] = da.sum(axis=0)
    return float(loss), gradients, p


@pytest.mark.parametrize("distil", [True, False])
def test_loss_and_gradients_by_hand(distil: bool) -> None:
    model = two_layers()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([0, 1, 1, 0, 1])
    graph = trace(model, x)
    step = Sandwich(graph, width_space(graph, steps=4, multiple=1), samples=4, distil=distil)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = step(model, (x, y), optimizer)

    assert len(step.drawn) == 2
    units = [4, 1, *(widths["0"] for widths in step.drawn)]
    hard = np.eye(2)[y.numpy()]
    target, losses, gradients = hard, [], []
    for count in units:
        found, gradient, p = by_hand(before, count, x.numpy(), target)
        losses.append(found)
        gradients.append(gradient)
        if distil and count == units[0] and len(losses) == 1:
            target = p  # of the widest network, through which no gradient flows
    assert [float(value) for value in step.losses] == pytest.approx(losses, rel=1e-12)
    assert float(loss) == pytest.approx(sum(losses), rel=1e-12)
    for name, parameter in model.named_parameters():
        total = sum(gradient[name] for gradient in gradients)
        np.testing.assert_allclose(parameter.grad.numpy(), total, rtol=1e-10, atol=1e-14)
        old = before.get_parameter(name).detach().numpy()
        np.testing.assert_allclose(parameter.detach().numpy(), old - 0.1 * total, rtol=1e-10, atol=1e-14)


def test_one_network_is_plain_training_but_for_the_running_statistics() -> None:
    sandwiched, plain = tiny_residual().train(), tiny_residual().train()
    graph = trace(sandwiched, photos())
    before = copy.deepcopy(dict(sandwiched.named_buffers()))
    step = Sandwich(graph, width_space(graph), samples=1)
    loss = step(sandwiched, (photos(), labels()), torch.optim.SGD(sandwiched.parameters(), lr=0.1))
    expected = F.cross_entropy(plain(photos()), labels())
    expected.backward()
    assert torch.equal(loss, expected.detach())
    for ours, theirs in zip(sandwiched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    torch.testing.assert_close(dict(sandwiched.named_buffers()), before, rtol=0, atol=0)


def test_two_networks_are_the_widest_and_the_narrowest() -> None:
    model = tiny_residual().train()
    graph = trace(model, photos())
    space = width_space(graph)
    cut = apply(model, plan_of(graph, space.smallest()), verify_with=None).train()
    with torch.no_grad(), batch_statistics(model):
        teacher = model(photos())
    expected = soft_cross_entropy(cut(photos()), teacher, labels())
    step = Sandwich(graph, space, samples=2)
    step(model, (photos(), labels()), torch.optim.SGD(model.parameters(), lr=0.0))
    assert step.drawn == ()
    torch.testing.assert_close(step.losses[1], expected.detach(), rtol=1e-5, atol=1e-6)


def test_fixed_widths_have_the_largest_of_them_as_the_teacher() -> None:
    model = tiny_residual().train()
    graph = trace(model, photos())
    small, large = {"stem": 8, "expand": 8}, {"stem": 12, "expand": 16}
    step = Sandwich(graph, fixed=[small, large])
    step(model, (photos(), labels()), torch.optim.SGD(model.parameters(), lr=0.0))
    networks = [apply(model, plan_of(graph, widths), verify_with=None).train() for widths in (large, small)]
    logits = [network(photos()) for network in networks]
    expected = [F.cross_entropy(logits[0], labels()), soft_cross_entropy(logits[1], logits[0], labels())]
    for found, wanted in zip(step.losses, expected, strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-6)
    assert not model.stem.weight.grad[12:].any()


def test_the_tasks_own_loss_is_that_of_the_widest_network() -> None:
    settings = TrainSettings(batch_size=8, label_smoothing=0.1, augment=False)
    task = SupervisedTask(source(), settings=settings, device="cpu")
    model = tiny_residual().train()
    graph = trace(model, photos())
    step = Sandwich(graph, width_space(graph), loss=task.loss)
    step(model, (photos(), labels()), torch.optim.SGD(model.parameters(), lr=0.0))
    expected = F.cross_entropy(tiny_residual().train()(photos()), labels(), label_smoothing=0.1)
    torch.testing.assert_close(step.losses[0], expected.detach())


def test_the_others_compute_in_the_precision_of_the_widest() -> None:
    model = tiny_residual().train()
    graph = trace(model, photos())
    seen: list[torch.dtype] = []
    model.head.register_forward_hook(lambda module, inputs, result: seen.append(result.dtype))

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(network(batch[0]).float(), batch[1])

    step = Sandwich(graph, width_space(graph), loss=loss)
    found = step(model, (photos(), labels()), torch.optim.SGD(model.parameters(), lr=0.1))
    assert seen == [torch.bfloat16] * 4
    assert found.dtype == torch.float32
    assert torch.isfinite(found)


def test_pixels_without_a_class_teach_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 4, generator=generator)
    masks = torch.zeros(2, 4, 4, dtype=torch.long)
    masks[0] = 255
    expected = -(teacher[1].softmax(0) * student[1].log_softmax(0)).sum(0).mean()
    torch.testing.assert_close(soft_cross_entropy(student, teacher, masks), expected)


def graph_of_two_layers() -> ChannelGraph:
    return trace(two_layers(), torch.zeros(2, 3, dtype=torch.float64))


def test_mistakes_are_refused_before_any_step() -> None:
    graph = graph_of_two_layers()
    space = width_space(graph)
    other = trace(tiny_residual(), photos())
    for given in ({}, {"space": space, "fixed": [{"0": 2}]}):
        with pytest.raises(UsageError, match="either a space of widths to draw from or a list of fixed widths"):
            Sandwich(graph, **given)
    with pytest.raises(UsageError, match="samples is 0"):
        Sandwich(graph, space, samples=0)
    with pytest.raises(PlanError, match="were made for a model with fingerprint"):
        Sandwich(other, space)
    model = tiny_residual()
    with pytest.raises(PlanError, match="the plan was made for"):
        Sandwich(graph, space)(model, (photos(), labels()), torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_network_without_logits_is_refused_in_a_sentence() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = two_layers()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.layers(x)}

    model, x = Odd(), torch.zeros(2, 3, dtype=torch.float64)
    graph = trace(model, x)
    step = Sandwich(graph, width_space(graph))
    with pytest.raises(DataError, match=r"a dict with 'scores' \(2, 2\), but the step needs logits"):
        step(model, (x, torch.zeros(2, dtype=torch.long)), torch.optim.SGD(model.parameters(), lr=0.1))


def test_processes_draw_their_own_networks_and_stay_equal(tmp_path: Path) -> None:
    script = Path(__file__).with_name("sandwich_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, str(script), str(tmp_path)], env=environment, capture_output=True, timeout=400)
    assert done.returncode == 0, done.stderr.decode()
    drawn = [json.loads((tmp_path / f"drawn{rank}.json").read_text()) for rank in (0, 1)]
    assert len(drawn[0]) == len(drawn[1]) == 6
    assert sum(first != second for first, second in zip(*drawn, strict=True)) >= 5
    assert len({str(widths) for step in drawn[0] for widths in step}) > 6
    for kind in ("drawn", "fixed"):
        states = [load_file(tmp_path / f"{kind}{rank}.safetensors") for rank in (0, 1)]
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    alone = dict(jointly_trained().state_dict())
    torch.testing.assert_close(states[0], alone, rtol=1e-5, atol=1e-6)
    assert not torch.equal(load_file(tmp_path / "drawn0.safetensors")["stem.weight"], tiny_residual().stem.weight)
