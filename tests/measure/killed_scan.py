"""A sensitivity scan to be killed and continued: one process per call.

Usage: killed_scan.py FOLDER OUT LOG [KILL]. Each evaluation adds a line to LOG when it is over. KILL is "evaluation:K"
(when this process begins its K-th evaluation) or "write:K" (in the middle of writing its K-th file).
"""

import os
import signal
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from secateur.criteria import score
from secateur.graph import trace
from secateur.measure import scan_sensitivity, write_sensitivity
from secateur.record import Evaluation
from secateur.training import Store, checkpoint, evaluate


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 10, 3),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(50, 1, 8, 8, generator=generator), torch.randint(4, (50,), generator=generator)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, out: str, log: str, death: str = "never:0") -> None:
    kind, _, number = death.partition(":")
    left = int(number)
    model, (images, labels) = network(), samples()

    def measure(candidate: nn.Module) -> Evaluation:
        nonlocal left
        if kind == "evaluation":
            left -= 1
            if left == 0:
                kill()
        found = evaluate(candidate, [(images, labels)])
        with Path(log).open("a") as lines:
            lines.write("evaluated\n")
        return found

    if kind == "write":
        save = safetensors.torch.save_file

        def half_a_file(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
            nonlocal left
            left -= 1
            save(tensors, path, metadata=metadata)
            if left == 0:
                Path(path).write_bytes(Path(path).read_bytes()[:50])
                kill()

        checkpoint.safetensors.torch.save_file = half_a_file
    graph = trace(model, images[:2])
    scores = score(graph, model)
    found = scan_sensitivity(model, graph, scores, measure, example_inputs=images[:2], store=Store(folder))
    write_sensitivity(out, found)


if __name__ == "__main__":
    main(*sys.argv[1:])
