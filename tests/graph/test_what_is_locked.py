"""What cannot be cut is locked with a reason that names module and line; nothing is ever passed through on a guess."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cutting import assert_exact, images, locked_reasons, prunable
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from secateur.errors import PlanError, VerificationError
from secateur.graph import apply, trace, verify
from secateur.graph.rules import RULES, rule_for


class Between(nn.Module):
    """Two convolutions with any function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 6, after: int | None = None) -> None:
        super().__init__()
        self.a, self.function = nn.Conv2d(3, width, 1), function
        self.out = nn.Conv2d(after or width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(torch.relu(self.a(x)) + 0.1))


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: x.renorm(2, 1, 1.0), "renorm"),
        (lambda x: x.to(torch.complex64).view(torch.complex64).abs(), None),
        (lambda x: x.view(torch.int32).view(torch.float32) if x.numel() < 0 else x.view(torch.int32).float(), "view"),
        (lambda x: torch.repeat_interleave(x, 1, dim=1), None),
        (lambda x: torch.add(x, x, out=torch.empty_like(x)), "add"),
        (lambda x: x * x.masked_select(x > 0.2).sum(), "masked_select"),
    ],
)
def test_an_operator_without_a_rule_locks_and_is_counted(function: Any, operator: str | None) -> None:
    model = Between(function).eval()
    graph = trace(model, images())
    if operator is None:  # decomposes into operators that have rules, or is locked under another name
        if prunable(graph):
            assert_exact(model, images())
        return
    assert prunable(graph) == set()
    assert any(operator in name for name in graph.unknown_ops)
    reason = locked_reasons(graph)["a"]
    assert operator in reason
    assert "test_what_is_locked.py:" in reason


def test_the_reason_names_the_module() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Between(lambda x: x.renorm(2, 1, 1.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    assert "in module 'inner' (test_what_is_locked.py:" in locked_reasons(trace(Outer(), images()))["inner.a"]


def test_the_line_is_of_the_models_own_code_or_left_out() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    model = Outer()
    # Of a model of torch's modules alone, whoever calls trace is nobody's forward.
    for traced, expected in ((model, "test_what_is_locked.py:"), (model.inner, "")):
        graph = trace(traced, images())
        reason = next(reason for reason in locked_reasons(graph).values() if "reads the model's input" in reason)
        assert (f"({expected}" in reason) == (".py" in reason) == bool(expected)
        lines = {tie.line for tie in graph.ties}
        assert all(line.startswith(expected) for line in lines)
        assert lines == {""} or expected


def test_channels_before_a_slice_that_counts_from_the_end_are_cut() -> None:
    # The first two of six are read by nobody; that the slice begins earlier without them is what its code says.
    model = Between(lambda x: x[:, -4:], after=4).eval()
    graph = trace(model, images())
    assert [(group.name, group.size) for group in graph.groups if group.prunable] == [("a", 2)]
    small = apply(model, graph.plan({"a": [1]}), verify_with=None)
    assert torch.equal(small(images()), model(images()))


@pytest.mark.parametrize(
    ("function", "after", "reason"),
    [
        (lambda x: x[:, 1:4], 3, "size is written in"),
        (lambda x: x[:, ::2], 3, "sliced at fixed channels"),
        (lambda x: x[:, 2:3].expand(-1, 6, -1, -1), 6, "size is written in"),
        (lambda x: x[:, [0, 2, 4]], 3, "gathered at fixed channels"),
        (lambda x: x.index_select(1, torch.tensor([5, 1], device=x.device)), 2, "gathered at fixed channels"),
        (lambda x: torch.cat(x.split([2, 4], dim=1)[::-1], 1), 6, "size is written in"),
        (lambda x: torch.stack(x.unbind(1), 1), 6, "unbound channel by channel"),
        (lambda x: x.select(1, 3).unsqueeze(1).repeat(1, 6, 1, 1), 6, "indexed at a fixed channel"),
        (lambda x: x.sort(1)[0], 6, "ordered along channels"),
        (lambda x: x.topk(3, dim=1)[0], 3, "ordered along channels"),
        (lambda x: x.cumsum(1), 6, "ordered along channels"),
        (lambda x: F.pad(x, (0, 0, 0, 0, -1, 0)), 5, "cropped at a fixed channel"),
        (lambda x: x * torch.arange(1.0, 7.0, device=x.device).view(6, 1, 1), 6, "with a tensor that is not cut"),
        (lambda x: torch.zeros_like(x[:, :1]).expand(-1, 6, -1, -1) + x, 6, "broadcast against more channels"),
        (lambda x: torch.zeros(x.shape, device=x.device).copy_(x), 6, "written in place with a tensor that is not cut"),
        (lambda x: x.permute(0, 2, 3, 1).unfold(3, 6, 1).flatten(3).permute(0, 3, 1, 2), 6, "size is written in"),
        (lambda x: F.max_pool3d(x.unsqueeze(1), (2, 1, 1), stride=1)[:, 0], 5, "used as a dimension of space"),
    ],
)
def test_channels_at_fixed_places_are_locked(function: Any, after: int, reason: str) -> None:
    graph = trace(Between(function, after=after).eval(), images())
    assert "a" not in prunable(graph)
    assert reason in locked_reasons(graph)["a"]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.GroupNorm(1, 6, affine=False), "normalised across channels in 1 groups"),
        (nn.Softmax(1), "by a softmax"),
        (nn.Softmax2d(), "by a softmax"),
        (nn.LogSoftmax(-3), "by a softmax"),
        (nn.LocalResponseNorm(2), None),
    ],
)
def test_statistics_across_channels_are_approximate_and_left_alone(layer: nn.Module, reason: str | None) -> None:
    graph = trace(Between(layer).eval(), images())
    assert prunable(graph) == set()
    if reason is not None:
        assert reason in str(graph.group("a").approximate)
        with pytest.raises(PlanError, match="cannot be cut: normalised across channels"):
            graph.plan({"a": [0, 1]})


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(1, keepdim=True) * x,
        lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2),
        lambda x: x - x.amax(dim=-3, keepdim=True),
        lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True),
        lambda x: x / x.var(dim=1, keepdim=True).add(1),
        lambda x: x * x.max(1, keepdim=True)[0],
        lambda x: x * x.prod(1, keepdim=True),
        lambda x: x - x.logsumexp([1], keepdim=True),
        lambda x: x * x.argmax(1, keepdim=True),
        lambda x: x * x.mean(),
        lambda x: x * x.max(),
    ],
)
def test_reductions_over_channels_are_approximate_and_a_cut_that_does_not_say_so_is_refused(function: Any) -> None:
    model = Between(function).eval()
    graph = trace(model, images())
    assert graph.group("a").approximate is not None
    assert prunable(graph) == set()
    plan = graph.plan({"a": [0, 2, 3]}, allow_approximate=True)
    small = apply(model, plan, verify_with=images())
    proof = verify(model, small, plan, images())
    assert proof.verdict == "approximate", proof.sentence()
    assert proof.drift > 1e-3
    silent = replace(plan, approximate=())
    assert verify(model, small, silent, images()).verdict == "different"
    with pytest.raises(VerificationError, match="the cut is refused"):
        apply(model, silent, verify_with=images())


def test_a_sum_over_channels_is_exact() -> None:
    for function in (
        lambda x: x * x.sum(1, keepdim=True),
        lambda x: x * x.sum((1, 2), keepdim=True),
        lambda x: x * x.sum(),
        lambda x: x * torch.einsum("bchw,bchw->bhw", x, x).unsqueeze(1),
        lambda x: x @ (x.transpose(2, 3) @ x).softmax(-1),
    ):
        assert_exact(Between(function), images(), cut={"a"})


def test_gram_matrices_contract_space_and_pair_channels() -> None:
    def gram(x: Tensor) -> Tensor:
        rows = x.flatten(2)
        return (rows @ rows.transpose(1, 2) / 64.0 @ rows).view_as(x)

    assert_exact(Between(gram), images(), cut={"a"})


def test_layer_norm_groups_are_approximate() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)).eval()
    graph = trace(model, torch.randn(3, 4))
    assert "normalised across channels" in str(graph.group("0").approximate)
    plan = graph.plan({"0": [0, 1, 5]}, allow_approximate=True)
    small = apply(model, plan, verify_with=None)
    assert small[1].normalized_shape == (3,)
    assert verify(model, small, plan, torch.randn(3, 4)).verdict == "approximate"
    assert verify(model, small, replace(plan, approximate=()), torch.randn(3, 4)).verdict == "different"


def test_masks_of_booleans_take_as_many_dimensions_as_they_have() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            mask = torch.ones(y.shape[:2], dtype=torch.bool)
            over_channels = y[torch.ones(y.shape, dtype=torch.bool)].sum()
            return self.b(y[mask]) + over_channels

    graph = trace(Masked(), torch.randn(2, 5, 4))
    assert "gathered at fixed channels" in locked_reasons(graph)["a"]

    class Tokens(Masked):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            return self.b(y[torch.ones(y.shape[:2], dtype=torch.bool)])

    assert_exact(Tokens(), torch.randn(2, 5, 4), cut={"a"})


def test_multi_head_attention_is_never_silently_wrong() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.mlp, self.out = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.out(F.gelu(self.mlp(x + self.attention(x, x, x, need_weights=False)[0])))

    model, given = Encoder().eval(), torch.randn(2, 5, 4)
    graph = trace(model, given)
    assert graph.unreached == ()
    for name in prunable(graph):
        group = graph.group(name)
        if group.size < 2:
            continue
        plan = graph.plan({name: range(group.size - 1)})
        try:
            small = apply(model, plan, verify_with=given)
        except VerificationError:
            assert "attention" in " ".join(member.parameter for member in group.members)
        else:
            assert not any("attention" in member.parameter for member in group.members)
            assert small(given).shape == (2, 5, 3)
    assert "mlp" in prunable(graph)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    layered = trace(layer, given.repeat(1, 1, 2))
    assert "linear1" in prunable(layered)


def test_attention_imported_by_name_is_refused_rather_than_wrong() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.q, self.k, self.v = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.out = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.embed(x))
            return self.out(scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))

    model, given = Direct().eval(), torch.randn(2, 5, 4)
    graph = trace(model, given)
    if graph.group("q").prunable:
        with pytest.raises(VerificationError):
            apply(model, graph.plan({"q": [0, 1, 2]}), verify_with=given)


def test_a_write_into_a_slice_of_a_new_tensor_locks_what_is_written() -> None:
    def assembled(x: Tensor) -> Tensor:
        whole = torch.zeros(x.shape[0], 2 * x.shape[1], *x.shape[2:], device=x.device)
        whole[:, : x.shape[1]] = x
        whole[:, x.shape[1] :].add_(x)
        return whole

    assert "not cut" in locked_reasons(trace(Between(assembled, after=12).eval(), images()))["a"]

    def like(x: Tensor) -> Tensor:
        other = x.new_zeros(()) + torch.zeros_like(x)
        other[:, :] = x * 2
        other[..., 0].mul_(3)
        return other

    assert_exact(Between(like), images(), cut={"a"})


def test_shapes_changed_in_place_are_locked() -> None:
    def squeezed(x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).squeeze_(-1).unsqueeze_(-1)

    assert "squeeze" in locked_reasons(trace(Between(squeezed).eval(), images()))["a"]


def test_the_table_has_no_row_that_the_dispatcher_cannot_reach() -> None:
    assert [name for name in RULES if "::" not in name and not hasattr(torch.ops.aten, name)] == []
    assert rule_for(torch.ops.aten.view.dtype)[1] is None
    assert rule_for(torch.ops.aten.where.default)[1] is None
    assert rule_for(torch.ops.aten.where.self)[1] is not None
    assert rule_for(torch.ops.aten.add.out)[1] is None
    assert rule_for(torch.ops.aten.t_.default)[1] is None
    assert rule_for(torch.ops.aten.relu_.default) == ("relu", RULES["relu"])
    assert rule_for(torch.ops.aten.max.other)[1] is RULES["abs"]
    assert rule_for(torch.ops.aten.max.dim)[1] is RULES["amax"]
