"""Containers in and out, code that depends on values, heads of training mode, parameters that nothing reaches."""

from dataclasses import dataclass
from typing import Any

import torch
from cutting import assert_exact, cut_and_prove, images
from torch import Tensor, nn

from secateur.graph import masked


@dataclass
class Answer:
    """What a model returns."""

    scores: Tensor
    name: str


class Shapes(nn.Module):
    """Dictionary output, dataclass within, several inputs by position and keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.out = nn.Conv2d(3, 6, 3), nn.Linear(4, 5), nn.Linear(11, 2)

    def forward(self, image: Tensor, *, text: Tensor, scale: float = 1.0, flags: tuple[bool, ...] = ()) -> Any:
        joined = torch.cat([self.image(image).relu().mean((2, 3)), self.text(text).relu()], 1)
        scores = self.out(joined) * scale
        return {"answer": Answer(scores, "x"), "both": (scores, [scores.softmax(1)]), "n": 3}


def test_containers_in_and_out() -> None:
    given = {"image": images(), "text": torch.randn(2, 4), "scale": 0.5, "flags": (True,)}
    _, _, small = assert_exact(Shapes(), given, cut={"image", "text"})
    assert small(**given)["answer"].name == "x"

    class Two(Shapes):
        def forward(self, first: Tensor, second: Tensor) -> Answer:  # type: ignore[override]
            return Answer(super().forward(first, text=second)["answer"].scores, "y")

    assert_exact(Two(), (images(), torch.randn(2, 4)), cut={"image", "text"})


def test_code_that_depends_on_values_is_traced_on_real_tensors() -> None:
    class Depends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if x.sum() > 0:
                y = torch.relu(y)
            return self.out(y if y.sum().item() < 1e9 else -y)

    assert_exact(Depends(), images(), cut={"a"})


class Heads(nn.Module):
    """An auxiliary head in training mode, and a layer that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out, self.aux = nn.Conv2d(3, 6, 1), nn.Linear(6, 2), nn.Linear(6, 3)
        self.never = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.a(x)).mean((2, 3))
        return (self.out(x), self.aux(x)) if self.training else self.out(x)


def test_heads_of_training_mode_are_cut_along_and_unreached_parameters_listed() -> None:
    model = Heads().eval()
    graph, plan, small, proof = cut_and_prove(model, images(batch=1))
    assert graph.train_mode
    assert graph.unreached == ("never.weight", "never.bias")
    assert set(plan.kept) == {"a"}
    assert small.aux.in_features == plan.kept_sizes()["a"]
    assert small.never.in_features == 6
    assert proof.verdict == "exact"
    assert {output.mode for output in proof.outputs} == {"eval", "train"}
    with masked(model, plan):
        assert model(images()).shape == (2, 2)
