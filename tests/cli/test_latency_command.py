"""``secateur measure`` and budgets in milliseconds at the command; tables are made up where no clock is needed."""

import json
from pathlib import Path

import pytest
import torch
from cli_command import refused, run
from cost.synthetic_table import synthetic_table

from secateur.cost import LatencyTable, write_latency_table
from secateur.graph import trace
from secateur.models import build_model
from secateur.record import read_record

TOY = Path(__file__).with_name("cli_toy.py")
NETWORK = ("--model", f"{TOY}:network")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LatencyTable]:
    graph = trace(build_model(f"{TOY}:network").eval(), torch.zeros(2, 1, 9, 9))
    weights = ("0.weight", "3.weight", "8.weight")
    made = synthetic_table(graph, weights, step=4, multiple=4, input_shape=(1, 9, 9))
    path = tmp_path_factory.mktemp("tables") / "latency.json"
    write_latency_table(path, made)
    return path, made


def test_a_plan_for_milliseconds(table: tuple[Path, LatencyTable], tmp_path: Path) -> None:
    timed = ("--latency-table", table[0], "--latency-ms", "0.7x")
    words = ("plan", *NETWORK, "--input", "1x9x9", *timed, "--method", "magnitude")
    ran = run(*words, "--json")
    assert ran.code == 0, ran.err
    latency = json.loads(ran.out)["costs"]["latency_ms"]
    assert latency["after"] <= latency["asked"] == pytest.approx(0.7 * latency["before"])
    shown = run(*words)
    assert "latency budget" in shown.out
    assert "0.700 of the dense model" in " ".join(shown.out.split())


def test_a_run_says_what_was_asked_predicted_and_measured(
    table: tuple[Path, LatencyTable], weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="the delivered file is timed in ONNX Runtime")
    job = ("prune", *NETWORK, "--weights", weights, "--data", f"{TOY}:data", "--epochs", "0", "-q")
    path = tmp_path / "latency.json"
    path.write_text(table[0].read_text())
    timed = ("--latency-table", path, "--latency-ms", "0.7x", "--macs", "0.9")
    ran = run(*job, *timed, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    found = read_record(tmp_path / "run" / "record.json").latency_budget
    assert found is not None
    assert found.asked_share == pytest.approx(0.7)
    assert found.predicted_ms <= found.asked_ms
    assert found.table == table[1].digest
    assert found.measured_ms is not None
    assert found.measured_share is not None
    assert found.processor_share is not None  # one thread
    assert found.off == pytest.approx(found.processor_share / 0.7 - 1)
    assert "latency measured" in ran.out
    # The table is of another machine, which the note says.
    assert "was measured on made up" in " ".join(ran.out.split())
    # The same words find the run complete; another table is another run.
    assert run(*job, *timed, "--out", tmp_path / "run").code == 0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"overhead_ms": 0.001}))
    refused(run(*job, *timed, "--out", tmp_path / "run"), "the latency table changed since the run")


def test_what_is_refused_before_any_work(table: tuple[Path, LatencyTable], weights: Path, tmp_path: Path) -> None:
    path, made = table
    job = ("prune", *NETWORK, "--weights", weights, "--data", f"{TOY}:data", "--out", tmp_path / "run", "-q")
    timed = ("--latency-table", path, "--latency-ms", "0.7x")
    refused(run(*job, "--latency-ms", "0.5x"), "needs a latency table", "secateur measure")
    refused(run(*job, "--macs", "0.5", "--latency-table", path), "no budget in milliseconds", "--latency-ms")
    refused(run(*job, *timed, "--threads", "2"), "1 thread", "run with 2")
    refused(run(*job, *timed, "--method", "weights_and_connections"), "makes weights zero")
    refused(run(*job, *timed, "--method", "gate_decorator"), "one by one")
    refused(run(*job, "--latency-ms", "0.5x", "--latency-table", weights), "is not a latency table")
    refused(run(*job, "--latency-ms", "0.0001ms", "--latency-table", path), "cannot reach latency_ms ≤ 0.0001 ms")
    plan = ("plan", "--model", f"{TOY}:flat_network", "--input", "1x9x9", *timed)
    refused(run(*plan), made.fingerprint, "fingerprint")
    plan = ("plan", *NETWORK, "--input", "1x12x12", *timed)
    refused(run(*plan), "inputs of 1×9×9", "these are 1×12×12")
    assert not (tmp_path / "run").exists()


def test_measure_refuses_before_it_measures(tmp_path: Path) -> None:
    words = ("measure", *NETWORK, "--input", "1x9x9")
    there = tmp_path / "there.json"
    there.touch()
    refused(run(*words, "--out", there), "is there already", "--force")
    refused(run(*words, "--out", tmp_path / "new.json", "--rounds", "1"), "--rounds")
    refused(run(*words, "--out", tmp_path / "new.json", "--threads", "0"), "threads is 0")
