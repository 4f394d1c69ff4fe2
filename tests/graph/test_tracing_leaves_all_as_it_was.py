"""Tracing and masking change nothing of a model, whatever happens in its forward; what cannot be traced is refused."""

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cutting import Residual, images, random_plan
from torch import Tensor, nn
from torch.nn.modules import module as module_state

from secateur.errors import TraceError
from secateur.graph import masked, narrowed, trace


class Restless(Residual):
    """A forward that writes on everything it can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(2))
        self.table = nn.Embedding(4, 3, max_norm=0.1)
        self.plain = torch.ones(3)
        self.seen: list[int] = []
        self.cache: Tensor | None = None
        self.counts = {"calls": 0}
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.steps = self.steps * 2
        self.register_buffer("late", torch.zeros(1))
        self.seen.append(len(self.seen))
        self.counts["calls"] += 1
        self.plain.mul_(2)
        if self.cache is None:
            self.cache = torch.zeros_like(x)
        random.random()
        np.random.random()
        noise = torch.rand(())
        result = super().forward(x + self.cache) + self.table(torch.arange(3, device=x.device)).sum() + 0 * noise
        if self.fail:
            raise RuntimeError("on purpose")
        return result


def everything(model: nn.Module) -> dict[str, Any]:
    """Return bits and identities of all that a model holds."""
    held: dict[str, Any] = {}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, dict | list):
                held[f"{path}:{key}"] = copy.copy(value)
                held[f"{path}:{key}:ids"] = [
                    id(item) for item in (value.values() if isinstance(value, dict) else value)
                ]
            else:
                held[f"{path}:{key}"] = (id(value), value if isinstance(value, bool | int | str) else None)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        held[f"bits of {name}"] = (tensor.detach().clone().numpy().tobytes(), tensor.requires_grad, id(tensor.grad))
        if tensor.grad is not None:
            held[f"grad of {name}"] = tensor.grad.numpy().tobytes()
    held["hooks"] = [
        len(table) for table in (module_state._global_forward_hooks, module_state._global_forward_pre_hooks)
    ]
    held["attention"] = nn.functional.scaled_dot_product_attention
    held["random"] = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    held["grad mode"] = torch.is_grad_enabled()
    return held


def same(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    assert first.keys() == second.keys()
    return [key for key in first if not _equal(first[key], second[key])]


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(first[key] is second[key] for key in first)
    return bool(first == second)


def prepared(model: nn.Module) -> nn.Module:
    model.train()
    model.blocks[1].eval()
    model(images()).sum().backward()
    model.stem.register_forward_hook(lambda module, args, result: None)
    model.bn.register_forward_pre_hook(lambda module, args: None)
    model.head.weight.requires_grad_(False)
    return model


def test_trace_leaves_everything_bitwise() -> None:
    model = prepared(Residual())
    before = everything(model)
    graph = trace(model, images())
    assert same(before, everything(model)) == []
    with masked(model, random_plan(graph)):
        model(images())
    assert same(before, everything(model)) == []


@pytest.mark.parametrize("data_dependent", [False, True])
def test_a_forward_that_writes_on_its_model_is_undone(data_dependent: bool) -> None:
    class Real(Restless):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() < 1e9 else x

    model = (Real if data_dependent else Restless)().eval()
    before, plain = everything(model), model.plain.clone()
    graph = trace(model, images())
    assert same(before, everything(model)) == []
    assert torch.equal(model.plain, plain)
    with masked(model, random_plan(graph)):
        model(images())
    renormed = [key for key in same(before, everything(model)) if "table" not in key and key != "random"]
    assert renormed == []


def test_an_exception_in_forward_restores_all() -> None:
    model = Restless().train()
    plan = random_plan(trace(model, images()))
    model.fail = True
    before = everything(model)
    with pytest.raises(TraceError, match=r"does not run on example inputs of shape .*: on purpose"):
        trace(model, images())
    assert same(before, everything(model)) == []
    with pytest.raises(RuntimeError, match="on purpose"), masked(model, plan):
        model(images())
    renormed = [key for key in same(before, everything(model)) if "table" not in key and key != "random"]
    assert renormed == []
    before = everything(model)
    with pytest.raises(RuntimeError, match="expected input"), narrowed(model, plan):
        model.blocks(images())
    assert same(before, everything(model)) == []
    assert model.stem.out_channels == 8


def test_training_mode_runs_leave_batch_statistics() -> None:
    class Heads(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            y = torch.relu(self.bn(self.stem(x)))
            return (super().forward(x), self.aux(y.mean((2, 3)))) if self.training else super().forward(x)

    model = Heads()
    before = everything(model)
    assert trace(model, images()).train_mode
    assert same(before, everything(model)) == []


def test_gradients_and_versions_survive_between_forward_and_backward() -> None:
    model = Residual().train()
    loss = model(images()).sum()
    graph = trace(model, images())
    with masked(model, random_plan(graph)):
        model(images())
    loss.backward()  # raises if a saved tensor was written to
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_trace_holds_no_tensors_and_counts_the_same_at_any_batch() -> None:
    model = Residual().eval()
    for batch in (1, 4):
        graph, reference = trace(model, images(batch=batch)), trace(model, images())
        plan = random_plan(reference)
        assert graph.fingerprint == reference.fingerprint
        assert (graph.macs(plan), graph.params(plan)) == (reference.macs(plan), reference.params(plan))
        assert graph.activation_bytes(plan) == reference.activation_bytes(plan)


class Ddp(nn.parallel.DistributedDataParallel):
    """Looks like the wrapper, without a process group."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


def compiled_in_place() -> nn.Module:
    model = Residual()
    model.compile()
    return model


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Conv2d(3, 4, 1), images())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.DataParallel(Residual()), r"DataParallel wraps the model; pass its \.module"),
        (lambda: Ddp(Residual()), r"Ddp wraps the model; pass its \.module"),
        (lambda: torch.compile(Residual()), r"torch\.compile wraps the model"),
        (compiled_in_place, r"torch\.compile wraps the model"),
        (lambda: nn.Sequential(torch.compile(Residual())), r"torch\.compile wraps the model \(module '0'\)"),
        (scripted, "a ScriptModule has fixed shapes"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 1)), r"0\.weight has no shape yet; run the model once"),
    ],
)
def test_wrappers_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules warn that they are new
        model = build()
    with pytest.raises(TraceError, match=message):
        trace(model, images())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            torch.randn(2, 5, 8, 8),
            r"does not run on example inputs of shape \(2, 5, 8, 8\): .*; pass inputs of the shape",
        ),
        (torch.randn(8), r"does not run on example inputs of shape \(8,\)"),
        ((images(), images()), r"of shape \(2, 3, 8, 8\), \(2, 3, 8, 8\): .* 3 were given"),
        ({"y": images()}, "unexpected keyword argument 'y'"),
        ((), "holds no tensor"),
        ("an image", "example_inputs is a str"),
    ],
)
def test_wrong_inputs_are_refused_in_one_sentence(given: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        trace(Residual(), given)
    assert "\n" not in str(caught.value)


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Silent(Residual):
        def forward(self, x: Tensor) -> int:
            return len(super().forward(x))

    with pytest.raises(TraceError, match="Silent returns no tensor, but int"):
        trace(Silent(), images())


def test_vectors_of_another_size_than_the_channels_are_the_models_own_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5))
    with pytest.raises(TraceError, match="does not run on example inputs"):
        trace(model, images())
