"""The engine sabotaged: rules are wrong, so plan and masks are wrong in the same way. ``verify`` must still refuse."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import written_modules as w
from cutting import images, random_plan
from torch import Tensor, nn

from secateur.errors import VerificationError
from secateur.graph import apply, surgery, trace, verify


def _identity(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    flow.give(result, flow.dims(args[0]) if result.dim() == args[0].dim() else (None,) * result.dim())


def _swapped_parts(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    axis = args[2] if len(args) > 2 else 0
    dims = flow.dims(args[0])
    pieces = np.split(dims[axis], len(result))
    for part, piece in zip(result, pieces[::-1], strict=True):
        flow.give(part, (*dims[:axis], piece, *dims[axis + 1 :]))


def _reversed_cat(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    dims = [flow.dims(tensor) for tensor in args[0]]
    joined = None if dims[0][1] is None else np.concatenate([d[1] for d in dims[::-1]])
    flow.give(result, (dims[0][0], joined, *dims[0][2:]))


def _shuffle_without_grouping(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    dims = flow.dims(args[0])
    out = None if dims[1] is None else np.ascontiguousarray(dims[1][:: args[1] ** 2])
    flow.give(result, (dims[0], out, None, None))


def _first_operand_only(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    flow.give(result, flow.dims(args[0]) if args[0].dim() == result.dim() else (None,) * result.dim())


def _interleaved(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    pairs = zip(flow.dims(args[0]), args[1], strict=True)
    flow.give(result, tuple(None if atoms is None else np.repeat(atoms, times) for atoms, times in pairs))


def _mean_as_if_exact(flow: Any, args: Any, kwargs: Any, result: Any) -> None:
    axes = {axis % args[0].dim() for axis in args[1]}
    flow.give(result, tuple(None if i in axes else dim for i, dim in enumerate(flow.dims(args[0]))))


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (
            torch.relu(self.a(x)).split(4, dim=1) if self.a.out_channels == 8 else self.a(x).relu().chunk(2, 1)
        )
        return self.b(first) + 2 * self.c(second)


class ChannelMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.out(x * x.mean(1, keepdim=True))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.a(x)).permute(0, 2, 3, 1).flatten(1))


class Sized(nn.Module):
    """Arithmetic that reads a size: the cut model divides by another number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.out(x / x.shape[1] ** 0.5)


class SwallowedChannel(nn.Module):
    """``view(-1, …)`` with a size written down: a lost channel turns into lost rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 4, 3), nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.a(x)).view(-1, 36)).view(-1, 4, 2).sum(1)


class ResidualAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(x) + self.a(x)))


def _unlocked(self: Any, atoms: Any, reason: str) -> None:
    del self, atoms, reason


ENGINES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any]]] = {
    "shuffle ignored": (w.ViewShuffle, images(), {"transpose": _identity, "view": _identity, "clone": _identity}),
    "permute ignored before a flatten": (Flat, images(), {"permute": _identity}),
    "cat the other way round": (w.UNet, images(), {"cat": _reversed_cat}),
    "pieces of a split swapped": (Split, images(), {"split": _swapped_parts}),
    "pixel shuffle without grouping": (w.PixelShuffle, images(), {"pixel_shuffle": _shuffle_without_grouping}),
    "residual addition not tied": (ResidualAdd, images(), {"add": _first_operand_only}),
    "gates not tied": (w.SqueezeExcite, images(), {"mul": _first_operand_only}),
    "mean over channels taken as exact": (ChannelMean, images(), {"mean": _mean_as_if_exact}),
    "batch norm ignored": (w.Multiplier, images(), {"native_batch_norm": lambda flow, args, kwargs, result: flow.give(
        result[0], flow.dims(args[0]))}),
    "arithmetic reads a size": (Sized, images(), {}),
    "a channel swallowed by view": (SwallowedChannel, images(), {}),
    "flip ignored": (w.Gathered, images(), {"flip": _identity}),
    "repeat taken for interleave": (w.Gathered, images(), {"repeat": _interleaved}),
}  # fmt: skip


@pytest.fixture
def fresh_rules() -> Iterator[None]:
    from secateur.graph import rules

    rules.rule_for.cache_clear()
    yield
    rules.rule_for.cache_clear()


@pytest.mark.parametrize("name", ENGINES)
def test_a_sabotaged_engine_is_refused(name: str, monkeypatch: pytest.MonkeyPatch, fresh_rules: None) -> None:
    from secateur.graph import rules

    build, given, changed = ENGINES[name]
    for operator, rule in changed.items():
        monkeypatch.setitem(rules.RULES, operator, rule)
    model = build().eval()
    graph = trace(model, given, trial=False)
    plan = random_plan(graph)
    assert plan.kept, "nothing was cut, so nothing was put to the test"
    proof = verify(model, apply(model, plan, verify_with=None), plan, given)
    assert proof.verdict == "different", proof.sentence()
    with pytest.raises(VerificationError):
        apply(model, plan, verify_with=given)


def test_attention_with_its_scale_lock_sabotaged_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.graph.flow import Flow

    monkeypatch.setattr(Flow, "lock", _unlocked)
    model, given = w.Attention(None).eval(), torch.randn(2, 5, 4)
    plan = trace(model, given).plan({"q": [0, 3, 4, 7]})
    assert verify(model, apply(model, plan, verify_with=None), plan, given).verdict == "different"


@pytest.mark.parametrize(
    ("engine", "build", "kept"),
    [
        ("_tie_whole_groups", w.Multiplier, {"a": [0, 2, 3]}),
        ("_tie_whole_groups", w.Multiplier, {"wide": [0, 2, 3, 5, 6, 7]}),
        ("_tie_across_groups", lambda: w.Grouped(2), {"grouped": [0, 1, 2, 3, 4, 5, 8, 9]}),
        ("_lock_inner", lambda: w.Grouped(8), {"grouped": [0]}),
    ],
)
def test_grouped_convolutions_with_their_ties_sabotaged_away(
    engine: str, build: Callable[[], nn.Module], kept: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.graph.rules import convolution

    monkeypatch.setattr(convolution, engine, lambda *args: None)
    model = build().eval()
    plan = trace(model, images(), trial=False).plan(kept)
    proof = verify(model, apply(model, plan, verify_with=None), plan, images())
    assert proof.verdict == "different", proof.sentence()


def test_the_number_of_groups_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = w.Multiplier().eval()
    graph = trace(model, images(), trial=False)
    plan = random_plan(graph)
    kept = surgery.integer_attributes
    monkeypatch.setattr(
        surgery,
        "integer_attributes",
        lambda *args: {
            path: {k: v for k, v in values.items() if k != "groups"} for path, values in kept(*args).items()
        },
    )
    proof = verify(model, apply(model, plan, verify_with=None), plan, images())
    assert proof.verdict == "different"
    assert "does not run" in str(proof.problem)
