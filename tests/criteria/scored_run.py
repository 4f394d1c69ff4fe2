"""Trains with accumulators as hooks, to be killed or run by several processes. Usage: scored_run.py FOLDER OUT [KILL].

KILL is the number of steps of this process after which it kills itself. Writes the scores of each criterion.
"""

import os
import signal
import sys
from contextlib import ExitStack

import safetensors.torch
import torch
from torch import distributed, nn

from secateur.criteria import Accumulator, score
from secateur.data.memory import LabelledImages, MemorySource
from secateur.graph import trace
from secateur.training import Store, SupervisedTask, TrainSettings

CRITERIA = ("gate_taylor", "weight_taylor", "activation_taylor", "fisher", "apoz", "mean_activation")


class KillAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def after_step(self, model: nn.Module) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def network() -> nn.Module:
    """Without batch statistics, so that two processes compute what one does."""
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(5, 3))


def images(size: int, seed: int) -> LabelledImages:
    draws = torch.Generator().manual_seed(seed)
    return LabelledImages(torch.rand(size, 1, 8, 8, generator=draws), torch.arange(size) % 3)


def main(folder: str, out: str, kill: str = "0") -> None:
    data = MemorySource(name="noise", train=images(37, 0), test=images(6, 1), validation_share=0, peak=1.0)
    settings = TrainSettings(batch_size=8, learning_rate=0.05, augment=False)
    task = SupervisedTask(data, settings=settings, device="cpu", checkpoint_steps=2)
    model = network()
    graph = trace(model, task.example_inputs)
    with ExitStack() as stack:
        taken = {name: stack.enter_context(Accumulator(graph, model, name)) for name in CRITERIA}
        hooks = [*taken.values(), KillAfter(int(kill))]
        Store(folder).train("tick", task, model, epochs=2, hooks=hooks)
    scores = {f"train.{name}.{key}": values for name in taken for key, values in taken[name].scores().items()}
    for name in CRITERIA:
        once = score(graph, model, name, batches=task.batches(4), loss=task.loss)
        scores |= {f"once.{name}.{key}": values for key, values in once.items()}
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        safetensors.torch.save_file(scores, out)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
