"""A run of Gate Decorator on a small network, to be killed and continued: one process per call.

Usage: gate_decorator_run.py FOLDER OUT [KILL]. KILL is the number of the training batch, of those that this process
reads, at which it dies; 0 is never.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from synthetic_data import SyntheticData

from secateur.cost import Budget
from secateur.methods.gate_decorator import GateDecorator
from secateur.record import write_steps
from secateur.training import Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=8, learning_rate=0.02, schedule="constant", momentum=0.9)
METHOD = GateDecorator(
    share=0.15,
    ticks_per_tock=2,
    sparsity=1e-2,
    tick=SETTINGS,
    tick_subset=40,
    tock=SETTINGS,
    tock_epochs=2,
    finetune=SETTINGS,
    finetune_epochs=1,
    cooldown=SETTINGS,
    cooldown_epochs=1,
)


class DeadlyData(SyntheticData):
    """Kills the process at a training batch."""

    def __init__(self, deadly_batch: int) -> None:
        super().__init__()
        self.left = deadly_batch

    def batches(self, split: str, **settings: object) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for batch in super().batches(split, **settings):  # type: ignore[arg-type]
            if split == "train":
                self.left -= 1
                if self.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield batch


class Small(nn.Module):
    """A residual stream, an inner layer with batch norm, a layer without, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 7, 3)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(28, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.head(self.drop(torch.relu(self.plain(x)).flatten(1)))


def main(folder: str, out: str, deadly_batch: str = "0") -> None:
    task = SupervisedTask(DeadlyData(int(deadly_batch)), settings=SETTINGS, device="cpu", checkpoint_steps=3)
    torch.manual_seed(1)
    result = METHOD.compress(Small(), task, Budget(macs=0.55), store=Store(folder))
    decided = {"plan": result.plan.to_json(), "phases": [phase.phase for phase in result.record.phases]}
    tensors = {name: tensor.contiguous() for name, tensor in result.model.state_dict().items()}
    safetensors.torch.save_file(tensors, out, metadata={"decided": json.dumps(decided)})
    write_steps(f"{out}.steps.json", result.record.steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
