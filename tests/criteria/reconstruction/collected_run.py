"""Collects statistics and fits a cut model, alone or as one of several processes. Usage: collected_run.py OUT."""

import sys

import safetensors.torch
import torch
from torch import Tensor, distributed, nn

from secateur.compensation import compensate
from secateur.criteria.reconstruction import collect, readers_of
from secateur.graph import apply, trace
from secateur.training import join_processes


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def main(out: str) -> None:
    processes = join_processes()
    images = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    # The last batch has one image, so that one of two processes gets none of it.
    parts = [batch[processes.rank :: processes.world_size] for batch in images.split([4, 4, 1])]
    batches = [(part, torch.zeros(len(part))) for part in parts]
    model = network()
    graph = trace(model, images)
    readers = {name: readers_of(graph, model, name) for name in ("0", "2")}
    found: dict[str, Tensor] = {}
    for group, of_readers in collect(model, readers, batches).items():
        for path, statistics in of_readers.items():
            found |= {f"{group}.{path}.{name}": tensor for name, tensor in statistics.state_dict().items()}
    plan = graph.plan({"0": [0, 2, 3], "2": [1, 2]})
    small = apply(model, plan, verify_with=None)
    fitted = compensate(model, small, plan, lambda: batches, "both", graph=graph)
    found |= {f"small.{name}": tensor.double() for name, tensor in small.state_dict().items()}
    found["images"] = torch.tensor(float(fitted.images), dtype=torch.float64)
    if processes.first:
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
