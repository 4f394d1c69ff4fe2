"""The union-find against a plain one, and the labels of views against labels computed element by element."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from secateur.graph.labels import Atoms, IntArray
from secateur.graph.rules.movement import reshaped


def components(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Return the smallest member of each one's component, by a union-find of one line."""
    parent = list(range(count))

    def root(one: int) -> int:
        while parent[one] != one:
            one = parent[one]
        return one

    for first, second in edges:
        a, b = root(first), root(second)
        parent[max(a, b)] = min(a, b)
    return [root(one) for one in range(count)]


def solved(count: int, edges: list[tuple[int, int]]) -> list[int]:
    atoms = Atoms()
    atoms.new(count)
    pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    for chunk in np.array_split(pairs, 3):
        atoms.unify(chunk[:, 0].copy(), chunk[:, 1].copy())
    return atoms.solve().tolist()


@pytest.mark.parametrize("seed", range(20))
def test_random_edges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 300))
    edges = rng.integers(0, count, size=(int(rng.integers(0, 2 * count)), 2)).tolist()
    assert solved(count, edges) == components(count, edges)


@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled", "zigzag"])
def test_a_long_chain_is_one_component(order: str) -> None:
    count = 5000
    links = [(i, i + 1) for i in range(count - 1)]
    if order == "backwards":
        links = [(b, a) for a, b in reversed(links)]
    elif order == "shuffled":
        np.random.default_rng(0).shuffle(links)
    elif order == "zigzag":
        links = [(i, count - 1 - i) for i in range(count // 2)] + [
            (i + 1, count - 1 - i) for i in range(count // 2 - 1)
        ]
    assert set(solved(count, links)) == {0}


def test_no_edges_no_ties() -> None:
    atoms = Atoms()
    assert atoms.solve().tolist() == []
    same = atoms.new(4)
    atoms.unify(same, same)
    assert atoms.solve().tolist() == [0, 1, 2, 3]
    assert atoms.new(2).tolist() == [4, 5]
    with pytest.raises(ValueError, match="cannot go together"):
        atoms.unify(same, same[:2])


class Books:
    """Collects what the rules say."""

    def __init__(self) -> None:
        self.ties: list[tuple[int, int]] = []
        self.locks: list[int] = []

    def carries(self, atoms: IntArray) -> bool:
        return True

    def unify(self, first: IntArray, second: IntArray) -> None:
        self.ties.extend(zip(first.tolist(), second.tolist(), strict=True))


class FakeFlow:
    def __init__(self) -> None:
        self.books = Books()

    def lock(self, atoms: IntArray | None, reason: str) -> None:
        if atoms is not None:
            self.books.locks.extend(atoms.tolist())

    def carrying_axis(self, block: IntArray, varying: list[int]) -> int:
        return max(varying, key=lambda axis: (block.shape[axis], axis))


def factorizations(rng: Any) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield pairs of shapes of equal size, some with ones and shared prefixes."""
    primes = [2, 2, 2, 3, 3, 5]
    for _ in range(60):
        factors = rng.permutation(primes[: int(rng.integers(2, 7))]).tolist()

        def grouped(factors: list[int] = factors) -> tuple[int, ...]:
            shape: list[int] = []
            for factor in factors:
                if shape and rng.random() < 0.45:
                    shape[-1] *= factor
                else:
                    shape.append(factor)
            for _ in range(int(rng.integers(0, 3))):
                shape.insert(int(rng.integers(0, len(shape) + 1)), 1)
            return tuple(shape)

        yield grouped(), grouped()


@pytest.mark.parametrize("seed", range(25))
def test_views_carry_labels_where_the_elements_go(seed: int) -> None:
    """Brute force: give every element the component of its channel, view it, and look along each dimension."""
    rng = np.random.default_rng(seed)
    for before, after in factorizations(rng):
        axis = int(rng.integers(0, len(before)))
        count = before[axis]
        flow = FakeFlow()
        atoms = np.arange(count, dtype=np.int64)
        dims = reshaped(flow, before, tuple(atoms if i == axis else None for i in range(len(before))), after)
        assert len(dims) == len(after)
        root = np.asarray(components(count, flow.books.ties))
        shape = [1] * len(before)
        shape[axis] = count
        elements = np.broadcast_to(root[atoms].reshape(shape), before).reshape(after)
        locked = set(root[np.asarray(flow.books.locks, dtype=np.int64)].tolist())
        carriers = [i for i, labels in enumerate(dims) if labels is not None]
        assert len(carriers) <= 1
        if set(root.tolist()) <= locked:
            continue
        if not carriers:
            # Then nothing can be cut on its own: all channels are one unit, or there is one channel.
            assert len(set(root.tolist())) == 1
            continue
        place = carriers[0]
        labels = dims[place]
        assert labels is not None
        assert labels.size == after[place]
        line = [1] * len(after)
        line[place] = after[place]
        expected = np.broadcast_to(root[labels].reshape(line), after)
        np.testing.assert_array_equal(expected, elements, err_msg=f"{before} -> {after}, axis {axis}")


def test_two_channel_dimensions_merged_into_one_are_locked() -> None:
    flow = FakeFlow()
    first, second = np.arange(3, dtype=np.int64), np.arange(3, 7, dtype=np.int64)
    assert reshaped(flow, (2, 3, 4), (None, first, second), (2, 12)) == (None, None)
    assert sorted(flow.books.locks) == list(range(7))


def test_flatten_repeats_each_channel_in_place() -> None:
    flow = FakeFlow()
    labels = reshaped(flow, (2, 3, 2, 2), (None, np.arange(3, dtype=np.int64), None, None), (2, 12))[1]
    assert labels is not None
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert flow.books.ties == []
    assert math.prod(labels.shape) == 12
