"""Networks on which a law was once broken, as small as they could be made, and what was wrong."""

from typing import NamedTuple

import pytest
from laws import LAWS, Case
from networks import Description, Step


class Found(NamedTuple):
    """A network, the seed of its plan, and one sentence."""

    description: Description
    seed: int
    wrong: str


FOUND: dict[str, Found] = {
    "two blurs of channels as samples": Found(
        Description(steps=(Step("blur", "samples", 4), Step("blur", "samples", 4))),
        1,
        "A masked run put unmarked channels on the dimension of samples and then refused to merge it with marked ones.",
    ),
    "a blur of channels as samples before a grouped convolution": Found(
        Description(steps=(Step("blur", "samples", 4), Step("grouped", "stream", 4))),
        1,
        "A masked run lost the unmarked channels of a view and took them for a tensor that is not cut.",
    ),
    "one channel that is dead under the redrawn weights": Found(
        Description(
            steps=(
                Step("eca", "eca", 8),
                Step("pixel", "unshuffle", 6),
                Step("shaped", "reflected", 24),
                Step("gate", "maximum", 4),
                Step("flip", "channels", 12),
            ),
            inputs="multiplied",
            skip="concatenated",
            outputs="dict",
            stem=16,
        ),
        9,
        "The only path ran through a ReLU that redrawn weights closed, so that an exact cut was not passed.",
    ),
    "attention with a written number of heads and a scale by size": Found(
        Description(steps=(Step("attention", "scaled-by-size", 4),)),
        0,
        "Narrower heads changed the scale of the products, and fewer of them did not fit the number in the code.",
    ),
    "attention with a written number of heads": Found(
        Description(steps=(Step("attention", "apart", 4),)),
        0,
        "Cut head by head, the rest was seen as the same number of narrower heads, because the code says how many.",
    ),
    "multi-head attention of torch": Found(
        Description(steps=(Step("attention", "module", 4),)),
        0,
        "What the module reads was cut, though it compares its width with a number of its own.",
    ),
    "a number of channels in a view": Found(
        Description(steps=(Step("written", "channels", 4),)),
        0,
        "The cut model did not run, because its code views the map with the old number of channels.",
    ),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, law: str) -> None:
    found = FOUND[name]
    LAWS[law](Case(found.description, found.seed))
