"""``secateur groups``: the table, what holds the model back, one group in full."""

import json
import re

import pytest
from cli_command import refused, run

from secateur.graph import ChannelGraph

NETWORK = ("--model", "digits-resnet")


def test_the_table_and_what_limits_the_cut() -> None:
    shown = run("groups", *NETWORK)
    assert shown.code == 0, shown.err
    assert "layer2.0.conv1" in shown.out
    assert "At most 99.8 % of 1.648M MACs can be cut" in shown.out
    assert "output of the model" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_only_what_is_locked() -> None:
    shown = run("groups", *NETWORK, "--locked")
    assert shown.code == 0, shown.err
    assert shown.out.startswith("Cannot be cut (2 groups)")
    assert "layer2.0.conv1" not in shown.out


def test_long_lists_are_counted_unless_all_is_asked_for() -> None:
    short, whole = (run("groups", "--model", "resnet110", *more).out for more in ((), ("--all",)))
    assert "more" in short
    assert "layer3.17.conv1" not in short.partition("Cannot be cut")[0]
    assert "layer3.17.conv1" in whole
    assert "… " not in whole


def test_one_group_in_full() -> None:
    shown = run("groups", *NETWORK, "--group", "conv1")
    assert shown.code == 0, shown.err
    words = " ".join(shown.out.split())
    assert "conv1.weight dim 0 1 slice, produces" in words
    assert re.search(
        r"add in layer1\.0 \(\w+\.py:\d+\) ties layer1\.0\.conv2\.weight out with conv1\.weight out", words
    )
    told = json.loads(run("groups", *NETWORK, "--group", "conv1", "--json").out)
    assert told["name"] == "conv1"
    assert {"operator", "module", "line", "members", "group"} == set(told["ties"][0])
    assert "conv1.weight" in {member["parameter"] for member in told["members"]}


def test_json_is_complete() -> None:
    data = json.loads(run("groups", *NETWORK, "--json").out)
    graph = ChannelGraph.from_json(data)
    assert "conv1" in {group.name for group in graph.groups}
    assert data["ties"]
    assert data["why"]["prunable_share_of_macs"] == graph.prunable_share_of_macs()
    assert {limit["reason"] for limit in data["why"]["limits"]} >= {"output of the model"}
    assert set(json.loads(run("groups", *NETWORK, "--json", "--locked").out)) == {"why"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--group", "layer1.0.conv"), ("unknown group 'layer1.0.conv'", "did you mean 'layer1.0.conv1'")),
        (("--group", "conv1", "--locked"), ("--group conv1", "--locked", "give one of them")),
    ],
)
def test_what_cannot_be_shown_is_refused(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(run("groups", *NETWORK, *words), *parts)
