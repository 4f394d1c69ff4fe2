"""One of several processes that train together. Usage: parallel_run.py FOLDER OUT, with torchrun's environment."""

import sys

import safetensors.torch
from synthetic_data import SyntheticData, perceptron
from torch import distributed

from secateur.training import Store, SupervisedTask, TrainSettings


def main(folder: str, out: str) -> None:
    settings = TrainSettings(batch_size=8, learning_rate=0.05, augment=False)
    task = SupervisedTask(SyntheticData(train=37), settings=settings, device="cpu")  # a last batch of 5: 2 and 3
    model = perceptron()
    store = Store(folder)
    store.keep("plan", [1, 2])
    assert store.recall("plan").values == [1, 2]
    result = store.train("tune", task, model, epochs=3)
    losses = [epoch.train_loss for epoch in result.epochs]
    samples = [epoch.samples for epoch in result.epochs]
    evaluation = task.evaluate(model)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        metadata = {"losses": repr(losses), "samples": repr(samples), "evaluation": repr(evaluation.loss)}
        safetensors.torch.save_file(model.state_dict(), out, metadata=metadata)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
