"""The INT8 file in OpenVINO, where that is installed: what it gets right, and how fast."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur import record
from secateur.data import DataSource
from secateur.export.int8 import OpenVinoModel
from secateur.recipe.quantizing.ready import BATCH_SIZE
from secateur.recipe.quantizing.stages import Stages, Watched
from secateur.training import evaluate, task_of

WARM_UP, REPEATS = 5, 25


@dataclass(frozen=True)
class InOpenVino:
    """What was measured there.

    Attributes:
        name: version, and the precision of what is not in integers, which OpenVINO would choose by itself.
        measurement: accuracy on the test split, and latencies.
    """

    name: str
    measurement: record.Measurement


def runs_there(data: DataSource) -> bool:
    """Say whether OpenVINO is installed and the data has one class per image."""
    return importlib.util.find_spec("openvino") is not None and task_of(data) != "segmentation"


def in_openvino(path: Path, data: DataSource, timed: Sequence[Tensor], threads: int, stages: Stages) -> InOpenVino:
    """Evaluate and time the file in a process of OpenVINO's own, after the other runtimes and not in turn with them.

    Args:
        path: the INT8 file.
        data: what it is evaluated on.
        timed: one image, then a batch.
        threads: that OpenVINO may use.
        stages: told what is being done.

    Raises:
        ArtifactError: OpenVINO refuses the file, crashes on it, or is not done in time.
    """
    stages.begins("evaluating the INT8 file in OpenVINO", images=data.size("test"))
    with OpenVinoModel(path, threads=threads) as model:
        batches = Watched(data, stages).batches("test", batch_size=BATCH_SIZE)
        test = evaluate(model, batches, classes=data.num_classes)
        latencies = []
        for images in timed:
            model.time_ms(images, repeats=WARM_UP)
            latencies.append(_summary(model.time_ms(images, repeats=REPEATS), images, threads))
        name = f"OpenVINO {model.version}, {model.precision} where it is not in integers"
    return InOpenVino(name, record.Measurement(test=test, latency=latencies[0], batch_latency=latencies[1]))


def _summary(timings: Sequence[float], images: Tensor, threads: int) -> record.Latency:
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    first, middle, third = torch.tensor(timings, dtype=torch.float64).quantile(quartiles).tolist()
    return record.Latency(
        median_ms=middle,
        spread_ms=third - first,
        repeats=len(timings),
        batch_size=len(images),
        threads=threads,
        runtime="openvino",
    )
