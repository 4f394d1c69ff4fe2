"""One run of a method in steps, to be killed and continued: one process per call.

Usage: global_killed_run.py FOLDER OUT METHOD [KILL]. METHOD is "global" or "blocks". KILL is "never", "batch:K" (when
this process asks for its K-th training batch, to score or to train on) or "write:K" (in the middle of writing its K-th
file).
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from secateur.cost import Budget
from secateur.methods.blocks import Blocks
from secateur.methods.global_pruning import GlobalPruning
from secateur.training import Store, SupervisedTask, TrainSettings, checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from synthetic_data import SyntheticData

METHODS = {
    "global": (
        GlobalPruning(criterion="gate_taylor", steps=3, step_epochs=1, finetune_epochs=1, score_batches=2),
        Budget(macs=0.5),
    ),
    "blocks": (Blocks(step_epochs=0.5, finetune_epochs=1, score_batches=2), Budget(macs=0.5)),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MortalData(SyntheticData):
    """Kills the process when it asks for one training batch too many."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self._left = left

    def batches(self, split: str, **asked: object) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches(split, **asked):  # type: ignore[arg-type]
            self._left -= split == "train"
            if self._left == 0:
                kill()
            yield batch


class Residual(nn.Module):
    """x + f(x) with two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return y


def small_resnet(width: int = 6, blocks: int = 4) -> nn.Module:
    torch.manual_seed(1)
    stem = nn.Conv2d(1, width, 3, padding=1)
    return nn.Sequential(stem, *(Residual(width) for _ in range(blocks)), nn.Flatten(), nn.Linear(width * 36, 4))


def main(folder: str, out: str, name: str, death: str = "never") -> None:
    kind, _, number = death.partition(":")
    if kind == "write":
        left = int(number)
        save = safetensors.torch.save_file

        def half_a_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
            nonlocal left
            left -= 1
            save(tensors, path, metadata=metadata)
            if left == 0:
                Path(path).write_bytes(Path(path).read_bytes()[:500])
                kill()

        checkpoint.safetensors.torch.save_file = half_a_file
    data = MortalData(int(number) if kind == "batch" else 10**9)
    settings = TrainSettings(batch_size=8, learning_rate=0.02, schedule="triangular")
    task = SupervisedTask(data, settings=settings, device="cpu", checkpoint_steps=3)  # type: ignore[arg-type]
    method, budget = METHODS[name]
    result = method.compress(small_resnet(), task, budget, store=Store(folder))
    told = {"plan": result.plan.to_json(), "steps": [asdict(step) for step in result.record.steps]}
    tensors = {key: value.contiguous() for key, value in result.model.state_dict().items()}
    Path(out).write_bytes(safetensors.torch.save(tensors, {"told": json.dumps(told)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
