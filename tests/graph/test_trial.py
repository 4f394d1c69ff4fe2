"""Shapes written in code: groups that a forward cannot follow are locked, those that integers explain are cut whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cutting import assert_exact, locked_reasons, prunable, random_plan
from torch import Tensor, nn
from torch.nn import functional

from secateur import load, save
from secateur.errors import ArtifactError
from secateur.graph import apply, narrowed, trace, verify
from secateur.graph import rebinding as rebinding_module
from secateur.graph import trial as trial_module
from secateur.graph.written_sizes import read_size, write_size, written_sizes


def images(size: int = 6) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """Three convolutions; between the second and the third the code may do what it likes."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 5, 3, padding=1)
        self.head = nn.Linear(5, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.between(self.second(functional.relu(self.first(x)))))
        return self.head(x.mean((2, 3)))


def swallowed(x: Tensor) -> Tensor:
    # Three channels and a third of the width: the -1 would take a lost channel without an error.
    return x.reshape(x.shape[0], -1, 4, 36).mean(2, keepdim=True).reshape(x.shape[0], -1, 6, 6).repeat(1, 4, 1, 1)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.view(x.shape[0], 8, -1).view(x.shape[0], 8, 6, 6),
        lambda x: torch.cat(x.split([4, 4], 1), 1),
        lambda x: x + torch.zeros(1, 8, 1, 1, device=x.device),
        lambda x: x.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6),
        lambda x: functional.group_norm(x, 8),
        lambda x: x[:, :8],
        lambda x: x.expand(2, 8, 6, 6),
        lambda x: functional.pad(x, (0, 0, 0, 0, 0, 16 - x.shape[1]))[:, :8],
        swallowed,
    ],
)
def test_a_size_written_in_code_locks_its_group_and_no_other(between: Any) -> None:
    model = Written(between).eval()
    graph, _, _ = assert_exact(model, images())
    assert prunable(graph) in ({"first", "third"}, {"first", "second", "third"})
    if "second" not in prunable(graph):
        assert "test_trial.py:" in locked_reasons(graph)["second"]


def test_the_reason_names_the_line_and_the_module() -> None:
    model = nn.Sequential(Written(lambda x: x.view(x.shape[0], 8, -1).view(x.shape[0], 8, 6, 6))).eval()
    reason = locked_reasons(trace(model, images()))["0.second"]
    line = model[0].between.__code__.co_firstlineno  # type: ignore[union-attr]
    assert reason == f"its size is written in the code of module '0' (test_trial.py:{line})"


def test_without_the_trial_only_the_proof_finds_it() -> None:
    model = Written(lambda x: x.view(x.shape[0], 8, -1).view(x.shape[0], 8, 6, 6)).eval()
    graph = trace(model, images(), trial=False)
    assert "second" in prunable(graph)
    plan = graph.plan({"second": range(7)})
    proof = verify(model, apply(model, plan, verify_with=None), plan, images())
    assert not proof.passed


@pytest.mark.parametrize(
    ("between", "asked"),
    [
        (lambda x: functional.relu(x) * torch.sigmoid(x.mean((2, 3), keepdim=True)), False),
        (lambda x: torch.flatten(x, 2).mean(2).unsqueeze(2).unsqueeze(3) + x, False),
        (lambda x: x.view(x.shape[0], x.shape[1], -1).mean(2)[:, :, None, None] + x, True),
        (lambda x: x * 0.5, True),
        (lambda x: functional.group_norm(x, 4), True),
        (lambda x: functional.layer_norm(x, x.shape[1:]), True),
    ],
)
def test_a_trial_is_run_only_where_code_may_have_a_size(
    between: Any, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    run = trial_module.Trials._run
    monkeypatch.setattr(trial_module.Trials, "_run", lambda *a, **k: counted.append(1) or run(*a, **k))
    trace(Written(between).eval(), images())
    assert bool(counted) == asked


class Attention(nn.Module):
    """Self-attention over positions whose code reads its own integers."""

    def __init__(self, width: int, heads: int, *, fused: bool = True) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, width // heads, width
        self.scale = self.head_dim**-0.5
        self.fused = fused
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = functional.scaled_dot_product_attention(q, k, v)
        else:
            x = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, self.attn_dim))


class Transformer(nn.Module):
    def __init__(self, *, fused: bool = True, widths: tuple[int, ...] = (12, 12)) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, widths[0], 2, stride=2)
        self.blocks = nn.Sequential(*(Attention(width, 3, fused=fused) for width in widths))
        self.head = nn.Linear(widths[-1], 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("fused", [True, False])
def test_heads_are_cut_whole_and_their_integers_change(fused: bool) -> None:
    model = Transformer(fused=fused).eval()
    graph, plan, small = assert_exact(model, images())
    group = graph.group("blocks.0.qkv")
    assert group.size == 3
    assert {member.parameter: int((member.units == 0).sum()) for member in group.members} == {
        "blocks.0.qkv.weight": 12,
        "blocks.0.qkv.bias": 12,
        "blocks.0.proj.weight": 4,
    }
    for block in small.blocks:  # type: ignore[union-attr]
        assert (block.num_heads, block.head_dim, block.attn_dim) == (2, 4, 8)
    assert model.blocks[0].num_heads == 3  # type: ignore[union-attr]
    assert graph.after(plan) == trace(small, images())
    with narrowed(model, plan):
        assert torch.allclose(model(images()), small(images()), atol=1e-6)
    assert model.blocks[0].attn_dim == 12  # type: ignore[union-attr]


def test_one_explanation_serves_all_blocks_of_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    explained = rebinding_module._Search._explained
    monkeypatch.setattr(rebinding_module._Search, "_explained", lambda *a: searched.append(a[2].name) or explained(*a))
    graph = trace(Transformer(widths=(12,) * 8).eval(), images())
    assert searched == ["blocks.0.qkv"]
    assert sum(entry.attribute == "num_heads" for entry in graph.attributes) == 8


def test_one_lock_serves_all_blocks_of_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[int] = []
    run = trial_module.Trials._run
    monkeypatch.setattr(
        trial_module.Trials, "_run", lambda *a, **k: ((k["within"] or whole.append(1)) and None) or run(*a, **k)
    )
    model = nn.Sequential(nn.Conv2d(3, 3, 1), *(Fixed() for _ in range(12)), nn.Conv2d(3, 2, 1)).eval()
    graph = trace(model, images())
    reasons = locked_reasons(graph)
    assert {f"{n}.inner" for n in range(1, 13)} <= set(reasons)
    assert "of module '7' " in reasons["7.inner"]
    assert len(whole) == 2  # what fails first, and what fits in the end; the rest runs block by block


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).view(x.shape[0], 4, *x.shape[2:]))


class Parts(nn.Module):
    """Splits into parts of sizes that it keeps in a tuple, and norms one by groups of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.split_sizes = (6, 6)
        self.width = 6
        self.enter, self.leave = nn.Conv2d(3, 12, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.enter(x).split(self.split_sizes, 1)
        return self.leave(first * torch.sigmoid(second).view(x.shape[0], self.width, *x.shape[2:])).mean((2, 3))


def test_entries_of_a_tuple_change_with_the_cut() -> None:
    model = Parts().eval()
    _, plan, small = assert_exact(model, images())
    left = len(plan.kept["enter"])
    assert small.split_sizes == (left, left)
    assert small.width == left
    assert model.split_sizes == (6, 6)


def test_a_trial_leaves_the_model_as_it_was() -> None:
    model = Transformer().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = [dict(vars(block)) for block in model.blocks]
    trace(model, images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [dict(vars(block)) for block in model.blocks] == sizes


def test_a_saved_model_has_its_integers_when_it_is_loaded(tmp_path: Path) -> None:
    model = Parts().eval()
    plan = random_plan(trace(model, images()))
    small = apply(model, plan, verify_with=images())
    save(small, tmp_path / "small.safetensors", plan=plan)
    again = load(Parts(), tmp_path / "small.safetensors")
    assert again.split_sizes == small.split_sizes
    assert torch.equal(again.eval()(images()), small(images()))


def test_a_file_cannot_make_an_integer_larger(tmp_path: Path) -> None:
    model = Parts().eval()
    plan = random_plan(trace(model, images()))
    save(apply(model, plan, verify_with=images()), tmp_path / "small.safetensors", plan=plan)
    narrow = Parts()
    narrow.width = 1
    with pytest.raises(ArtifactError, match="width"):
        load(narrow, tmp_path / "small.safetensors")


def test_written_sizes_are_plain_integers_above_one() -> None:
    module = nn.Module()
    module.num_heads, module.flag, module.one, module.ratio, module.sizes = 8, True, 1, 0.5, [3, 4]  # type: ignore[assignment]
    assert written_sizes(module) == {"num_heads": 8, "sizes[0]": 3, "sizes[1]": 4}
    shared = module.sizes
    write_size(module, "sizes[1]", 9)
    assert module.sizes == [3, 9]
    assert shared == [3, 4]
    assert read_size(module, "sizes[0]") == 3
    with pytest.raises(AttributeError, match=r"sizes\[2\]"):
        read_size(module, "sizes[2]")


class Positions(nn.Module):
    """Adds the first rows of a table that is longer than the example."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.table = nn.Parameter(torch.randn(1, rows, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).flatten(2).transpose(1, 2)
        return self.leave(functional.relu(y + self.table[:, : y.shape[1]]))


@pytest.mark.parametrize("rows", [40, 72, 100])
def test_rows_of_a_table_that_the_example_does_not_read_stay(rows: int) -> None:
    graph, plan, small = assert_exact(Positions(rows).eval(), images())
    assert set(plan.kept) == {"enter"}
    assert small.table.shape[1] == rows
    unread = [reason for name, reason in locked_reasons(graph).items() if name.startswith("table")]
    assert any("do not read" in reason or "not cut" in reason for reason in unread)


class Unaffine(nn.Module):
    """A norm without a weight of its own, whose number of channels nothing else tells."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(3, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(x.mean((2, 3)))))


def test_a_norm_without_a_weight_locks() -> None:
    assert "its size is written in the code" in str(trace(Unaffine().eval(), images()).group("enter").locked)


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.leave(torch.cat([y, y.new_zeros(y.shape[0], 12 - y.shape[1], *y.shape[2:])], 1))


def test_a_constant_that_fills_up_to_a_written_size_locks() -> None:
    assert prunable(trace(Constant().eval(), images())) == set()


class Exits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x) * 2
        if y.shape[1] != 8:
            raise SystemExit("unsupported width")
        return self.leave(y)


def test_a_model_that_ends_the_process_at_another_width_is_locked() -> None:
    assert "written in the code" in str(trace(Exits().eval(), images()).group("enter").locked)


def test_threads_that_trace_at_once_do_not_disturb_each_other() -> None:
    model, given = Transformer().eval(), images()
    expected = trace(model, given).digest()
    attention = functional.scaled_dot_product_attention
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ThreadPoolExecutor(4) as pool:
        models = [Transformer().eval() for _ in range(8)]
        found = list(pool.map(lambda other: trace(other, given).digest(), models))
    assert found == [expected] * 8
    assert functional.scaled_dot_product_attention is attention
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


class Stage(nn.Module):
    """Attention of another width in front of a convolution, so that no stream ties the heads of two stages."""

    def __init__(self, into: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(into, width, 1)
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        mixed = self.attention(x.flatten(2).transpose(1, 2))
        return x + mixed.transpose(1, 2).reshape(x.shape)


def test_heads_of_equally_many_are_each_explained_by_their_own_module() -> None:
    model = nn.Sequential(Stage(3, 12, 3), Stage(12, 24, 3), Stage(24, 6, 3)).eval()
    graph = trace(model, images())
    heads = {entry.module: graph.groups_of(entry.units) for entry in graph.attributes if entry.attribute == "num_heads"}
    assert {module: [group.name for group in groups] for module, groups in heads.items()} == {
        f"{n}.attention": [f"{n}.attention.qkv"] for n in range(3)
    }
    plan = graph.plan({"0.attention.qkv": [0, 2]})
    small = apply(model, plan, verify_with=images())
    assert [stage.attention.num_heads for stage in small] == [2, 3, 3]  # type: ignore[union-attr]


class Called(nn.Module):
    """Gives its attention a keyword, so that the call cannot be run on its positional arguments alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 2, stride=2)
        self.inner = Scaled(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return x + self.inner(x, scale=torch.ones(12).sum() / 12)


class Scaled(Attention):
    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale


def test_a_call_with_keywords_is_explained_by_what_lies_around_it() -> None:
    model = Called().eval()
    graph, _, small = assert_exact(model, images())
    assert graph.group("inner.qkv").size == 3
    assert small.inner.num_heads == 2  # type: ignore[union-attr]
