"""``apply`` and ``apply_``: what a cut model keeps of its original, and what is refused before anything changes."""

import copy
import functools
import gc
import weakref
from typing import Any

import pytest
import torch
import written_modules as w
from cutting import Residual, assert_same_state, images, random_plan, state_of
from torch import Tensor, nn

from secateur.errors import PlanError, SurgeryError, VerificationError
from secateur.graph import ChannelGraph, Plan, apply, apply_, trace


@pytest.fixture
def model() -> nn.Module:
    return Residual()


@pytest.fixture
def graph(model: nn.Module) -> ChannelGraph:
    return trace(model, images())


@pytest.fixture
def plan(graph: ChannelGraph) -> Plan:
    return random_plan(graph)


def test_the_original_is_untouched_and_the_copy_is_ordinary(model: nn.Module, plan: Plan) -> None:
    before = state_of(model)
    small = apply(model, plan, verify_with=images())
    assert_same_state(model, before)
    assert model.stem.out_channels == 8
    assert type(small) is Residual
    assert {type(module) for module in small.modules()} == {type(module) for module in model.modules()}
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in small.parameters()}
    small(images()).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name: tuple(value.shape) for name, value in small.state_dict().items()} == plan.shapes_after
    reloaded = copy.deepcopy(small)
    reloaded.load_state_dict(small.state_dict())


def test_values_are_slices(model: nn.Module, plan: Plan) -> None:
    small = apply(model, plan, verify_with=None).state_dict()
    for name, tensor in model.state_dict().items():
        for cut in plan.cuts_of.get(name, ()):
            tensor = tensor.index_select(cut.dim, torch.from_numpy(cut.kept))
        assert torch.equal(small[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    model = Residual().to(dtype).eval()
    given = images().to(dtype)
    plan = random_plan(trace(model, given))
    small = apply(model, plan, verify_with=given)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small(given).dtype == dtype


def test_memory_format_is_kept() -> None:
    for model, given, last in (
        (Residual().eval(), images(), torch.channels_last),
        (w.Volume().eval(), torch.randn(2, 2, 4, 4, 4), torch.channels_last_3d),
    ):
        model = model.to(memory_format=last)
        small = apply(model, random_plan(trace(model, given)), verify_with=given)
        for name, parameter in small.named_parameters():
            if parameter.dim() == given.dim():
                assert parameter.is_contiguous(memory_format=last), name
    plain = apply(Residual(), random_plan(trace(Residual(), images())), verify_with=None)
    assert all(parameter.is_contiguous() for parameter in plain.parameters())


def test_flags_and_marks_are_kept(model: nn.Module, plan: Plan) -> None:
    model.train()
    model.blocks[1].eval()
    model.stem.weight.requires_grad_(False)
    model.head.weight._no_weight_decay = True
    small = apply(model, plan, verify_with=images())
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert small.head.weight._no_weight_decay
    assert all(isinstance(parameter, nn.Parameter) for parameter in small.parameters())


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[int, ...]] = []

    def __call__(self, module: nn.Module, args: Any, result: Tensor) -> None:
        self.heard.append(tuple(result.shape))

    def method(self, module: nn.Module, args: Any, result: Tensor) -> None:
        self.heard.append(tuple(result.shape))


class WithMethodHook(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.stem.register_forward_hook(self.remember)
        self.last: Tensor | None = None
        self._register_load_state_dict_pre_hook(self.before_load)

    def remember(self, module: nn.Module, args: Any, result: Tensor) -> None:
        self.last = result

    def before_load(self, *args: Any) -> None:
        self.loaded = True


def test_hooks_go_along_by_reference(model: nn.Module, plan: Plan) -> None:
    heard: list[int] = []
    listener = Listener()

    def hook(module: nn.Module, args: Any, result: Tensor) -> None:
        heard.append(result.shape[1])

    handle = model.stem.register_forward_hook(hook)
    model.bn.register_forward_hook(listener)
    model.bn.register_forward_hook(listener.method)
    model.stem.register_forward_hook(functools.partial(hook))
    small = apply(model, plan, verify_with=None)
    assert next(iter(small.stem._forward_hooks.values())) is hook
    assert next(iter(small.bn._forward_hooks.values())) is listener
    small(images())
    assert heard == [small.stem.out_channels] * 2
    assert [shape[1] for shape in listener.heard] == [small.bn.num_features] * 2
    handle.remove()
    assert len(model.stem._forward_hooks) == 1


def test_hooks_that_are_methods_of_the_model_belong_to_the_copy() -> None:
    model = WithMethodHook()
    small = apply(model, random_plan(trace(model, images())), verify_with=images())
    model.last = None
    small(images())
    assert model.last is None
    assert small.last is not None
    small.load_state_dict(small.state_dict())
    assert small.loaded
    assert not hasattr(model, "loaded")


def capturing(value: Any) -> Any:
    def hook(module: nn.Module, args: Any, result: Tensor) -> None:
        _ = value

    return hook


@pytest.mark.parametrize(
    "hook",
    [
        lambda: capturing(torch.Size([2, 8, 8, 8])),
        lambda: capturing(torch.ones(8)),
        lambda: functools.partial(lambda mask, module, args, result: None, torch.ones(1, 8, 1, 1)),
        lambda: functools.partial(lambda module, args, result, mask: None, mask=torch.ones(8)),
        lambda: lambda module, args, result, mask=torch.ones(8): None,  # noqa: B008
    ],
)
def test_a_hook_that_holds_the_old_shape_is_refused_by_name(hook: Any, model: nn.Module, plan: Plan) -> None:
    model.stem.register_forward_hook(hook())
    before = state_of(model)
    for cut in (lambda: apply(model, plan, verify_with=None), lambda: apply_(model, plan)):
        with pytest.raises(SurgeryError, match=r"the hook .* on module 'stem' holds a (tensor|shape) of size \(.*8"):
            cut()
    assert_same_state(model, before)
    assert model.stem.out_channels == 8


def test_hooks_that_hold_something_else_are_fine(model: nn.Module, plan: Plan) -> None:
    model.stem.register_forward_hook(capturing(torch.ones(3)))
    model.head.register_forward_hook(capturing(torch.Size([2, 5])))
    assert apply(model, plan, verify_with=images()) is not model


def test_a_failed_proof_returns_nothing(model: nn.Module) -> None:
    class Fixed(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.bn(self.stem(x)))
            return self.head(x.view(2, 8, -1)[:, :, :16].flatten(1))

    fixed = Fixed().eval()
    plan = trace(fixed, images(), trial=False).plan({"stem": [0, 1, 2, 3]})
    with pytest.raises(VerificationError, match="the cut is refused: the cut model does not run"):
        apply(fixed, plan, verify_with=images())


def test_a_model_that_cannot_be_copied_is_cut_in_place_only(model: nn.Module, plan: Plan) -> None:
    class Lock:
        def __deepcopy__(self, memo: Any) -> None:
            raise TypeError("cannot copy a lock")

    model.lock = Lock()
    with pytest.raises(SurgeryError, match=r"cannot be copied .*cannot copy a lock.* use apply_"):
        apply(model, plan, verify_with=None)
    assert apply_(model, plan) is model


def test_other_references_to_a_parameter_follow(plan: Plan, model: nn.Module) -> None:
    model.all_weights = [model.stem.weight, model.head.weight]
    small = apply(model, plan, verify_with=images())
    assert small.all_weights[0] is small.stem.weight
    assert small.all_weights[1] is small.head.weight


def test_the_original_is_freed() -> None:
    model = Residual()
    small = apply(model, random_plan(trace(model, images())), verify_with=images())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    small(images())


# In place --------------------------------------------------------------------------------------------------------


def test_in_place_keeps_identity_and_cuts_gradients(model: nn.Module, plan: Plan) -> None:
    expected = apply(model, plan, verify_with=images())
    model.train()
    loss = model(images()).sum()
    loss.backward(retain_graph=True)
    modules, parameters = list(model.modules()), list(model.parameters())
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in model.state_dict().items() if "running" not in k}})
    assert apply_(model, plan) is model
    assert all(one is other for one, other in zip(modules, model.modules(), strict=True))
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    assert repr(model) == repr(expected)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(expected.named_parameters())[name])
        gradient = gradients[name]
        for cut in plan.cuts_of.get(name, ()):
            gradient = gradient.index_select(cut.dim, torch.from_numpy(cut.kept))
        assert torch.equal(parameter.grad, gradient)
    # The old graph is still alive here (`loss`), yet the next step works.
    model.zero_grad()
    model(images()).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    del loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_in_place_keeps_dtype_and_ties(dtype: torch.dtype) -> None:
    model = w.Tied().to(dtype).eval()
    given = images().to(dtype)
    apply_(model, random_plan(trace(model, given)))
    assert model.a.weight is model.b.weight
    assert model(given).dtype == dtype


def test_in_place_changes_nothing_when_it_refuses(model: nn.Module, plan: Plan) -> None:
    other = nn.Sequential(nn.Conv2d(3, 4, 1))
    before = state_of(other)
    with pytest.raises(PlanError):
        apply_(other, plan)
    assert_same_state(other, before)
    with torch.inference_mode():
        frozen = Residual()
    with pytest.raises(SurgeryError, match=r"made under torch\.inference_mode"):
        apply_(frozen, plan)
    assert frozen.stem.out_channels == 8
    assert apply(frozen, plan, verify_with=images()).stem.out_channels == 5


def test_an_empty_plan_copies(model: nn.Module, graph: ChannelGraph) -> None:
    same = apply(model, graph.plan({}), verify_with=images())
    assert_same_state(same, model.state_dict())
    assert same is not model


class KeepsBiases(nn.Module):
    """Adds a table of biases that it gathers once and keeps, as attention with relative positions does."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.biases = nn.Parameter(torch.randn(6, 4))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "KeepsBiases":
        super().train(mode)
        if mode:
            self.kept = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        bias = self.biases.sum(1) if self.training else self.kept.setdefault("bias", self.biases.sum(1))
        return self.leave(self.enter(x) + bias.view(-1, 1, 1)).mean((2, 3))


@pytest.mark.parametrize("used", [False, True])
def test_tensors_that_a_forward_has_kept_are_forgotten(used: bool) -> None:
    model = KeepsBiases().eval()
    if used:
        model(images())  # with gradients: what is kept cannot even be copied by torch
    graph = trace(model, images())
    assert {member.parameter for member in graph.group("enter").members} >= {"biases", "leave.weight"}
    small = apply(model, random_plan(graph), verify_with=images())
    assert not small.training
    assert ("bias" in model.kept) == used
    small(images())
