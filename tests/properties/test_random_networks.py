"""Laws over random networks and random plans; a failure prints the smallest description that still breaks the law.

`benchmarks/properties.py` holds thousands of networks to the same laws, counts what they were made of, and finds a
smaller description of each that fails; what was found becomes a named test in `test_found_failures.py`.
"""

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from laws import LAWS, Case, random_plan
from networks import BLOCKS, KINDS, Description, Step, drawn, every_feature

from secateur.graph import apply, trace

SEEDS = st.integers(0, 2**31)
FEW, MANY = settings.get_profile("networks"), settings.get_profile("many-networks")


@st.composite
def descriptions(draw: st.DrawFn) -> Description:
    return drawn(lambda options: draw(st.sampled_from(options)))


@pytest.mark.parametrize("law", LAWS)
def test_law(law: str) -> None:
    @FEW
    @given(descriptions(), SEEDS)
    def holds(description: Description, seed: int) -> None:
        LAWS[law](Case(description, seed))

    holds()


@pytest.mark.slow
@MANY
@given(descriptions(), SEEDS)
def test_all_laws_on_many_networks(description: Description, seed: int) -> None:
    case = Case(description, seed)
    for law in LAWS.values():
        law(case)


@pytest.mark.parametrize(("block", "variant"), KINDS)
def test_each_block_alone_can_be_cut_exactly(block: str, variant: str) -> None:
    case = Case(Description(steps=(Step("conv", "relu", 8), Step(block, variant, 8), Step("conv", "relu", 6))), seed=1)
    assert not case.plan.is_empty
    LAWS["cut_equals_masked"](case)


def test_descriptions_print_as_they_are_written() -> None:
    @FEW
    @given(descriptions())
    def holds(description: Description) -> None:
        assert eval(repr(description), {"Description": Description, "Step": Step}) == description
        assert set(description.features()) <= set(every_feature())

    holds()


def test_plans_keep_some_of_every_group_and_cut_some_of_most_networks() -> None:
    cut = 0
    for seed in range(40):
        description = Description(steps=(Step("residual", "identity", 8), Step("dense", "list", 9)))
        graph = trace(description.build(), description.example_inputs())
        plan = random_plan(graph, seed)
        assert all(0 < len(units) < graph.group(name).size for name, units in plan.kept.items())
        cut += len(plan.kept)
    assert 40 < cut < 40 * len([group for group in graph.groups if group.prunable])


def test_a_wrong_cut_breaks_the_law() -> None:
    """The laws can fail: a model cut by another plan of equal sizes is caught."""
    case = Case(Description(steps=(Step("conv", "relu", 8),)))
    name, units = next(iter(case.graph.plan({"stem": [0, 1, 2]}).kept.items()))
    case.plan = case.graph.plan({name: units})
    case.small = apply(case.model, case.graph.plan({name: [unit + 1 for unit in units]}), verify_with=None)
    with pytest.raises(AssertionError, match="is not the slice"):
        LAWS["cut_equals_masked"](case)
    with pytest.raises(AssertionError, match="Tensor-likes are not equal"):
        LAWS["three_ways_to_cut_agree"](case)


def test_the_search_shrinks_to_a_small_network() -> None:
    small = find(descriptions(), lambda found: any(step.block == "attention" for step in found.steps), settings=FEW)
    assert len(small.steps) == 2
    with pytest.raises(NoSuchExample):
        find(descriptions(), lambda found: any(step.block not in BLOCKS for step in found.steps), settings=FEW)
