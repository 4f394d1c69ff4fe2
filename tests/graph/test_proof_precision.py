"""A forward that fixes its own precision is proved in float64 all the same."""

import torch
from torch import nn

from secateur.graph import apply, trace, verify

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Single(nn.Module):
    """Casts its input to float32, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x.float())).relu()).mean((2, 3))


class ReadsItsWidth(Single):
    """Depends a little on how many channels there are: less than float32 can be trusted with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + 2e-4 * y * (self.first.weight.shape[0] / 16)


def test_a_cast_to_float32_is_proved_in_float64() -> None:
    torch.manual_seed(0)
    model = Single()
    plan = trace(model, INPUTS).plan({"first": range(9)})
    proof = verify(model, apply(model, plan, verify_with=None), plan, INPUTS)
    assert (proof.verdict, proof.precision) == ("exact", "float64")
    assert proof.error < 1e-12
    assert "float64" in proof.sentence()


def test_an_error_that_float32_would_hide_is_refused() -> None:
    torch.manual_seed(0)
    model = ReadsItsWidth()
    assert "its size is computed with in the code" in str(trace(model, INPUTS).group("first").locked)
    plan = trace(model, INPUTS, trial=False).plan({"first": range(9)})
    proof = verify(model, apply(model, plan, verify_with=None), plan, INPUTS)
    assert proof.verdict == "different"
    assert not proof.passed


def test_where_a_cut_model_fails_is_said() -> None:
    class Written(Single):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16 * 64, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.first(x).view(-1, 1024))

    model = Written()
    plan = trace(model, INPUTS, trial=False).plan({"first": range(9)})
    proof = verify(model, apply(model, plan, verify_with=None), plan, INPUTS)
    assert proof.verdict == "different"
    assert "a shape is written in the model's code" in proof.sentence()
    assert "module 'first'" in proof.sentence() or "module 'head'" in proof.sentence()
