"""One of two processes under torchrun that run AutoSlim together. Usage: autoslim_processes.py FOLDER."""

import json
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, distributed, nn

from secateur.cost import Budget
from secateur.graph import trace
from secateur.methods import AutoSlim
from secateur.methods.autoslim import Front, Speed, greedy_slimming
from secateur.methods.autoslim.samples import SearchBatches
from secateur.models import build_model
from secateur.slimmable import width_space
from secateur.training import Batch, Store, SupervisedTask, TrainSettings

SETTINGS = TrainSettings(batch_size=8, learning_rate=0.05, augment=False, evaluate_every=0)
BUDGET = Budget(macs=0.5)
METHOD = AutoSlim(
    supernet_epochs=1, supernet=SETTINGS, steps=3, lower=0.3, multiple=1, search_batch=8, post_batches=2,
    finetune=SETTINGS, finetune_epochs=1,
)  # fmt: skip


def network() -> nn.Module:
    """Return the residual network of the digits, which has batch norm."""
    torch.manual_seed(0)
    return build_model("digits-resnet")


def perceptron() -> nn.Module:
    """Return a network without batch norm: which samples a process sees together changes nothing."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def source() -> Any:
    """Return few small images whose classes a bright column tells."""
    from secateur.data import load_data

    return load_data(f"{Path(__file__).resolve()}:data", validation_share=0.4)


def data() -> dict[str, Any]:
    def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        for number, label in enumerate(labels.tolist()):
            images[number, 0, :, 1 + 2 * label] += 1.0
        return images, labels

    return {"train": samples(60, 1), "test": samples(6, 2)}


def task() -> SupervisedTask:
    """Return the task of every process."""
    return SupervisedTask(source(), settings=SETTINGS, device="cpu")


def front_of(shared: SupervisedTask, shortlist: int | None) -> Front:
    """Search a network that was not trained; each process counts its own samples."""
    model = perceptron()
    graph = trace(model, shared.example_inputs)
    batches: list[Batch] = list(SearchBatches(shared, 8, None)())
    space = width_space(graph, multiple=1, steps=4)
    return greedy_slimming(model, space, batches, [BUDGET], graph=graph, speed=Speed(shortlist=shortlist))


def main(folder: str) -> None:
    shared, out = task(), Path(folder)
    rank = distributed.get_rank()
    for shortlist in (None, 1):
        path = out / f"front-{shortlist}-{rank}.json"
        path.write_text(json.dumps(front_of(shared, shortlist).to_json()), encoding="utf-8")
    done = METHOD.compress(network(), shared, BUDGET, store=Store(out / "store"))
    (out / f"plan-{rank}.json").write_text(json.dumps(done.plan.to_json()), encoding="utf-8")
    safetensors.torch.save_file(done.model.state_dict(), out / f"model-{rank}.safetensors")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
