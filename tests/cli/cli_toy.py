"""A network and data of a user's own, small enough for a test: used as ``toy.py:network`` and ``toy.py:data``."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn


def network(num_classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, num_classes),
    )


def fixed_network() -> nn.Module:
    return network()


class Returning(nn.Module):
    """Returns its logits in something else."""

    def __init__(self, kind: type[object]) -> None:
        super().__init__()
        self.inner, self.kind = network(), kind

    def forward(self, x: Tensor) -> object:
        logits = self.inner(x)
        return {"logits": logits} if self.kind is dict else (logits, logits)


def dict_network() -> nn.Module:
    return Returning(dict)


def tuple_network() -> nn.Module:
    return Returning(tuple)


def map_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 4))


class FixedView(nn.Module):
    """A shape is written in its code, where no tracing sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.mean((2, 3))
        if wide.shape[1] < 7:  # one less than there are, which is as far as tracing tries
            raise ValueError("seven channels, please")
        logits: Tensor = self.fc(wide)
        return logits


def fixed_view() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), FixedView())


def data() -> dict[str, object]:
    return {"train": _samples(160, 1), "test": _samples(60, 2), "class_names": ["left", "middle", "right"]}


def empty() -> dict[str, object]:
    return {"train": _samples(0, 1), "test": _samples(60, 2)}


def colour() -> dict[str, object]:
    images, labels = _samples(60, 1)
    return {
        "train": (images.expand(-1, 3, -1, -1).clone(), labels),
        "test": (images.expand(-1, 3, -1, -1).clone(), labels),
    }


def flat_network() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU())
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4 * 49, 3))


def large() -> dict[str, object]:
    images, labels = _samples(60, 1)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    return {"train": (padded, labels), "test": (padded, labels)}


def many_classes() -> dict[str, object]:
    images, _labels = _samples(60, 1)
    return {"train": (images, torch.arange(60) % 10), "test": (images, torch.arange(60) % 10)}


def _samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright column, whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 9, 9, generator=generator)
    for number, label in enumerate(labels.tolist()):
        images[number, 0, :, 1 + 3 * label] += 1.5
    return images, labels


class Slow(nn.Module):
    """Takes its time when it is trained, so that a test can interrupt it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            time.sleep(0.02)
        return x


def slow_network() -> nn.Module:
    return nn.Sequential(*network(), Slow())


def sleeping_network() -> nn.Module:
    Path("asleep").touch()
    time.sleep(60)
    return network()


class Residual(nn.Module):
    """Adds what two layers make of it."""

    def __init__(self, width: int, norm: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


def _residual(norm: type[nn.Module], *shape: int) -> nn.Module:
    blocks = [Residual(8, norm(*shape)) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def residual_network() -> nn.Module:
    return _residual(nn.BatchNorm2d, 8)


def normed_network() -> nn.Module:
    """What is inside its blocks is normalised across channels."""
    return _residual(nn.GroupNorm, 1, 8)


class Waving(nn.Module):
    """Adds a sine, which no runtime computes in integers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.sin()


def waving_network() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Waving(), nn.Conv2d(8, 8, 3), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class Choosing(nn.Module):
    """What it does depends on the values, so that it has no graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def choosing_network() -> nn.Module:
    return nn.Sequential(*network(), Choosing())


class Bright(nn.Module):
    """How many values it looks at depends on the values, which torch's exporter does not bear in a float file."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].mean().expand(len(x), 3) + x


def bright_network() -> nn.Module:
    return nn.Sequential(*network(), Bright())


class Airy(nn.Module):
    """Uses an operator that ONNX has no form of."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.special.airy_ai(x)


def unknown_operator() -> nn.Module:
    return nn.Sequential(*network(), Airy())


class Dividing(nn.Module):
    """Gives NaN on bright images alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.amax((1, 2, 3), keepdim=True) > 2.48, x * float("nan"), x)


def dividing_network() -> nn.Module:
    return nn.Sequential(Dividing(), *network())


def no_convolution() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(1), Widening())


class Widening(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3) * torch.arange(3.0)


def bright() -> dict[str, object]:
    """As bytes of an image file, which nobody has normalised."""
    made = data()
    for split in ("train", "test"):
        images, labels = made[split]  # type: ignore[misc]
        made[split] = ((100 * images).clamp(max=255), labels)
    return made


def unlabelled() -> dict[str, object]:
    return {"train": _samples(60, 1)[0], "test": _samples(60, 2)}


class Batches:
    """A source that takes its time, and leaves a file when it begins to."""

    def __init__(self) -> None:
        from secateur.data import load_data

        self.inner = load_data(f"{__file__}:data")
        self.name, self.num_classes = "slow", self.inner.num_classes
        self.class_names, self.sample_shape = self.inner.class_names, self.inner.sample_shape
        self.normalization = self.inner.normalization

    def size(self, split: str) -> int:
        return int(self.inner.size(split))  # type: ignore[arg-type]

    def batches(self, split: str, **more: object) -> object:
        if more.get("limit") is None:
            Path("calibrating").touch()
            time.sleep(60)
        yield from self.inner.batches(split, **more)  # type: ignore[arg-type]


def slow_data() -> object:
    return Batches()
