"""Scores gathered by a hook of ordinary training: equal to those by hand, continued, and over processes."""

import socket
from pathlib import Path

import pytest
import torch
from own_process import run, run_here, start
from safetensors.torch import load_file
from scored_nets import TwoChannels, cross_entropy, graph_of, images, tiny_resnet
from torch import nn

from secateur.criteria import CRITERIA, Accumulator, score
from secateur.errors import TrainingError, UsageError

SCRIPT = Path(__file__).with_name("scored_run.py")
WITH_DATA = [name for name, criterion in CRITERIA.items() if criterion.needs_data]


def train(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], *hooks: Accumulator, rate: float) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    for batch in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        for hook in hooks:
            loss = hook.loss(model, batch, loss)
        loss.backward()
        for hook in hooks:
            hook.after_backward(model)
        optimizer.step()


@pytest.mark.parametrize("name", CRITERIA)
def test_steps_that_change_nothing_give_the_scores_of_the_verb(name: str) -> None:
    model, batches = tiny_resnet(), images(3)
    graph = graph_of(model)
    with Accumulator(graph, model, name, seed=5) as accumulator:
        train(model, batches, accumulator, rate=0.0)
    expected = score(graph, model, name, batches=batches, loss=cross_entropy, seed=5)
    found = accumulator.scores()
    assert found.keys() == expected.keys()
    for key, values in found.items():
        torch.testing.assert_close(values, expected[key], rtol=1e-4, atol=1e-9)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_hooks_do_not_change_what_is_trained() -> None:
    plain, watched = tiny_resnet().train(), tiny_resnet().train()
    train(plain, images(4), rate=0.1)
    graph = graph_of(watched)
    with Accumulator(graph, watched, "fisher") as one, Accumulator(graph, watched, "apoz") as two:
        train(watched, images(4), one, two, rate=0.1)
    torch.testing.assert_close(dict(plain.state_dict()), dict(watched.state_dict()), rtol=0, atol=0)


def test_weights_that_move_are_scored_as_they_were_at_each_step() -> None:
    model, batches = tiny_resnet().train(), images(3)
    accumulator, by_hand = Accumulator(graph_of(model), model, "gate_taylor"), torch.zeros(4, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm = model.layer1[0].bn1
    for batch in batches:
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        accumulator.after_backward(model)
        by_hand += (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs().detach()
        optimizer.step()
    torch.testing.assert_close(accumulator.scores()["layer1.0.conv1"], by_hand, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["fisher", "apoz", "mean_activation"])
def test_evaluations_between_steps_do_not_count(name: str) -> None:
    model, batches = tiny_resnet(), images(3)
    graph = graph_of(model)
    with Accumulator(graph, model, name) as accumulator, torch.no_grad():
        model(batches[2][0])
        with torch.enable_grad():
            train(model, batches[:2], accumulator, rate=0.0)
        model(batches[2][0])
    expected = score(graph, model, name, batches=batches[:2], loss=cross_entropy)
    for key, values in accumulator.scores().items():
        torch.testing.assert_close(values, expected[key], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", ["activation_taylor_raw", "fisher", "gate_taylor"])
def test_a_scaled_loss_gives_the_scores_of_the_plain_one_and_overflows_do_not_count(name: str) -> None:
    """What GradScaler does: multiplies the loss, divides the gradients of parameters, and skips what overflows."""
    model, batches = tiny_resnet(), images(3)
    graph = graph_of(model)
    with Accumulator(graph, model, name) as accumulator:
        for number, batch in enumerate(batches):
            model.zero_grad()
            loss = accumulator.loss(model, batch, cross_entropy(model, batch))
            scale = float("inf") if number == 1 else 1024.0
            (loss * scale).backward()
            for parameter in model.parameters():
                parameter.grad /= scale
            accumulator.after_backward(model)
    expected = score(graph, model, name, batches=[batches[0], batches[2]], loss=cross_entropy)
    for key, values in accumulator.scores().items():
        torch.testing.assert_close(values, expected[key], rtol=1e-4, atol=1e-12)


def test_frozen_convolutions_are_no_hindrance_to_gates_behind_norms() -> None:
    model, batches = tiny_resnet().train(), images(2)
    graph = graph_of(model)
    free = score(graph, model, "gate_taylor", batches=batches, loss=cross_entropy, mode="train")
    fisher = score(graph, model, "fisher", batches=batches, loss=cross_entropy, mode="train")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.requires_grad_(False)
    with Accumulator(graph, model, "gate_taylor") as taylor, Accumulator(graph, model, "fisher") as readings:
        train(model, batches, taylor, readings, rate=0.0)
    for expected, found in ((free, taylor.scores()), (fisher, readings.scores())):
        for key, values in found.items():
            torch.testing.assert_close(values, expected[key], rtol=1e-4, atol=1e-9)
    weights = Accumulator(graph, model, "weight_taylor")
    with pytest.raises(UsageError, match=r"needs the gradient of conv1.weight, which is frozen; .*gates"):
        train(model, batches, weights, rate=0.0)


def test_what_was_seen_goes_into_a_checkpoint_and_back() -> None:
    model, batches = tiny_resnet(), images(4)
    graph = graph_of(model)
    for name in WITH_DATA:
        with Accumulator(graph, model, name) as whole:
            train(model, batches, whole, rate=0.0)
        with Accumulator(graph, model, name) as first:
            train(model, batches[:2], first, rate=0.0)
        saved = {key: value.clone() for key, value in first.state_dict().items()}
        assert all(value.dtype == torch.float64 for value in saved.values())
        with Accumulator(graph, model, name) as second:
            second.load_state_dict(saved)
            train(model, batches[2:], second, rate=0.0)
        assert all(torch.equal(whole.scores()[key], values) for key, values in second.scores().items())
    other = Accumulator(graph, model, "fisher", only=["conv1"])
    with pytest.raises(TrainingError, match="continue with the model and settings that began the run"):
        other.load_state_dict(saved)
    other.load_state_dict({})  # a phase that began without this hook


def test_nothing_seen_is_an_error_and_not_zero() -> None:
    model = tiny_resnet()
    graph = graph_of(model)
    for name in WITH_DATA:
        with pytest.raises(UsageError, match="has seen no mini-batch"):
            Accumulator(graph, model, name).scores()
        with pytest.raises(UsageError, match=r"finds no gradient in the model|has seen nothing of this mini-batch"):
            train(tiny_resnet(), images(1), Accumulator(graph, model, name), rate=0.0)
    assert Accumulator(graph, model, "l1").scores()["conv1"].shape == (4,)


def test_not_finite_steps_are_told_at_the_end() -> None:
    model = TwoChannels()
    accumulator = Accumulator(graph_of(model, channels=1), model, "gate_taylor")
    (model(torch.full((2, 1, 4, 4), float("nan")))).mean().backward()
    accumulator.after_backward(model)
    with pytest.raises(UsageError, match="not finite"):
        accumulator.scores()


def test_a_killed_run_continues_to_the_same_scores_and_two_processes_score_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    unbroken, continued, together = (tmp_path / name for name in ("one", "other", "two"))
    run_here(SCRIPT, tmp_path / "a", unbroken)
    run(SCRIPT, tmp_path / "b", continued, 7, killed=True)  # in the second epoch, behind a checkpoint
    run(SCRIPT, tmp_path / "b", continued)
    assert continued.read_bytes() == unbroken.read_bytes()
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pair = [start(SCRIPT, tmp_path / "c", together, RANK=rank, LOCAL_RANK=rank, **shared) for rank in (0, 1)]
    for process in pair:
        process.end()
    alone = load_file(unbroken)
    for name, values in load_file(together).items():
        torch.testing.assert_close(values, alone[name], rtol=1e-3, atol=1e-7, msg=lambda text, name=name: name + text)
