"""The tables in README and docs are those that the records give."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_tables_are_made_from_the_records() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}run: .venv/bin/python benchmarks/tables.py"


def test_what_is_not_recorded_yet_has_a_table_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("tables").TABLES
    place = {"cpu": "a CPU", "python": "3.11", "torch": "2"}
    masked = {
        "rows": [
            {"workload": "lenet5, sgd", "threads": 2, "masked_weights": 387_450, "plain_ms_per_step": 10.0}
            | {"masked_ms_per_step": 11.2, "ratio": 1.12, "target": 1.1, "sparsity": 0.9, "batch_size": 128}
        ],
        "load_average": [0.5, 0.4, 0.3],
        "environment": place,
    }
    text = tables["masked_step"](masked)
    assert "| lenet5, sgd | 2 | 387,450 | 10.00 | 11.20 | 1.120 | missed |" in text
    errors = {"as they are": 0.25, "re-weighted": 0.125}
    row = {
        "layer": "features.2",
        "channels": 64,
        "filters": 128,
        "images": 16,
        "accumulation_of_forward": 0.4,
        "selection_s": {"exact": 0.001, "rows": 0.5},
        "selection_ratio": 500.0,
        "whole_passes": {"exact_s": 10.0, "rows_s_extrapolated": 2000.0, "ratio": 200.0},
        "passes_until_layer": {"ratio": 50.0},
        "held_out_error": {"rows": errors, "exact": {"16": {**errors, "re-weighted": 0.1}}, "no_worse": True},
        "gram_error": 1e-7,
        "working_memory_mb": {"forward": 100.0, "exact": {"8": 110.0, "32": 120.0}, "rows": 900.0},
    }
    record = {
        "rows": [row],
        "aims": {"selection": 100.0, "total": 20.0, "accumulation": 0.5, "gram": 1e-6},
        "authors": {"images": 10_000, "rows_per_image": 10},
        "options": {"side": 224, "rows": 100_000, "held_out": 64, "batch": 8, "rounds": 5, "threads": 1},
        "load_average": {"before": [0.1, 0.1, 0.1], "cores": 2},
        "environment": place,
    }
    text = tables["thinet"](record)
    assert (
        "| `features.2`, 64 → 128 | 16 | 0.40 | 1.00 / 500 | 500× | 10.0 / 2,000 | 200.0× | 50.0× | 10.00 / 12.50 | "
        "1e-07 | 100 / 110, 120 / 900 |"
    ) in text
    assert "choosing × faster 100, in all × faster 20, accumulation of a forward pass 0.5, error of G 1e-06" in text
