"""Residual blocks that go whole: found, dropped exactly, counted right, composed, saved."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cutting import count_macs, images, random_plan
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import export
from secateur.cost import Budget, allocate, size_bytes
from secateur.cost.size import dropped_header_bytes
from secateur.criteria import score, score_blocks
from secateur.errors import ArtifactError, BudgetError, PlanError, VerificationError
from secateur.graph import (
    ChannelGraph,
    Plan,
    apply,
    apply_,
    apply_to_optimizer,
    masked,
    narrowed,
    trace,
    verify,
)
from secateur.models import build_model
from secateur.torchvision_shim import import_torchvision


def conv(channels: int, out: int | None = None, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out or channels, size, padding=size // 2, groups=groups, bias=False)


class Network(nn.Module):
    """A stem, blocks in a row, and a head."""

    def __init__(self, *blocks: nn.Module, width: int = 8, rectify: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(conv(3, width), nn.BatchNorm2d(width), nn.ReLU() if rectify else nn.Identity())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Basic(nn.Module):
    def __init__(self, width: int = 8, tail: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            conv(width),
            nn.BatchNorm2d(width),
            conv(width),
            nn.BatchNorm2d(width),
        )
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x
        return self.tail(out)


class PreActivation(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), conv(width, 12)
        self.bn2, self.conv2 = nn.BatchNorm2d(12), conv(12, width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(F.relu(self.bn2(out)))


class TwoBranches(nn.Module):
    """Mixes space, then channels, as ConvNeXt's and MetaFormer's blocks do; with bare scales, permutes and a gate."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), conv(width, groups=width)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(width, size=1), nn.Sigmoid())
        self.up, self.act, self.down = nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.mix(x)
        x = x + out * self.gate(out)
        return x + self.down(self.act(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """A bare parameter in the branch, which is subtracted."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body, self.gamma = conv(width), nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.gamma * self.body(x)


class Projected(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body, self.shortcut = conv(width), conv(width, size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Long(nn.Module):
    """A block around blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(PreActivation(), PreActivation(), conv(8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "basic": (lambda: Network(Basic(), Basic()), ["blocks.0", "blocks.1"]),
    "basic, tail that changes x": (lambda: Network(Basic(tail=F.silu), Basic(tail=F.silu)), ["blocks.0", "blocks.1"]),
    "basic, x may be negative": (lambda: Network(Basic(), Basic(), rectify=False), ["blocks.0", "blocks.1"]),
    "pre-activation": (lambda: Network(PreActivation(), PreActivation(), rectify=False), ["blocks.0", "blocks.1"]),
    "two branches": (
        lambda: Network(TwoBranches(), TwoBranches()),
        ["blocks.0.mix", "blocks.0.up", "blocks.1.mix", "blocks.1.up"],
    ),
    "scaled": (lambda: Network(Scaled(), Scaled()), ["blocks.0", "blocks.1"]),
    "projected": (lambda: Network(Projected(), Basic()), ["blocks.1"]),
    "nested": (
        lambda: Network(Long(), Basic(), rectify=False),
        ["blocks.0.body.0", "blocks.0.body.1", "blocks.0", "blocks.1"],
    ),
    "resnet20": (lambda: build_model("resnet20"), [f"layer{s}.{b}" for s in (1, 2, 3) for b in range(s > 1, 3)]),
    "plain": (lambda: build_model("lenet5"), []),
}


def network(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    shape = {"plain": (1, 28), "resnet20": (3, 32)}.get(name, (3, 8))
    return NETWORKS[name][0]().eval(), images(shape[1], shape[0])


def dropped_exactly(model: nn.Module, graph: ChannelGraph, plan: Plan, x: Tensor) -> nn.Module:
    """Prove a plan, and compare the arithmetic of its costs with independent counts of the model that it leaves."""
    small = apply(model, plan, verify_with=None)
    proof = verify(model, small, plan, x)
    assert proof.verdict == "exact", proof.sentence()
    again = trace(small, x)
    assert graph.params(plan) == again.params() == sum(p.numel() for p in small.parameters())
    assert graph.macs(plan) == again.macs() == count_macs(small, x)
    assert graph.tensor_bytes(plan) == again.tensor_bytes()
    assert graph.activation_bytes(plan) == again.activation_bytes()
    assert set(plan.shapes_after) == {spec.name for spec in again.tensors}
    after = graph.after(plan)
    assert [(g.name, g.size) for g in after.groups] == [(g.name, g.size) for g in again.groups]
    assert after.fingerprint == again.fingerprint == plan.fingerprint_after
    return small


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_found_and_dropped_exactly(name: str) -> None:
    model, x = network(name)
    graph = trace(model, x)
    assert sorted(block.name for block in graph.blocks) == sorted(NETWORKS[name][1])
    assert all(block.locked is None for block in graph.blocks), [block.locked for block in graph.blocks]
    for chosen in ([block.name] for block in graph.blocks[:4]):
        small = dropped_exactly(model, graph, graph.drop_blocks(chosen), x)
        assert not set(graph.block(chosen[0]).tensors) & set(small.state_dict())
    if graph.blocks:
        dropped_exactly(model, graph, graph.drop_blocks(block.name for block in graph.blocks), x)


@pytest.mark.parametrize("name", ["basic", "two branches", "nested", "resnet20"])
def test_blocks_and_channels_go_together_in_any_order(name: str) -> None:
    model, x = network(name)
    graph = trace(model, x)
    names = [block.name for block in graph.blocks][::2]
    channels, blocks = random_plan(graph), graph.drop_blocks(names)
    both = graph.plan(channels.kept, blocks=names)
    dropped_exactly(model, graph, both, x)
    after_channels = channels.then(graph.after(channels).drop_blocks(names))
    rest = random_plan(graph.after(blocks))
    after_blocks = blocks.then(rest)
    assert after_channels == both == graph.compose(channels, graph.after(channels).drop_blocks(names))
    assert after_blocks == graph.compose(blocks, rest)
    one = apply(apply(model, blocks, verify_with=x), rest, verify_with=x)
    other = apply(model, after_blocks, verify_with=x)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert torch.equal(one(x), other(x))


def test_a_block_inside_another_goes_with_it() -> None:
    model, x = network("nested")
    graph = trace(model, x)
    outer = graph.drop_blocks(["blocks.0"])
    assert graph.drop_blocks(["blocks.0.body.1", "blocks.0"]) == outer
    inner = graph.drop_blocks(["blocks.0.body.1"])
    assert inner.then(graph.after(inner).drop_blocks(["blocks.0"])) == outer


def test_the_mask_is_the_branch_times_zero() -> None:
    model, x = network("pre-activation")
    graph = trace(model, x)
    with masked(model, graph.drop_blocks(["blocks.1"])):
        seen = model(x)
    with torch.no_grad():
        by_hand = model.head(model.blocks[0](model.stem(x)).mean((2, 3)))  # type: ignore[operator, index, union-attr]
    torch.testing.assert_close(seen, by_hand)
    assert not torch.allclose(seen, model(x))


def test_verify_refuses_what_is_not_the_masked_original() -> None:
    model, x = network("projected")
    graph = trace(model, x)
    good = graph.drop_blocks(["blocks.1"])
    # A forged plan that drops the block with a projection in its shortcut: skipping it is not x + 0.
    forged = replace(
        good,
        drops=(
            replace(
                good.drops[0],
                block="blocks.0",
                sum=replace(good.drops[0].sum, module="blocks.0", operand=1),
                replaced=(("blocks.0", "skip"),),
            ),
        ),
        gone=(),
    )
    with pytest.raises(VerificationError, match="differs from the masked original"):
        apply(model, forged, verify_with=x)
    # The right cut and the mask of another block.
    model, x = network("basic")
    graph = trace(model, x)
    small = apply(model, graph.drop_blocks(["blocks.0"]), verify_with=x)
    assert not verify(model, small, graph.drop_blocks(["blocks.1"]), x).passed
    still = verify(model, copy.deepcopy(model), graph.drop_blocks(["blocks.1"]), x)
    assert still.problem is not None
    assert "still has blocks.1." in still.problem


class Shared(nn.Module):
    """Two blocks with one convolution; a tap on a branch; a block whose attribute the parent reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), nn.Linear(8, 5)
        self.twice, self.tapped, self.read = conv(8), conv(8), Basic()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.twice(x)
        x = x + self.twice(x)
        branch = self.tapped(x)
        x = (x + branch) * branch.sigmoid()
        x = self.read(F.relu(x)) * self.read.conv1.groups
        return self.head(x.mean((2, 3)))


def test_what_cannot_be_dropped_says_why() -> None:
    torch.manual_seed(0)
    graph = trace(Shared().eval(), images())
    reasons = {block.name: block.locked for block in graph.blocks}
    assert "twice.weight is also read outside of it" in str(reasons["twice"])
    assert "does not run without it" in str(reasons["read"])
    assert "conv1" in str(reasons["read"])
    assert not any(name.startswith("tapped") for name in reasons)
    with pytest.raises(PlanError, match=r"'twice' cannot be dropped: twice\.weight"):
        graph.drop_blocks(["twice"])
    with pytest.raises(PlanError, match=r"no block 'raed'.*read|unknown block 'raed'.*read"):
        graph.drop_blocks(["raed"])


def test_writing_in_place_does_not_reach_the_shortcut() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.relu, self.body = nn.BatchNorm2d(8), nn.ReLU(inplace=True), conv(8)

        def forward(self, x: Tensor) -> Tensor:
            return F.silu(x + self.body(self.relu(self.norm(x))))

    model, x = Network(InPlace(), rectify=False).eval(), images()
    graph = trace(model, x)
    assert dict(graph.blocks[0].replaced) == {"blocks.0.norm": "zeros", "blocks.0.body": "identity"}
    dropped_exactly(model, graph, graph.drop_blocks(["blocks.0"]), x)


class Shifted(nn.Module):
    """Its ReLU does change x: what comes in was made negative again; zeros in its branch would not stay zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.offset = conv(8), conv(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x) - 1.0
        x = F.relu(x + self.inner(x))
        return F.silu(x + torch.sigmoid(self.offset(x)))


def test_what_zeros_and_rectifiers_do_is_followed_not_guessed() -> None:
    model, x = Network(Shifted()).eval(), images()
    graph = trace(model, x)
    first, second = graph.blocks
    assert first.replaced == (("blocks.0.inner", "zeros"),)
    assert second.locked == "zeros in its branch would not stay zeros up to the sum"
    dropped_exactly(model, graph, graph.drop_blocks([first.name]), x)


def test_torchvision_networks() -> None:
    models = import_torchvision().models
    torch.manual_seed(0)
    for name, count in {"resnet18": 5, "mobilenet_v2": 10, "densenet121": 0, "convnext_tiny": 18}.items():
        with torch.device("meta"):
            model = getattr(models, name)().eval()
        graph = trace(model, torch.empty(1, 3, 64, 64, device="meta"))
        assert len(graph.blocks) == count
        assert all(block.locked is None and block.replaced[0][1] == "skip" for block in graph.blocks)
    model, x = models.mobilenet_v2(width_mult=0.25).eval(), images(32)
    graph = trace(model, x)
    dropped_exactly(model, graph, graph.drop_blocks([block.name for block in graph.blocks[::2]]), x)


def test_plans_and_graphs_as_json() -> None:
    model, x = network("two branches")
    graph = trace(model, x)
    assert ChannelGraph.from_json(json.loads(json.dumps(graph.to_json()))).digest() == graph.digest()
    plan = graph.plan(random_plan(graph).kept, blocks=["blocks.0.up"])
    assert plan.dropped_blocks == ("blocks.0.up",)
    assert "blocks.0.up: dropped whole" in str(plan)
    data = json.loads(json.dumps(plan.to_json()))
    assert data["format"] == "secateur-plan-2"
    assert Plan.from_json(data) == plan
    assert random_plan(graph).to_json()["format"] == "secateur-plan-1"
    for change in (
        {"format": "secateur-plan-1"},
        {"drops": data["drops"] * 2},
        {"drops": [{**data["drops"][0], "replaced": {"": "skip"}}]},
        {"drops": [{**data["drops"][0], "replaced": {"blocks.0.up": "delete"}}]},
        {"drops": [{**data["drops"][0], "replaced": {"blocks.0.act": "skip"}}]},
        {"drops": [{**data["drops"][0], "replaced": {"blocks.1": "skip"}}]},
        {"gone": ["b", "a"]},
    ):
        with pytest.raises(PlanError):
            Plan.from_json({**data, **change})


def test_saved_models_load_bit_for_bit_and_run_in_onnx(tmp_path: Path) -> None:
    for name in ("two branches", "resnet20"):
        model, x = network(name)
        graph = trace(model, x)
        names = [block.name for block in graph.blocks[1::2]]
        plan = graph.plan(random_plan(graph).kept, blocks=names)
        small = apply(model, plan, verify_with=x)
        path = tmp_path / "small.safetensors"
        export.save(small, path, plan=plan)
        again = export.load(network(name)[0], path)
        assert list(again.state_dict()) == list(small.state_dict())
        assert torch.equal(again(x), small(x))
        assert export.inspect(path).plan == plan
        left = graph.without(names)
        predicted = size_bytes(left, left.kept_sizes(None)) + dropped_header_bytes(graph, names)
        whole = apply(model, graph.drop_blocks(names), verify_with=None)
        export.save(whole, path, plan=graph.drop_blocks(names))
        assert path.stat().st_size <= predicted
    pytest.importorskip("onnxruntime")
    assert export.export_onnx(small, tmp_path / "small.onnx", x).max_difference < 1e-5


def test_a_file_for_another_model_is_refused(tmp_path: Path) -> None:
    model, x = network("basic")
    plan = trace(model, x).drop_blocks(["blocks.0"])
    export.save(apply(model, plan, verify_with=x), tmp_path / "small.safetensors", plan=plan)
    with pytest.raises(ArtifactError):
        export.load(network("two branches")[0], tmp_path / "small.safetensors")
    with pytest.raises(ArtifactError):
        export.save(model, tmp_path / "other.safetensors", plan=plan)


@pytest.mark.parametrize("in_place", [False, True])
def test_an_optimiser_forgets_dropped_parameters(in_place: bool) -> None:
    model, x = network("basic")
    graph = trace(model, x)
    plan = graph.plan(random_plan(graph).kept, blocks=["blocks.1"])
    groups = [{"params": list(model.blocks.parameters())}, {"params": list(model.head.parameters())}]
    optimizer = torch.optim.Adam([*groups, {"params": list(model.stem.parameters())}], lr=0.01)
    model(x).square().sum().backward()
    optimizer.step()
    proved = apply(model, plan, verify_with=x)
    after = apply_(model, plan) if in_place else proved
    assert torch.equal(after(x), proved(x))
    apply_to_optimizer(optimizer, before=model, after=after, plan=plan)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in after.parameters()}
    assert set(optimizer.state) == set(held)
    after(x).square().sum().backward()
    optimizer.step()


def test_narrowed_runs_without_the_block_and_puts_it_back() -> None:
    model, x = network("two branches")
    graph = trace(model, x)
    plan = graph.plan(random_plan(graph).kept, blocks=["blocks.0.up"])
    small, before = apply(model, plan, verify_with=x), model(x)
    with narrowed(model, plan):
        torch.testing.assert_close(model(x), small(x))
        model(x).sum().backward()
    assert model.blocks[0].up.weight.grad is None
    assert model.head.weight.grad is not None
    assert torch.equal(model(x), before)


def test_budgets_are_met_by_blocks_alone_and_with_channels() -> None:
    model, x = network("resnet20")
    graph = trace(model, x)
    scores = score_blocks(graph, model, "l2")
    assert set(scores) == {block.name for block in graph.blocks}
    assert score_blocks(graph, model, "random", seed=1) != score_blocks(graph, model, "random", seed=2)
    order = sorted(scores, key=scores.__getitem__)
    for limit in (Budget(macs=0.7), Budget(params=0.8), Budget(size_bytes=0.8), Budget(macs=0.6, params=0.9)):
        plan = allocate(graph, {}, limit, blocks=scores)
        count = len(plan.dropped_blocks)
        assert set(plan.dropped_blocks) == set(order[:count])
        assert not plan.kept
        assert limit.met_by(graph.after(plan), graph)
        one_less = graph.after(graph.drop_blocks(order[: count - 1]))
        assert not limit.met_by(one_less, graph) or "size_bytes" in limit.given()
    both = allocate(graph, score(graph, model, "l1"), Budget(macs=0.5), blocks=scores)
    assert both.dropped_blocks
    assert both.kept
    assert 0.47 < graph.macs(both) / graph.macs() <= 0.5
    dropped_exactly(model, graph, both, x)
    kept_first = allocate(graph, {}, Budget(macs=0.8), blocks=scores, lock=[f"{order[0]}*"])
    assert order[0] not in kept_first.dropped_blocks
    with pytest.raises(BudgetError, match=r"Allow at least [\d,]+"):
        allocate(graph, {}, Budget(macs=0.01), blocks=scores)
    assert allocate(graph, {}, Budget(macs=1.0), blocks=scores).is_empty
    with pytest.raises(PlanError, match="NaN"):
        allocate(graph, {}, Budget(macs=0.5), blocks={order[0]: float("nan")})


def test_block_scores_by_hand() -> None:
    model, x = network("pre-activation")
    graph = trace(model, x)
    first, second = model.blocks[0].conv1.weight, model.blocks[0].conv2.weight  # type: ignore[union-attr, index]
    norms = [weight.detach().abs().sum((1, 2, 3)).double().mean() for weight in (first, second)]
    torch.testing.assert_close(
        torch.tensor(score_blocks(graph, model, "l1")["blocks.0"]), (sum(norms) / 2).float(), rtol=1e-5, atol=0
    )
    largest = score_blocks(graph, model, "l1", combine="max", only=["blocks.0"])
    assert largest == {"blocks.0": pytest.approx(float(max(norms)))}
