"""A cut network, loaded from class and file by a process that never saw it, is the same, and so is its ONNX file."""

import json
from pathlib import Path
from typing import Any

import loaded_afresh
import pytest
import safetensors.torch
import torch
from loaded_afresh import NETWORKS, build, images
from own_process import run
from torch import Tensor, nn

from secateur.cost import Budget, allocate
from secateur.criteria import score
from secateur.export import save
from secateur.graph import ChannelGraph, Plan, apply, trace

SHARE = 0.6  # of the MACs to be left


def cut_to_share(name: str) -> tuple[nn.Module, ChannelGraph, Plan]:
    model = build(name, seed=0)
    graph = trace(model, images(0))
    return model, graph, allocate(graph, score(graph, model, "l1"), Budget(macs=SHARE), scope="local")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[ChannelGraph, Plan]], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("cut")
    plans = {}
    for name in NETWORKS:
        model, graph, plan = cut_to_share(name)
        small = apply(model, plan, verify_with=images(0))
        save(small, folder / f"{name}.safetensors", plan=plan)
        safetensors.torch.save_file({"outputs": on_one_thread(small)}, folder / f"{name}-outputs.safetensors")
        plans[name] = (graph, plan)
    run(Path(loaded_afresh.__file__), folder)
    return plans, json.loads((folder / "found.json").read_text())


def on_one_thread(model: nn.Module) -> Tensor:
    """Run as the other process does: more threads add up in another order, which shows in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return model(images(1))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_process_computes_the_same_and_its_onnx_file_too(name: str, cut: Any) -> None:
    plans, found = cut
    graph, plan = plans[name]
    row = found[name]
    assert graph.macs(plan) <= SHARE * graph.macs()
    assert row["params"] == graph.params(plan) < graph.params()
    assert row["loaded_equal"]
    assert row["difference"] < 1e-4
    assert row["difference"] <= 1e-4 * row["largest"]
    assert row["batch_sizes"] == [1, 2, 5]
    assert row["onnx_bytes"] < 4 * graph.params() + 300_000


def test_heads_that_were_cut_are_gone_in_the_fresh_process(cut: Any) -> None:
    plans, found = cut
    _, plan = plans["attention"]
    planned = [value for _, attribute, value in plan.attributes if attribute == "num_heads"]
    assert planned
    assert min(planned) < 8
    assert min(found["attention"]["num_heads"]) == min(planned)
