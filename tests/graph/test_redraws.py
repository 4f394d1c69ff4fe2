"""Where redrawn weights show nothing of the cut, others are drawn; and nothing passes without a visible effect."""

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import VerificationError
from secateur.graph import Plan, Proof, apply, trace, verify

GIVEN = torch.ones(1, 2)


def bottleneck() -> nn.Module:
    """All goes through one channel, which a ReLU closes for about half of all weights."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3)).eval()


def one_channel(model: nn.Module) -> Plan:
    return trace(model, GIVEN).plan({"0": [0]})


def draws(proof: Proof) -> int:
    return sum(output.weights == "redrawn" for output in proof.outputs)


def test_a_cut_behind_a_closed_channel_is_proved_with_other_weights() -> None:
    model = bottleneck()
    plan = one_channel(model)
    small = apply(model, plan, verify_with=None)
    proofs = [verify(model, small, plan, GIVEN, seed=seed) for seed in range(12)]
    more = [proof for proof in proofs if draws(proof) > 1]
    assert more  # some of the first draws show nothing
    assert all(proof.passed for proof in proofs if draws(proof) < 4)
    assert sum(proof.passed for proof in more) > len(more) / 2
    for proof in more:
        silent = [output for output in proof.outputs if output.weights == "redrawn"][:-1]
        assert all(output.verdict == "cannot tell" and not output.visible for output in silent)


def test_one_draw_is_enough_where_it_shows_the_cut() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)).eval()
    plan = one_channel(model)
    assert draws(verify(model, apply(model, plan, verify_with=GIVEN), plan, GIVEN)) == 1


def test_an_error_behind_a_closed_channel_is_found_by_a_later_draw() -> None:
    model = bottleneck()
    plan = one_channel(model)
    small = apply(model, plan, verify_with=None)
    small[3].register_forward_hook(lambda module, args, result: result * 1.001)
    proofs = [verify(model, small, plan, GIVEN, own_weights=False, seed=seed) for seed in range(12)]
    assert any(proof.verdict == "different" and draws(proof) > 1 for proof in proofs)


def test_nothing_passes_that_no_draw_shows() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) * 0.0

    model = Blind().eval()
    plan = trace(model, GIVEN).plan({"a": [0]})
    proof = verify(model, apply(model, plan, verify_with=None), plan, GIVEN)
    assert (proof.verdict, draws(proof)) == ("cannot tell", 4)
    with pytest.raises(VerificationError, match="cannot tell"):
        apply(model, plan, verify_with=GIVEN)
