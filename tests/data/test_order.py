import itertools

import pytest
import torch

from secateur.data.labels import partition
from secateur.data.order import plan_batches
from secateur.data.splits import stratified_split
from secateur.errors import UsageError

ROWS = torch.arange(100, 123)


def flat(lists: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def rows_of(**settings: int | torch.Tensor | None) -> list[list[int]]:
    return [rows.tolist() for _, rows in plan_batches(ROWS, **{"batch_size": 5, **settings})]  # type: ignore[arg-type]


def test_stored_order_without_a_seed() -> None:
    assert flat(rows_of()) == ROWS.tolist()
    assert [len(rows) for rows in rows_of()] == [5, 5, 5, 5, 3]


def test_a_seed_shuffles_and_repeats() -> None:
    assert rows_of(seed=1) == rows_of(seed=1) != rows_of(seed=2)
    assert sorted(flat(rows_of(seed=1))) == ROWS.tolist()


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("start", range(6))
def test_starting_later_continues_the_same_pass(seed: int | None, start: int) -> None:
    whole = plan_batches(ROWS, batch_size=5, seed=seed)
    later = plan_batches(ROWS, batch_size=5, seed=seed, start=start, limit=2)
    assert [number for number, _ in later] == [number for number, _ in whole][start : start + 2]
    assert [rows.tolist() for _, rows in later] == [rows.tolist() for _, rows in whole][start : start + 2]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [None, 7])
def test_ranks_share_each_batch_out(seed: int | None, world_size: int) -> None:
    whole = rows_of(seed=seed)
    shares = [rows_of(seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)]
    if seed is not None:
        assert len({len(share) for share in shares}) == 1  # the same number of steps everywhere
    together = [
        flat([share[batch] for share in shares if batch < len(share)]) for batch in range(max(map(len, shares)))
    ]
    kept = [batch for batch in whole if seed is None or len(batch) >= world_size]
    assert [sorted(batch) for batch in together if batch] == [sorted(batch) for batch in kept]


def test_indices_restrict_the_split() -> None:
    assert rows_of(indices=torch.tensor([3, 0, 3])) == [[103, 100, 103]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2, "world_size": 3}, "batch_size is 2 for 3"),
        ({"start": -1}, "start is -1"),
        ({"limit": -1}, "limit is -1"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"indices": torch.tensor([23])}, "the split has 23 samples"),
        ({"indices": torch.tensor([0.5])}, "flat int64"),
    ],
)
def test_arguments_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rows_of(**settings)


def test_a_split_is_stratified_disjoint_and_by_seed() -> None:
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    rest, taken = stratified_split(labels, 0.1, 0, "validation")
    assert labels[taken].bincount().tolist() == [7, 2, 1]
    assert sorted([*rest.tolist(), *taken.tolist()]) == list(range(100))
    again = stratified_split(labels, 0.1, 0, "validation")[1]
    assert taken.equal(again)
    assert not taken.equal(stratified_split(labels, 0.1, 1, "validation")[1])
    assert not taken.equal(stratified_split(labels, 0.1, 0, "test")[1])


def test_a_split_has_the_size_asked_for_and_empties_no_class() -> None:
    labels = torch.arange(1797) % 10
    assert len(stratified_split(labels, 0.2, 0, "x")[1]) == round(1797 * 0.2)
    rest, _ = stratified_split(torch.tensor([0, 1, 1, 1]), 0.9, 0, "x")
    assert 0 in rest


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="validation share"):
        stratified_split(torch.tensor([0, 1]), share, 0, "validation")


def test_a_validation_set_of_its_own_is_used_as_it_is() -> None:
    labels = {"train": torch.tensor([0, 1]), "test": torch.tensor([0]), "validation": torch.tensor([1, 0])}
    parts = partition(labels, 0.5, 0)  # type: ignore[arg-type]
    assert parts["train"].rows.tolist() == [0, 1]
    assert parts["validation"].stored == "validation"
