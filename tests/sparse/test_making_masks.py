import math

import pytest
import torch
from torch import Tensor, nn

from secateur import Budget
from secateur.errors import BudgetError, UsageError
from secateur.models import build_model
from secateur.sparse import Masks, by_global_share, by_nonzeros, by_share, by_threshold, nonzeros, weight_stds


def line(*values: float) -> nn.Linear:
    layer = nn.Linear(len(values), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    return layer


def kept(masks: Masks, name: str = "weight") -> list[int]:
    return masks[name].int().flatten().tolist()


def test_threshold_by_hand() -> None:
    layer = line(1, -2, 3, -4)  # mean -0.5, variance (2.25 + 2.25 + 12.25 + 12.25) / 4 = 7.25
    assert weight_stds(layer)["weight"] == pytest.approx(math.sqrt(7.25))
    assert kept(by_threshold(layer, 0.5)) == [0, 1, 1, 1]  # 1.346
    assert kept(by_threshold(layer, 1.0)) == [0, 0, 1, 1]  # 2.693
    assert kept(by_threshold(layer, 0.0)) == [1, 1, 1, 1]
    assert kept(by_threshold(line(0, 1, -1, 0), 0.0)) == [0, 1, 1, 0]  # above, not at


def test_a_second_round_takes_the_deviation_that_is_asked_for() -> None:
    layer = line(0.5, -2, 2, -4, 4, 1)
    earlier = Masks({"weight": torch.tensor([[False, True, True, True, True, False]])})
    survivors = math.sqrt((4 + 4 + 16 + 16) / 4)  # 3.162, mean 0
    everything = math.sqrt((4 + 4 + 16 + 16) / 6)  # 2.582
    q = 2.1 / everything  # between 2 and 4 by all, and above 2 by survivors: 2.572
    assert kept(by_threshold(layer, 1.9 / survivors, earlier=earlier)) == [0, 1, 1, 1, 1, 0]
    assert kept(by_threshold(layer, q, of="survivors", earlier=earlier)) == [0, 0, 0, 1, 1, 0]
    assert kept(by_threshold(layer, 1.9 / survivors, of="all", earlier=earlier)) == [0, 1, 1, 1, 1, 0]
    assert kept(by_threshold(layer, 4.5 / survivors, of="survivors", earlier=earlier, at_least=0)) == [0] * 6
    assert kept(by_threshold(layer, 4.5 / survivors, of="all", earlier=earlier)) == [0, 0, 0, 1, 1, 0]
    dense = {"weight": 10.0}
    assert kept(by_threshold(layer, 0.3, of="dense", std_of=dense, earlier=earlier)) == [0, 0, 0, 1, 1, 0]
    with pytest.raises(UsageError, match="keep weight_stds"):
        by_threshold(layer, 0.3, of="dense", earlier=earlier)
    assert kept(by_threshold(layer, 1.0, of="dense")) == kept(by_threshold(layer, 1.0))


def test_what_is_gone_comes_back_only_where_regrowing_is_asked_for() -> None:
    layer = line(1, 8, 2, 8)
    earlier = Masks({"weight": torch.tensor([[True, False, False, True]])})
    deviation = {"weight": 2.0}
    common = {"of": "dense", "std_of": deviation, "earlier": earlier}
    assert kept(by_threshold(layer, 0.9, **common)) == [0, 0, 0, 1]
    assert kept(by_threshold(layer, 0.9, regrow=True, **common)) == [0, 1, 1, 1]
    # Between 0.5 and 1.5 times the threshold of 1.8 everything stays as it was: 1 lives on, 2 does not return.
    assert kept(by_threshold(layer, 0.9, regrow=True, band=0.5, **common)) == [1, 1, 0, 1]
    assert kept(by_share(layer, 0.5, earlier=earlier, regrow=True)) == [0, 1, 0, 1]
    assert kept(by_share(layer, 0.25, earlier=earlier)) == [1, 0, 0, 1]
    with pytest.raises(UsageError, match="set regrow=True or band=0"):
        by_threshold(layer, 0.9, band=0.5)
    with pytest.raises(UsageError, match="regrow needs the earlier masks"):
        by_share(layer, 0.5, regrow=True)


def test_equal_weights_stay_by_the_lowest_index() -> None:
    assert kept(by_share(line(1, 1, 1, 1), 0.5)) == [1, 1, 0, 0]
    assert kept(by_share(line(1, 2, 1, 1), 0.5)) == [1, 1, 0, 0]
    model = nn.Sequential(line(1, 1), line(1, 1))
    masks = by_global_share(model, 0.25)
    assert (kept(masks, "0.weight"), kept(masks, "1.weight")) == ([1, 1], [1, 0])
    rows = nn.Linear(1, 4)
    nn.init.ones_(rows.weight)
    assert kept(by_share(rows, 0.5, granularity="row")) == [1, 1, 0, 0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_shares_are_met_to_the_weight(share: float) -> None:
    model = build_model("lenet-300-100")
    for masks in (by_share(model, share), by_global_share(model, share)):
        assert masks.size() == 266_200
        assert masks.size() - masks.kept() == pytest.approx(share * 266_200, abs=2)
    layers = by_share(model, {"fc1": share, "fc[23]": 0.5})
    assert layers.density("fc1.weight") == pytest.approx(1 - share, abs=1e-5)
    assert (layers.density("fc2.weight"), layers.density("fc3.weight")) == (0.5, 0.5)


def test_a_global_share_removes_the_smallest_of_all() -> None:
    model = build_model("lenet-300-100")
    masks = by_global_share(model, 0.8)
    weights = {name: model.get_parameter(name).detach().abs() for name in masks}
    gone = max(float(weights[name][~masks[name]].max()) for name in masks)
    stays = min(float(weights[name][masks[name]].min()) for name in masks)
    assert gone <= stays
    again = by_global_share(model, 0.9, earlier=masks)
    assert again == by_global_share(model, 0.9)  # from round to round, where no weight has changed
    assert (again & masks) == again


def test_a_budget_counts_all_parameters_as_budgets_do() -> None:
    model = build_model("lenet-300-100")
    assert nonzeros(model) == 266_610
    masks = by_nonzeros(model, 22_000)
    assert nonzeros(model, masks) == 22_000
    assert masks.kept() == 22_000 - 410  # biases stay
    assert masks == by_nonzeros(model, Budget(nonzeros=22_000))
    assert nonzeros(model, by_nonzeros(model, 0.1)) == 26_661
    assert nonzeros(model, by_nonzeros(model, 20_000, granularity="block(4,4)")) <= 20_000
    skipped = by_nonzeros(model, 0.5, names=["fc1.weight"])
    assert list(skipped) == ["fc1.weight"]
    assert nonzeros(model, skipped) == 133_305
    with pytest.raises(BudgetError, match="cannot reach 300 non-zeros: 113 weights too many stay"):
        by_nonzeros(model, 300)  # 410 biases and one weight of each layer stay
    with pytest.raises(BudgetError, match="for a budget in nonzeros alone"):
        by_nonzeros(model, Budget(nonzeros=0.5, macs=0.5))
    with pytest.raises(BudgetError, match="above 0"):
        by_nonzeros(model, 0)


def test_each_layer_keeps_its_best_whatever_the_rule_says() -> None:
    layer = line(1, -3, 2)
    assert kept(by_threshold(layer, 100.0)) == [0, 1, 0]
    assert kept(by_threshold(layer, 100.0, at_least=2)) == [0, 1, 1]
    assert kept(by_threshold(layer, 100.0, at_least=0)) == [0, 0, 0]
    assert kept(by_share(layer, 0.99)) == [0, 1, 0]
    small, large = line(0.01, 0.02), line(1, 2, 3, 4)
    masks = by_global_share(nn.Sequential(small, large), 0.5)
    assert (kept(masks, "0.weight"), kept(masks, "1.weight")) == ([0, 1], [0, 0, 1, 1])


def test_earlier_masks_of_other_layers_are_kept() -> None:
    model = build_model("lenet5")
    convolutions = by_share(model, 0.5, names=["conv1.weight", "conv2.weight"])
    masks = by_share(model, 0.9, names=["fc1.weight"], earlier=convolutions)
    assert set(masks) == {"conv1.weight", "conv2.weight", "fc1.weight"}
    assert [masks.density(name) for name in sorted(masks)] == [0.5, 0.5, 0.1]


def test_a_score_of_ones_own_decides() -> None:
    layer = line(5, 4, 3, 2, 1, 0)

    def importance(name: str, weight: Tensor) -> Tensor:
        assert name == "weight"
        return 10 - weight

    assert kept(by_share(layer, 0.5, score=importance)) == [0, 0, 0, 1, 1, 1]
    assert kept(by_share(layer, 0.5, score=importance, granularity="block(1,3)")) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UsageError, match="never negative"):
        by_share(layer, 0.5, score=lambda _, weight: -weight)
    with pytest.raises(UsageError, match="choose l1 or l2"):
        by_share(layer, 0.5, score="l3")  # type: ignore[typeddict-item]


def test_two_of_four_and_more_than_that() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(10, 6))
    pattern = by_share(model, 0.0, granularity="2:4")
    for name in pattern:
        flat = pattern[name].flatten(1)
        whole = flat[:, : flat.shape[1] // 4 * 4].reshape(-1, 4).sum(1)
        assert set(whole.tolist()) == {2}
        assert bool((flat[:, flat.shape[1] // 4 * 4 :].sum(1) == min(2, flat.shape[1] % 4)).all())
    more = by_global_share(model, 0.8, granularity="2:4")
    assert more & pattern == more
    assert more.density() == pytest.approx(0.2, abs=0.01)


def test_scores_of_groups_compare_between_layers_of_different_kernels() -> None:
    small, large = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3)
    nn.init.constant_(small.weight, 0.5)
    nn.init.constant_(large.weight, 0.1)  # sums to 0.9, but each weight matters less
    masks = by_global_share(nn.Sequential(small, large), 0.5, granularity="kernel", at_least=0)
    assert (masks.kept("0.weight"), masks.kept("1.weight")) == (1, 0)


def test_masks_are_made_of_half_precision_too() -> None:
    model = build_model("lenet5").to(torch.bfloat16)
    assert by_global_share(model, 0.9).density() == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda m: by_share(m, 1.0), "at least 0 and below 1"),
        (lambda m: by_share(m, {"fc9": 0.5}), "unknown layer in shares 'fc9'; did you mean"),
        (lambda m: by_threshold(m, {"fc1": -1.0}), r"quality of fc1\.weight is -1\.0"),
        (lambda m: by_threshold(m, 1.0, of="dead"), "choose survivors, dense or all"),
        (lambda m: by_share(m, 0.5, at_least=-1), "at_least is -1"),
        (lambda m: by_share(m, 0.5, names=["fc1.bias"]), "unknown prunable weight"),
        (lambda m: by_share(m, 0.5, granularities="row"), "'granularities' is no option of masks"),
        (lambda m: by_share(m, 0.5, earlier=Masks({"fc1.weight": torch.ones(1, dtype=torch.bool)})), "has shape"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(make: object, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make(build_model("lenet-300-100"))


def test_weights_that_are_not_finite_have_no_importance() -> None:
    with pytest.raises(UsageError, match="not finite"):
        by_share(line(1, float("nan")), 0.5)
