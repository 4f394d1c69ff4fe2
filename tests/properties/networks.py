"""Random networks: a description that prints as one can paste it, the module that it stands for, and how to draw one.

A step names a block, one of its variants and a width; a block makes something valid of any channels and size that it is
given, so every list of steps is a network.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from gating_blocks import GATING
from joining_blocks import JOINING
from odd_blocks import ODD
from plain_blocks import PLAIN, Block
from torch import Tensor, nn

from secateur.randomness import derive_seed

BLOCKS: dict[str, type[Block]] = PLAIN | ODD | JOINING | GATING
KINDS = tuple((name, variant) for name, block in BLOCKS.items() for variant in block.variants)  # drawn alike often
WIDTHS = (4, 6, 8, 9, 12, 16, 24)
SIZE = 8  # of the input maps
INPUTS = ("one", "added", "concatenated", "multiplied")  # how a second input joins the first, if there is one
LONG_SKIPS = ("none", "added", "concatenated")
HEADS = ("pooled", "flattened", "channels-last", "map", "perceptron")
OUTPUTS = ("tensor", "tuple", "dict", "auxiliary")
STYLES = ("loop", "sequential")

Option = TypeVar("Option")
Choose = Callable[[Sequence[Option]], Option]


class Step(NamedTuple):
    """One block of a network."""

    block: str
    variant: str
    width: int


class Description(NamedTuple):
    """All that tells one random network from another; equal descriptions build equal weights."""

    steps: tuple[Step, ...]
    inputs: str = "one"
    skip: str = "none"
    head: str = "pooled"
    outputs: str = "tensor"
    style: str = "loop"
    stem: int = 8

    def build(self) -> "RandomNetwork":
        """Return the network, in evaluation mode."""
        return RandomNetwork(self).eval()

    def example_inputs(self, batch: int = 2) -> Any:
        """Return random inputs: a tensor, a tuple or a mapping."""
        generator = torch.Generator().manual_seed(derive_seed("inputs", repr(self), batch))
        images = torch.randn(batch, 3, SIZE, SIZE, generator=generator)
        if self.inputs == "one":
            return images
        others = torch.randn(batch, 2, SIZE, SIZE, generator=generator)
        return {"x": images, "y": others} if self.inputs == "multiplied" else (images, others)

    def features(self) -> list[str]:
        """Name everything that the network is made of, for counting."""
        steps = [f"{step.block}/{step.variant}" for step in self.steps]
        return [
            *steps,
            f"inputs/{self.inputs}",
            f"long skip/{self.skip}",
            f"head/{self.head}",
            f"outputs/{self.outputs}",
        ]


class RandomNetwork(nn.Module):
    """What a description stands for."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("weights", repr(description)))
            self._build(description)
            _vary(self)

    def _build(self, given: Description) -> None:
        self.inputs, self.skip, self.head, self.outputs = given.inputs, given.skip, given.head, given.outputs
        self.stem = nn.Conv2d(3, given.stem, 3, padding=1)
        self.second = nn.Conv2d(2, given.stem, 1) if given.inputs != "one" else None
        channels, size = given.stem * (2 if given.inputs == "concatenated" else 1), SIZE
        first, blocks, middle = channels, [], (channels, len(given.steps) // 2)
        for number, step in enumerate(given.steps):
            block = BLOCKS[step.block](channels, step.width, step.variant, size)
            channels, size = block.out, block.out_size
            blocks.append(block)
            if number + 1 == len(given.steps) // 2:
                middle = (channels, number + 1)
        self.blocks = nn.Sequential(*blocks) if given.style == "sequential" else nn.ModuleList(blocks)
        self.around = nn.Conv2d(first, channels, 1) if given.skip == "added" else None
        channels += first if given.skip == "concatenated" else 0
        self.half = middle[1]
        self.extra = nn.Linear(middle[0], 3) if given.outputs != "tensor" else None
        if given.head == "map":
            self.classify: nn.Module = nn.Conv2d(channels, 5, 1)
        elif given.head == "perceptron":
            self.classify = nn.Sequential(nn.Linear(channels, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))
        else:
            positions = 1 if given.head == "pooled" else size * size
            self.classify = nn.Sequential(nn.Dropout(0.1), nn.Linear(channels * positions, 5))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        x = F.relu(self.stem(x))
        if self.second is not None:
            other = torch.sigmoid(self.second(y))
            if self.inputs == "concatenated":
                x = torch.cat([x, other], 1)
            else:
                x = x + other if self.inputs == "added" else x * other
        first, middle = x, x
        if isinstance(self.blocks, nn.Sequential) and self.extra is None:
            x = self.blocks(x)
        else:
            for number, block in enumerate(self.blocks, start=1):
                x = block(x)
                middle = x if number == self.half else middle
        if self.skip != "none":
            first = F.adaptive_avg_pool2d(first, x.shape[2:])
            x = torch.cat([x, first], 1) if self.around is None else x + self.around(first)
        result = self._classified(x)
        if self.extra is None or (self.outputs == "auxiliary" and not self.training):
            return result
        extra = self.extra(middle.mean((2, 3)))
        return {"classes": result, "extra": [extra]} if self.outputs == "dict" else (result, extra)

    def _classified(self, x: Tensor) -> Tensor:
        if self.head == "map":
            return self.classify(x)
        if self.head == "flattened":
            return self.classify(x.flatten(1))
        if self.head == "channels-last":
            return self.classify(x.permute(0, 2, 3, 1).flatten(1))
        return self.classify(x.mean((2, 3)))


def _vary(model: nn.Module) -> None:
    """Give scales and statistics values that are neither 0 nor 1, so that a wrong slice of one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.mul_(torch.empty_like(buffer).uniform_(0.5, 1.5))
                if name.endswith("mean"):
                    buffer.uniform_(-0.2, 0.2)


def every_feature() -> list[str]:
    """Name everything that a network can be made of, as :meth:`Description.features` does."""
    whole = (("inputs", INPUTS), ("long skip", LONG_SKIPS), ("head", HEADS), ("outputs", OUTPUTS))
    steps = [f"{block}/{variant}" for block, variant in KINDS]
    return [*steps, *(f"{what}/{option}" for what, options in whole for option in options)]


def drawn(choose: Choose[Any]) -> Description:
    """Draw a description; ``choose`` picks one of several options, which stand in order from plain to odd."""
    steps = []
    for _ in range(choose(range(2, 9))):
        block, variant = choose(KINDS)
        steps.append(Step(block, variant, choose(WIDTHS)))
    return Description(
        steps=tuple(steps),
        inputs=choose(INPUTS),
        skip=choose(LONG_SKIPS),
        head=choose(HEADS),
        outputs=choose(OUTPUTS),
        style=choose(STYLES),
        stem=choose(WIDTHS),
    )
