"""What one Tick takes, by hand: shares, floors, replication, the dead, and n + 1."""

import numpy as np
import pytest

from secateur.methods.gate_decorator.threshold import Rule, floor_of, survivors


def gone(
    scores: dict[str, list[float]],
    *,
    members: dict[str, int] | None = None,
    floors: dict[str, int] | None = None,
    rule: Rule,
) -> dict[str, list[int]]:
    """Return group → the units that go, for the groups that lose any."""
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    members = members or dict.fromkeys(scores, 1)
    stay = survivors(arrays, members, floors or dict.fromkeys(scores, 1), rule)
    return {name: np.flatnonzero(~marks).tolist() for name, marks in stay.items() if not marks.all()}


def test_one_more_than_the_share_asks_for_goes() -> None:
    scores = {"a": [5.0, 1.0, 4.0, 9.0], "b": [3.0, 2.0, 8.0, 7.0]}
    # 8 filters: int(8 · 0.25) = 2, so entry 2 of 1, 2, 3, 4, 5, 7 (without the best of each) is the threshold.
    assert gone(scores, rule=Rule(0.25)) == {"a": [1], "b": [0, 1]}
    assert gone(scores, rule=Rule(0.1)) == {"a": [1]}  # int(0.8) = 0, and one goes


def test_dead_filters_go_for_free() -> None:
    scores = {"a": [0.0, 1.0, 4.0, 9.0], "b": [0.0, 0.0, 8.0, 7.0]}
    # 8 filters are left, dead ones included: n = 2, and entry 2 of 1, 4, 7 is 7.
    assert gone(scores, rule=Rule(0.25)) == {"a": [0, 1, 2], "b": [0, 1, 3]}
    assert gone(scores, rule=Rule(0.25, free_dead=False)) == {"a": [0], "b": [0, 1]}  # 0, 0, 0, 1, 4, 7


def test_the_dead_stay_where_too_few_live() -> None:
    """The worst of the best scores 0, and whatever is at least as good stays: so does every dead filter."""
    scores = {"a": [0.0, 0.0, 0.0, 3.0], "b": [1.0, 2.0, 3.0, 4.0]}
    assert gone(scores, floors={"a": 2, "b": 1}, rule=Rule(0.1)) == {"b": [0]}


def test_the_best_of_every_layer_are_exempt_and_not_on_the_list() -> None:
    scores = {"weak": [0.1, 0.2, 0.3, 0.4], "strong": [11.0, 12.0, 13.0, 14.0]}
    floors = {"weak": 2, "strong": 1}
    # The list is 0.1, 0.2, 11, 12, 13; n = int(8 · 0.3) = 2 takes entries 0 to 2.
    assert gone(scores, floors=floors, rule=Rule(0.3)) == {"weak": [0, 1], "strong": [0]}
    assert gone(scores, floors=floors, rule=Rule(0.99)) == {"weak": [0, 1], "strong": [0, 1, 2]}


def test_a_groups_scores_count_once_for_each_member() -> None:
    scores = {"stream": [1.0, 2.0, 9.0], "inner": [3.0, 4.0, 5.0]}
    members = {"stream": 3, "inner": 1}
    # 12 filters, n = 3: the list 1, 1, 1, 2, 2, 2, 3, 4 has 2 there. Without members 6 filters, n = 1: 1, 2, 3, 4.
    assert gone(scores, members=members, rule=Rule(0.25)) == {"stream": [0, 1]}
    assert gone(scores, members=members, rule=Rule(0.25, replicate=False)) == {"stream": [0, 1]}
    # 12 filters, n = 2 (entry 1, 1, 1) against 6 filters, n = 1.
    assert gone(scores, members=members, rule=Rule(0.17)) == {"stream": [0]}
    assert gone(scores, members=members, rule=Rule(0.17, replicate=False)) == {"stream": [0, 1]}


def test_nothing_but_the_best_is_left() -> None:
    assert gone({"a": [1.0], "b": [2.0]}, rule=Rule(0.5)) == {}
    assert gone({"a": [0.0, 1.0]}, rule=Rule(0.5)) == {"a": [0]}


@pytest.mark.parametrize(("size", "floor"), [(16, 1), (32, 3), (64, 6), (512, 51), (5, 1), (1, 1)])
def test_floors_are_the_published_ones(size: int, floor: int) -> None:
    assert floor_of(size, 0.1) == floor


def test_the_first_tick_of_the_published_run() -> None:
    """2,128 filters, 41 of them dead: p = 0.2 % asks for int(4.256) = 4, so 5 living and 41 dead ones go: 46."""
    rng = np.random.default_rng(0)
    sizes = {f"layer{stage}.{block}": 16 * 2**stage for stage in range(3) for block in range(9)}
    scores = {name: rng.uniform(0.1, 1.0, size).tolist() for name, size in sizes.items()}
    streams = {f"stream{stage}": rng.uniform(5.0, 9.0, 16 * 2**stage).tolist() for stage in range(3)}
    dead = 0
    for values in scores.values():
        for place in range(len(values) // 4):
            if dead < 41:
                values[place] = 0.0
                dead += 1
    every = {**scores, **streams}
    members = dict.fromkeys(scores, 1) | dict.fromkeys(streams, 10)
    assert sum(len(values) * members[name] for name, values in every.items()) == 2_128
    floors = {name: floor_of(len(values), 0.1) for name, values in every.items()}
    taken = gone(every, members=members, floors=floors, rule=Rule(0.002))
    assert sum(len(units) for units in taken.values()) == 46
    assert not any(name.startswith("stream") for name in taken)
