"""A scan measures what cutting by hand measures, proves what it cuts, and measures nothing twice."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from own_process import run, run_here
from torch import Tensor, nn

from secateur.cost import kept_units
from secateur.criteria import Scores, score
from secateur.data import load_data
from secateur.errors import PlanError, TrainingError, UsageError, VerificationError
from secateur.graph import ChannelGraph, masked, trace
from secateur.measure import (
    Sensitivity,
    groups_to_scan,
    scan_sensitivity,
)
from secateur.models import build_model
from secateur.record import Evaluation
from secateur.training import Store, evaluate

SCRIPT = Path(__file__).with_name("killed_scan.py")


class Scanned:
    """A network of random weights on real digits; what it counts is how often it was evaluated."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        data = load_data("digits")
        self.model = build_model("digits-resnet").eval()
        self.images, self.labels = next(iter(data.batches("validation", batch_size=60)))
        self.graph = trace(self.model, self.images[:2])
        self.scores = score(self.graph, self.model)
        self.evaluations = 0

    def evaluate(self, model: nn.Module) -> Evaluation:
        self.evaluations += 1
        return evaluate(model, [(self.images, self.labels)])

    def scan(self, **more: object) -> Sensitivity:
        inputs = {"example_inputs": self.images[:2], **more}
        return scan_sensitivity(self.model, self.graph, self.scores, self.evaluate, **inputs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def subject() -> Scanned:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return Scanned()


@pytest.fixture(scope="module")
def scan(subject: Scanned) -> Sensitivity:
    return subject.scan(shares=(0.25, 0.5, 0.9), criterion="l1")


@pytest.mark.parametrize(
    ("size", "share", "kept"),
    # The third line is where binary fractions go wrong: floor(10 · (1 − 0.9)) is 0 in them, and 100 gives 9.
    [(16, 0.1, 14), (64, 0.1, 57), (10, 0.9, 1), (100, 0.9, 10), (30, 0.7, 9), (2, 0.1, 1), (3, 0.9, 1), (32, 0.5, 16)],
)
def test_kept_by_hand(size: int, share: float, kept: int) -> None:
    assert kept_units(size, share) == kept


def test_each_point_is_the_original_with_the_lowest_units_masked(subject: Scanned, scan: Sensitivity) -> None:
    """Masking is another way through the code than cutting, and the units are chosen anew here."""
    assert scan.dense == subject.evaluate(subject.model)
    assert [group.name for group in scan.groups] == [group.name for group in subject.graph.groups if group.prunable]
    for group in scan.groups:
        order = np.argsort(subject.scores[group.name].numpy(), kind="stable")
        for point, kept in zip(group.points, (3 * group.size // 4, group.size // 2, group.size // 10), strict=True):
            assert point.kept == kept
            plan = subject.graph.plan({group.name: order[-kept:]})
            with masked(subject.model, plan):
                expected = subject.evaluate(subject.model)
            assert point.evaluation.loss == pytest.approx(expected.loss, rel=1e-5)
            assert point.evaluation.top1 == pytest.approx(expected.top1, abs=1.5 / 60)  # a tie may go either way
            assert point.macs_left == subject.graph.macs(plan) / subject.graph.macs()
    assert len({point.evaluation.loss for group in scan.groups for point in group.points}) > 20


def test_a_dead_channel_is_free_and_the_next_is_not() -> None:
    """Four filters of L1 norm 1, 2, 3, 4. The first is read by nobody, the last alone tells the classes apart."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Flatten(), nn.Linear(4, 2, bias=False))
    images, labels = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1), torch.tensor([0, 1])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([[0.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]]))
    graph = trace(model, images)
    found = scan_sensitivity(
        model,
        graph,
        score(graph, model),
        lambda cut: evaluate(cut, [(images, labels)]),
        example_inputs=images,
        shares=(0.25, 0.5, 0.75),
    )
    (group,) = found.groups
    assert [point.kept for point in group.points] == [3, 2, 1]
    # Logits of class 0 for the image 1: −2 + 3 + 4 = 5, the same, then 7, then 4; of class 1: 8 throughout.
    assert found.dense.top1 == group.points[0].evaluation.top1 == 0.0
    assert found.dense.loss == pytest.approx(np.log1p(np.exp(3.0)))
    losses = [point.evaluation.loss for point in group.points]
    assert losses == pytest.approx([np.log1p(np.exp(distance)) for distance in (3.0, 1.0, 4.0)])
    assert [point.macs_left for point in group.points] == [0.75, 0.5, 0.25]


def test_groups_of_a_residual_stream_are_told_from_inner_layers(scan: Sensitivity) -> None:
    assert {group.name for group in scan.groups if group.tied} == {"conv1", "layer2.0.conv2", "layer3.0.conv2"}
    assert set(scan.left_out) == {"conv1#2", "linear"}
    assert scan.left_out["linear"] == "output of the model"
    assert all(group.proof_error <= 1e-6 for group in scan.groups)


def test_the_model_stays_as_it_was(subject: Scanned) -> None:
    before, flags = copy.deepcopy(subject.model.state_dict()), [m.training for m in subject.model.modules()]
    subject.scan(shares=(0.5,), groups=("layer3.*",))
    assert flags == [module.training for module in subject.model.modules()]
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_shares_that_keep_as_many_units_are_measured_once(subject: Scanned) -> None:
    before = subject.evaluations
    found = subject.scan(shares=(0.95, 0.96, 0.999, 0.95), groups=("layer1.0.conv1",))
    assert found.shares == (0.95, 0.96, 0.999)
    assert [point.kept for point in found.groups[0].points] == [1, 1, 1]
    assert subject.evaluations - before == 2  # and the dense model


class FixedWidth(nn.Module):
    """A number of channels is written in its code, where no tracing sees it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 6:
            raise ValueError("six channels, please")
        return x


def fixed_network(*, first: bool) -> tuple[nn.Module, ChannelGraph, Scores, Tensor]:
    torch.manual_seed(1)
    inner = nn.Identity() if first else FixedWidth()
    model = nn.Sequential(nn.Conv2d(1, 6, 3), inner, nn.Conv2d(6, 6, 3), FixedWidth(), nn.Flatten(), nn.Linear(24, 3))
    images = torch.randn(4, 1, 6, 6)
    graph = trace(model, images)
    return model, graph, score(graph, model), images


def test_a_group_that_cannot_be_cut_exactly_is_left_out_with_the_reason() -> None:
    model, graph, scores, images = fixed_network(first=True)
    labels = torch.tensor([0, 1, 2, 0])
    found = scan_sensitivity(
        model, graph, scores, lambda cut: evaluate(cut, [(images, labels)]), example_inputs=images, shares=(0.5,)
    )
    assert [group.name for group in found.groups] == ["0"]
    assert "six channels, please" in found.left_out["2"]


def test_where_no_group_can_be_cut_exactly_there_is_no_scan() -> None:
    model, graph, scores, images = fixed_network(first=False)
    labels = torch.tensor([0, 1, 2, 0])
    with pytest.raises(VerificationError, match=r"none of 2 groups can be cut exactly; '0': .*six channels"):
        scan_sensitivity(
            model, graph, scores, lambda cut: evaluate(cut, [(images, labels)]), example_inputs=images, shares=(0.5,)
        )


def test_wrong_requests_are_refused_before_anything_is_measured(subject: Scanned) -> None:
    before = subject.evaluations
    for shares in ((), (0.0, 0.5), (1.0,), (float("nan"),)):
        with pytest.raises(UsageError, match="share"):
            subject.scan(shares=shares)
    with pytest.raises(PlanError, match=r"unknown group 'layer1.0.conv9'; did you mean 'layer1.0.conv1'"):
        subject.scan(groups=("layer1.0.conv9",))
    with pytest.raises(PlanError, match="group 'linear' cannot be cut: output of the model"):
        subject.scan(groups=("layer1.*", "linear"))
    short = {**subject.scores, "conv1": torch.ones(3)}
    with pytest.raises(PlanError, match=r"'conv1' has 16 units, but its scores have shape \(3,\)"):
        groups_to_scan(subject.graph, short)
    assert subject.evaluations == before


def test_a_store_of_another_scan_is_refused_with_both_values(subject: Scanned, tmp_path: Path) -> None:
    def scan(**more: object) -> Sensitivity:
        return subject.scan(store=Store(tmp_path), **(same | more))

    same: dict[str, object] = {"shares": (0.5,), "groups": ("layer3.1.conv1",), "criterion": "l1"}
    same["made_for"] = {"data": "one"}
    first, before = scan(), subject.evaluations
    assert scan() == first
    assert subject.evaluations == before
    for change, then, now in (
        ({"made_for": {"data": "two"}}, "data = one", "two"),
        ({"shares": (0.25, 0.5)}, "shares = [0.5]", "[0.25, 0.5]"),
        ({"criterion": "l2"}, "criterion = l1", "l2"),
        ({"groups": ("layer3.*",)}, "groups = ['layer3.1.conv1']", "layer3.0.conv1"),
    ):
        with pytest.raises(UsageError) as refused:
            scan(**change)
        assert then in str(refused.value)
        assert now in str(refused.value)
    other = copy.copy(subject)
    other.model = copy.deepcopy(subject.model)
    with torch.no_grad():
        other.model.linear.bias += 1e-3
    with pytest.raises(UsageError, match="begun with weights = "):
        other.scan(store=Store(tmp_path), **same)
    reversed_order = copy.copy(subject)
    reversed_order.scores = {name: -values for name, values in subject.scores.items()}
    with pytest.raises(UsageError, match="begun with order of units = "):
        reversed_order.scan(store=Store(tmp_path), **same)
    Store(tmp_path).keep("sensitivity-dense", {"loss": "low"})
    with pytest.raises(TrainingError, match=r"'sensitivity-dense' in .* is not of a scan"):
        scan()


def test_a_killed_scan_continues_and_measures_nothing_twice(tmp_path: Path) -> None:
    unbroken, out, log = tmp_path / "unbroken.json", tmp_path / "continued.json", tmp_path / "continued.log"
    run_here(SCRIPT, tmp_path / "one", unbroken, tmp_path / "unbroken.log")
    whole = len((tmp_path / "unbroken.log").read_text().splitlines())
    # 10 units have 9 sizes; 6 units keep 5, 4, 4, 3, 3, 2, 1, 1, 1, which are 5 sizes; and the dense model.
    assert whole == 1 + 9 + 5
    run(SCRIPT, tmp_path / "two", out, log, "evaluation:6", killed=True)
    assert len(log.read_text().splitlines()) == 5
    # Two points are kept, and the third is killed in the middle of its write: that one alone is lost.
    run(SCRIPT, tmp_path / "two", out, log, "write:3", killed=True)
    assert len(log.read_text().splitlines()) == 5 + 3
    assert not out.exists()
    run(SCRIPT, tmp_path / "two", out, log)
    assert len(log.read_text().splitlines()) == whole + 1
    assert out.read_bytes() == unbroken.read_bytes()
