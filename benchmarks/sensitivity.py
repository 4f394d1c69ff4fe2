"""Sensitivity of every layer of ResNet-56 (option B) on the lossless part of CIFAR-10, beside the paper's skip list.

Run with `.venv/bin/python benchmarks/sensitivity.py`; needs `../shared/data` (see its README) and about ten minutes on
one core. The scan can be stopped and continued; it evaluates on 400 test images that decide and are never reported. The
record goes to `benchmarks/records/sensitivity.json`, the curves to `docs/figures/sensitivity-resnet56.svg`.
"""

import argparse
import json
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur.files import write_text
from secateur.measure import Sensitivity, read_sensitivity
from secateur.recipe import DataChoice, Machine, ModelChoice, SensitivityRecipe, measure_sensitivity

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT.parent / "shared" / "data" / "weights" / "resnet56-cifar10-shortcut-b.safetensors"
SHOWN = (0.5, 0.9)
# Li et al. 2017, arXiv:1608.08710, §4.2: layers that ResNet-56-B leaves whole; the stem is layer 1.
PAPER_SKIPS = (16, 18, 20, 34, 38, 54)
BLOCKS_PER_STAGE = 9


def layer_number(name: str) -> int | None:
    """Return the paper's number of a first convolution of a block, such as 38 for ``layer3.0.conv1``."""
    stage, _, rest = name.partition(".")
    block, _, conv = rest.partition(".")
    if conv != "conv1" or not stage.startswith("layer"):
        return None
    return 2 + 2 * (BLOCKS_PER_STAGE * (int(stage.removeprefix("layer")) - 1) + int(block))


def rows(found: Sensitivity) -> list[dict[str, Any]]:
    """Return the layers by their mean drop over all shares, steepest first."""
    table: list[dict[str, Any]] = []
    for group in found.groups:
        drops = {point.share: found.dense.top1 - point.evaluation.top1 for point in group.points}
        number = layer_number(group.name)
        table.append(
            {
                "layer": group.name,
                "number": number,
                "tied": group.tied,
                "skipped_by_paper": number in PAPER_SKIPS,
                "mean_drop": statistics.fmean(drops.values()),
                **{f"drop_at_{share:g}": drops[share] for share in SHOWN},
            }
        )
    return sorted(table, key=lambda row: -row["mean_drop"])


def main() -> None:
    """Scan and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, default=Path("runs") / "sensitivity-resnet56", help="folder of the scan")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", type=Path, help="make the record from this sensitivity.json, without scanning")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "records" / "sensitivity.json")
    options = parser.parse_args()
    recipe = SensitivityRecipe(
        model=ModelChoice(spec="resnet56-b", weights=str(WEIGHTS)),
        data=DataChoice(spec=f"{ROOT / 'benchmarks' / 'cifar10.py'}:lossless_parts"),
        machine=Machine(threads=options.threads, device="cpu"),
    )
    found = (
        read_sensitivity(options.result) if options.result else measure_sensitivity(recipe, options.scan).sensitivity
    )
    record = {
        "benchmark": "sensitivity",
        "what": "ResNet-56 (option B), each layer cut alone, L1 norm, no retraining",
        "samples": found.dense.samples,
        "dense_top1": found.dense.top1,
        "environment": asdict(found.environment) if found.environment else None,
        "rows": rows(found),
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    picture = (options.result or options.scan / "sensitivity.json").with_suffix(".svg")
    shutil.copyfile(picture, ROOT / "docs" / "figures" / "sensitivity-resnet56.svg")


if __name__ == "__main__":
    main()
