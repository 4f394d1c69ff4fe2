"""Train with masks in a process of its own, to be killed, continued, or run as one of several.

Usage: masked_run.py FOLDER OUT OPTIMIZER STEPS. STEPS is after how many steps of this process it kills itself, or 0.
"""

import os
import signal
import sys

import safetensors.torch
import torch
from torch import Tensor, distributed, nn

from secateur.data import LabelledImages, MemorySource
from secateur.data.normalization import Normalization
from secateur.sparse import KeepMasks, by_share
from secateur.training import Store, SupervisedTask, TrainSettings


def images() -> MemorySource:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 1, 6, 6), generator=generator, dtype=torch.uint8)
    split = LabelledImages(pixels, torch.arange(60) % 4)
    return MemorySource(name="noise", train=split, test=split, normalization=Normalization((0.5,), (0.3,)))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 4)
    )


def perceptron() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 4))


class Watch:
    """Comes after the masks: everything that they remove must be +0.0 at every step; kills after some steps."""

    def __init__(self, masks: KeepMasks, steps: int = 0) -> None:
        self.masks = masks.masks
        self.left = steps
        self.seen = 0

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.check(model)

    def after_step(self, model: nn.Module) -> None:
        self.check(model)
        self.seen += 1
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def check(self, model: nn.Module) -> None:
        for name, parameter in self.masks.parameters_of(model).items():
            gone = ~self.masks[name]
            tensors = [parameter, *self.optimizer.state.get(parameter, {}).values()]
            for tensor in tensors:
                if tensor.shape == parameter.shape:
                    values = tensor.detach()[gone]
                    # The sign bit tells −0.0 from 0.0.
                    wrong = int((values != 0).sum()) + int(torch.signbit(values).sum())
                    assert wrong == 0, name


def train(folder: str, optimizer: str, steps: int, *, model: nn.Module) -> dict[str, Tensor]:
    settings = TrainSettings(batch_size=8, optimizer=optimizer, learning_rate=0.02, weight_decay=0.01, augment=False)
    task = SupervisedTask(images(), settings=settings, device="cpu", checkpoint_steps=3)
    masks = KeepMasks(by_share(model, 0.7))
    Store(folder).train("retrain", task, model, epochs=2, hooks=[masks, Watch(masks, steps)])
    return model.state_dict()


def main(folder: str, out: str, optimizer: str, steps: str) -> None:
    # Batch statistics differ from process to process, so networks with batch norm do not train alike there.
    model = perceptron() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else network()
    result = train(folder, optimizer, int(steps), model=model)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in result.items()}, out)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
