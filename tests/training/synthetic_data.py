"""A deterministic data source in memory and tiny models, for tests of training."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.randomness import generator_for


class SyntheticData:
    """Classes that differ by their mean; noise as augmentation."""

    def __init__(self, train: int = 50, validation: int = 21, classes: int = 4, side: int = 6) -> None:
        self.name = "synthetic"
        self.num_classes = classes
        self.class_names = tuple(str(i) for i in range(classes))
        self.sample_shape = (1, side, side)
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}
        for split, size in (("train", train), ("validation", validation), ("test", 16)):
            draws = generator_for("synthetic", split)
            labels = torch.arange(size) % classes
            means = torch.randn(classes, 1, side, side, generator=generator_for("means"))
            self._splits[split] = (torch.randn(size, 1, side, side, generator=draws) + means[labels], labels)
        self.reads: list[dict[str, object]] = []

    def size(self, split: str) -> int:
        return len(self._splits[split][1])

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        seed: int | None = None,
        augment: bool = False,
        device: torch.device | str = "cpu",
        start: int = 0,
        limit: int | None = None,
        indices: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.reads.append({"split": split, "seed": seed, "start": start, "indices": indices})
        images, labels = self._splits[split]
        rows = torch.arange(len(labels)) if indices is None else indices
        if seed is not None:
            rows = rows[torch.randperm(len(rows), generator=generator_for(seed, "order"))]
        parts = rows.split(batch_size)
        stop = len(parts) if limit is None else min(len(parts), start + limit)
        for number in range(start, stop):
            part = parts[number]
            part = part[rank * len(part) // world_size : (rank + 1) * len(part) // world_size]
            batch = images[part]
            if augment:
                batch = batch + 0.1 * torch.randn(batch.shape, generator=generator_for(seed, number, rank))
            yield batch.to(device), labels[part].to(device)


def small_cnn(width: int = 6) -> nn.Module:
    """Batch norm, dropout and a bias: everything that a continued run can get wrong."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(width * 16, 4),
    )


def perceptron() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 4))
