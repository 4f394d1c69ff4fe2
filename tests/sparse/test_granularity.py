import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.sparse import Granularity, by_share, prunable_weights
from secateur.sparse.granularity import as_filters, best_of_each, from_filters


def test_granularities_are_read() -> None:
    assert Granularity.parse("kernel") == Granularity("kernel")
    assert Granularity.parse("block(4, 2)") == Granularity("block", rows=4, columns=2)
    assert Granularity.parse("2:4") == Granularity("n:m", n=2, m=4)
    assert Granularity.parse(Granularity("row")) == Granularity("row")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kernal", "did you mean 'kernel'"),
        ("4:4", "needs 1 ≤ n < m"),
        ("0:4", "needs 1 ≤ n < m"),
        ("block(0,2)", "blocks without weights"),
        ("2:4:8", "unknown granularity"),
    ],
)
def test_granularities_that_make_no_sense_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Granularity.parse(text)


def mask_by_hand(weight: Tensor, share: float, granularity: str) -> Tensor:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return by_share(layer, share, granularity=granularity)["weight"]


WEIGHT = torch.tensor([[[[5.0, -1.0]], [[2.0, 2.0]]], [[[0.0, 3.0]], [[9.0, -9.0]]]])  # (2, 2, 1, 2)


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("weight", [[[[1, 0]], [[0, 0]]], [[[0, 1]], [[1, 1]]]]),
        ("kernel", [[[[1, 1]], [[0, 0]]], [[[0, 0]], [[1, 1]]]]),  # |5|+|1| and 18 beat 4 and 3
        ("row", [[[[0, 0]], [[0, 0]]], [[[1, 1]], [[1, 1]]]]),  # 21 beats 10
        ("column", [[[[0, 0]], [[1, 1]]], [[[0, 0]], [[1, 1]]]]),  # 22 beats 9
        ("block(2,1)", [[[[0, 0]], [[1, 1]]], [[[0, 0]], [[1, 1]]]]),  # columns of (2, 4): 5, 4, 11, 11
        ("block(1,2)", [[[[1, 1]], [[0, 0]]], [[[0, 0]], [[1, 1]]]]),
        ("2:4", [[[[1, 0]], [[1, 0]]], [[[0, 0]], [[1, 1]]]]),  # 5 and the first of two 2s; 9 and 9
        ("1:2", [[[[1, 0]], [[1, 0]]], [[[0, 1]], [[1, 0]]]]),
    ],
)
def test_half_of_a_small_convolution_by_hand(granularity: str, expected: list) -> None:
    assert mask_by_hand(WEIGHT, 0.5, granularity).int().tolist() == expected


def test_a_rest_of_n_m_keeps_up_to_n_as_well() -> None:
    weight = torch.tensor([[1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0.5]]).reshape(1, 10, 1)
    live = torch.ones_like(weight, dtype=torch.bool)
    assert best_of_each(weight, live, 2, 4).int().flatten().tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 1, 1]
    assert best_of_each(weight, live, 1, 4).int().flatten().tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 1, 0]
    assert best_of_each(weight, live, 3, 20).int().flatten().tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]
    live[0, 6:8] = False  # what is gone does not come back, and others take its place
    assert best_of_each(weight, live, 2, 4).int().flatten().tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 1, 1]


def layer_of_kind(kind: str, groups: int, spatial: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(6 * groups, 4 * groups)
    kinds = {"plain": (nn.Conv1d, nn.Conv2d, nn.Conv3d), "transposed": (nn.ConvTranspose1d, nn.ConvTranspose2d)}[kind]
    return kinds[min(spatial, len(kinds)) - 1](6, 4, 2, groups=groups)


def entry(layer: nn.Module, index: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return output channel, input channel, and their numbers in the flattened filter, from the definition."""
    positions = 1
    position = 0
    for size, place in zip(layer.weight.shape[2:], index[2:], strict=True):
        positions, position = positions * size, position * size + place
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        per_group = layer.in_channels // groups
        group, inner = divmod(index[0], per_group)
        return group * layer.weight.shape[1] + index[1], index[0], inner, inner * positions + position
    group = index[0] // (layer.weight.shape[0] // groups)
    return index[0], group * layer.weight.shape[1] + index[1], index[1], index[1] * positions + position


def label(layer: nn.Module, index: tuple[int, ...], granularity: Granularity) -> tuple[int, ...]:
    out, given, _, flat = entry(layer, index)
    return {
        "weight": index,
        "kernel": (out, given),
        "row": (out,),
        "column": (given,),
        "block": (out // granularity.rows, flat // granularity.columns),
        "n:m": index,
    }[granularity.kind]


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(["linear", "plain", "transposed"]),
    groups=st.sampled_from([1, 2]),
    spatial=st.integers(1, 3),
    text=st.sampled_from(["weight", "kernel", "row", "column", "block(3,5)", "block(1,2)", "2:4", "3:7"]),
    share=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    score=st.sampled_from(["l1", "l2"]),
    seed=st.integers(0, 3),
)
def test_masks_are_what_loops_over_the_definition_give(
    kind: str, groups: int, spatial: int, text: str, share: float, score: str, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = layer_of_kind(kind, groups, spatial)
    granularity = Granularity.parse(text)
    weight = layer.weight.detach().double()
    indices = list(itertools.product(*map(range, weight.shape)))
    allowed = set(indices)
    if granularity.kind == "n:m":
        windows: dict[tuple[int, int], list[tuple[int, ...]]] = {}
        for index in indices:
            out, _, _, flat = entry(layer, index)
            windows.setdefault((out, flat // granularity.m), []).append(index)
        best = [sorted(w, key=lambda i: -abs(float(weight[i])))[: granularity.n] for w in windows.values()]
        allowed = {index for window in best for index in window}
    members: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in indices:
        if index in allowed:
            members.setdefault(label(layer, index, granularity), []).append(index)

    def importance(group: list[tuple[int, ...]]) -> float:
        values = [abs(float(weight[index])) for index in group]
        return sum(values) / len(values) if score == "l1" else (sum(v * v for v in values) / len(values)) ** 0.5

    order = sorted(members.values(), key=importance)
    need = round(share * len(indices)) - (len(indices) - len(allowed))
    expected = torch.zeros(weight.shape, dtype=torch.bool)
    for number, group in enumerate(order):
        if need <= 0 or number == len(order) - 1:  # one always stays
            for index in group:
                expected[index] = True
        need -= len(group)
    mask = by_share(layer, share, granularity=text, score=score)
    assert torch.equal(mask["weight"], expected)


@pytest.mark.parametrize("kind", ["linear", "plain", "transposed"])
@pytest.mark.parametrize("groups", [1, 2])
def test_filters_and_back_is_the_same_tensor(kind: str, groups: int) -> None:
    layer = layer_of_kind(kind, groups, 2)
    filters = as_filters(layer.weight, layer)
    assert filters.shape[0] == (layer.out_features if kind == "linear" else layer.out_channels)
    assert torch.equal(from_filters(filters, layer, layer.weight.shape), layer.weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.weighted = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
        self.out = nn.Linear(3, 5)
        self.out.weight = self.embedding.weight


def test_only_weights_of_convolutions_and_linear_layers_are_prunable() -> None:
    assert prunable_weights(Tied()) == ("first.weight", "up.weight")
    assert prunable_weights(Tied(), kind="convolution") == ("up.weight",)
    assert prunable_weights(Tied(), skip=["first"], kind="linear") == ()
    chain = nn.Sequential(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1)), nn.Linear(2, 2))
    assert prunable_weights(chain) == ("0.0.weight", "0.1.weight", "1.weight")
    assert prunable_weights(chain, skip=["0"]) == prunable_weights(chain, skip=["0.*"]) == ("1.weight",)
    assert prunable_weights(chain, skip=["*.weight"]) == ()
    with pytest.raises(UsageError, match="unknown layer to skip 'fc9'"):
        prunable_weights(chain, skip=["fc9"])
    with pytest.raises(UsageError, match="run the model once on a batch"):
        prunable_weights(nn.LazyLinear(3))
