"""The divergence of predictions: numbers by hand, and that it answers as the model does."""

import math

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.measure import Divergence


class Constant(nn.Module):
    """Gives the same logits for every image, and counts how often it is asked."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits, self.runs = torch.tensor(logits), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.logits.expand(len(x), -1).clone()


IMAGES = torch.zeros(3, 1)


def test_two_distributions_by_hand() -> None:
    # (3/4, 1/4) against (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2).
    divergence = Divergence(Constant(math.log(3), 0.0))
    answer = divergence.of(Constant(0.0, 0.0))
    assert torch.equal(answer(IMAGES), torch.zeros(3, 2))
    answer(IMAGES[:1])
    assert divergence.mean_nats == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)


def test_a_model_is_nowhere_away_from_itself_and_the_reference_runs_once() -> None:
    reference = Constant(1.0, -2.0, 0.5)
    divergence = Divergence(reference)
    for other, wanted in ((Constant(1.0, -2.0, 0.5), 0.0), (Constant(9.0, 6.0, 8.5), 0.0)):
        answer = divergence.of(other)
        answer(IMAGES)
        answer(IMAGES)
        assert divergence.mean_nats == pytest.approx(wanted, abs=1e-6)
    assert reference.runs == 2


def test_a_class_that_is_ruled_out_counts_nothing_but_one_that_is_ruled_out_wrongly_is_infinitely_far() -> None:
    divergence = Divergence(Constant(0.0, -math.inf))
    divergence.of(Constant(0.0, 0.0))(IMAGES)
    assert divergence.mean_nats == pytest.approx(math.log(2))
    divergence = Divergence(Constant(0.0, 0.0))
    divergence.of(Constant(0.0, -math.inf))(IMAGES)
    assert divergence.mean_nats == math.inf


def test_without_samples_there_is_no_divergence() -> None:
    divergence = Divergence(Constant(0.0, 0.0))
    divergence.of(Constant(0.0, 0.0))
    with pytest.raises(DataError, match="no samples to compare predictions on"):
        _ = divergence.mean_nats
