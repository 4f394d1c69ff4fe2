import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from secateur.data import (
    Augmentation,
    DataSource,
    LabelledImages,
    MemorySource,
    Normalization,
    StreamingSource,
)
from secateur.errors import DataError, UsageError

NORMALIZATION = Normalization((0.5,), (0.25,))
SETTINGS = {
    "name": "made",
    "normalization": NORMALIZATION,
    "augmentation": Augmentation(padding=1, flip=True),
    "validation_share": 0.25,
}


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, 5, 5), generator=generator, dtype=torch.uint8)


class Listed(Dataset[tuple[Tensor, int]]):
    """A data set that knows its labels, as torchvision's do."""

    def __init__(self, count: int) -> None:
        self.images, self.targets = pixels(count), [row % 3 for row in range(count)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.images[row], self.targets[row]


class Noisy(Listed):
    """A data set with random transforms of its own, from all three generators that people use."""

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        noise = random.randrange(10) + np.random.randint(10) + int(torch.randint(10, ()))
        return (self.images[row] // 2) + noise, self.targets[row]


class Breaking(Listed):
    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if row == 7:
            raise OSError("disk on fire")
        return super().__getitem__(row) if row != 9 else (torch.zeros(3, 4, 4, dtype=torch.uint8), 0)


def streaming(train: Dataset[tuple[Tensor, int]], workers: int = 0, **changes: object) -> StreamingSource:
    return StreamingSource(train=train, test=Listed(10), workers=workers, **{**SETTINGS, **changes})  # type: ignore[arg-type]


def collect(data: DataSource, **settings: object) -> list[tuple[Tensor, Tensor]]:
    return list(data.batches("train", **{"batch_size": 4, **settings}))  # type: ignore[arg-type]


def assert_same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> None:
    assert len(first) == len(second)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        assert x.equal(other_x)
        assert y.equal(other_y)


def test_streaming_gives_the_batches_that_memory_gives() -> None:
    stored = {
        "train": LabelledImages(pixels(30), torch.arange(30) % 3),
        "test": LabelledImages(pixels(10), torch.arange(10) % 3),
    }
    memory = MemorySource(**stored, **SETTINGS)  # type: ignore[arg-type]
    stream = streaming(Listed(30))
    assert isinstance(stream, DataSource)
    assert stream.labels("validation").equal(memory.labels("validation"))
    for settings in (
        {},
        {"seed": 3},
        {"seed": 3, "augment": True},
        {"seed": 3, "augment": True, "start": 2, "limit": 3},
    ):
        assert_same(collect(stream, **settings), collect(memory, **settings))


def test_the_number_of_workers_changes_nothing() -> None:
    settings = {"seed": 5, "augment": True}
    alone = collect(streaming(Noisy(30), workers=0), **settings)
    assert_same(alone, collect(streaming(Noisy(30), workers=2), **settings))
    assert_same(alone[2:], collect(streaming(Noisy(30), workers=1), **settings, start=2))


def test_a_data_sets_own_randomness_differs_between_epochs_and_leaves_the_global_state() -> None:
    data = streaming(Noisy(30))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first, second = collect(data, seed=1), collect(data, seed=2)
    assert torch.get_rng_state().equal(states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # type: ignore[index]
    assert not torch.cat([x for x, _ in first]).sum().equal(torch.cat([x for x, _ in second]).sum())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_is_one_sentence_with_its_number(workers: int) -> None:
    data = streaming(Breaking(30), workers=workers, validation_share=0.0)
    with pytest.raises(DataError, match=r"sample 7 of made \(train\) cannot be read: OSError: disk on fire") as caught:
        collect(data)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"sample 9 of made \(train\) is torch.uint8 \(3, 4, 4\) but the first"):
        collect(data, indices=torch.tensor([8, 9]))


def test_labels_are_read_from_the_samples_where_nobody_lists_them() -> None:
    train = TensorDataset(pixels(12), torch.arange(12) % 3)
    assert streaming(train, validation_share=0.0).labels("train").tolist() == [0, 1, 2] * 4  # type: ignore[arg-type]


def test_arrays_are_taken_channels_last_as_pillow_gives_them() -> None:
    class Arrays(Listed):
        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            return np.asarray(self.images[row].permute(1, 2, 0)), self.targets[row]  # type: ignore[return-value]

    assert_same(collect(streaming(Arrays(30))), collect(streaming(Listed(30))))


def test_data_without_index_or_samples_is_refused() -> None:
    class Endless(IterableDataset[tuple[Tensor, int]]):
        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            return iter(())

    with pytest.raises(DataError, match="map-style torch Dataset"):
        streaming(Endless())
    with pytest.raises(DataError, match="train split of made is empty"):
        streaming(Listed(0))
    with pytest.raises(UsageError, match="workers is -1"):
        streaming(Listed(30), workers=-1)
