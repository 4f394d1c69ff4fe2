"""Counts in sentences."""

import pytest

from secateur.wording import counted


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 layers"), (1, "1 layer"), (2, "2 layers"), (1024, "1,024 layers"), (0.5, "0.5 layers"), (1.0, "1 layer")],
)
def test_one_thing_and_several(number: float, words: str) -> None:
    assert counted(number, "layer") == words


def test_what_depends_on_the_number_may_be_given_with_the_thing() -> None:
    assert counted(1, "group loses units", "groups lose units") == "1 group loses units"
    assert counted(2, "group loses units", "groups lose units") == "2 groups lose units"
