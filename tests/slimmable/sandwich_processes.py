"""One of several processes under torchrun that take sandwich steps together. Usage: sandwich_processes.py FOLDER."""

import json
import sys
from pathlib import Path

import safetensors.torch
import torch
from slimmable_networks import perceptron, photos, source, tiny_residual
from torch import Tensor, distributed, nn

from secateur.graph import trace
from secateur.slimmable import Sandwich, width_space
from secateur.training import Batch, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=8, learning_rate=0.05, augment=False, evaluate_every=0)
FIXED = ({"1": 12}, {"1": 4})


class Recorded:
    """A sandwich step that remembers what was drawn."""

    def __init__(self, step: Sandwich) -> None:
        self.step = step
        self.drawn: list[object] = []

    def __call__(self, network: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        loss = self.step(network, batch, optimizer)
        self.drawn.append(self.step.drawn)
        return loss


def jointly_trained() -> nn.Module:
    """Return a network without batch norm after training at fixed widths: nothing in it depends on the processes."""
    task = SupervisedTask(source(21), settings=SETTINGS, device="cpu")  # a last batch of 5: parts of 2 and 3
    model = perceptron()
    step = Sandwich(trace(model, photos()), fixed=FIXED, loss=task.loss)
    task.train(model, epochs=2, step=step)
    return model


def main(folder: str) -> None:
    task = SupervisedTask(source(21), settings=SETTINGS, device="cpu")
    model = tiny_residual()
    graph = trace(model, photos())
    step = Recorded(Sandwich(graph, width_space(graph, multiple=1), loss=task.loss))
    task.train(model, epochs=2, step=step)
    rank = distributed.get_rank()
    out = Path(folder)
    safetensors.torch.save_file(model.state_dict(), out / f"drawn{rank}.safetensors")
    safetensors.torch.save_file(jointly_trained().state_dict(), out / f"fixed{rank}.safetensors")
    (out / f"drawn{rank}.json").write_text(json.dumps(step.drawn), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
