"""Training on masks, to be killed and continued, or done by several processes.

Usage: segmentation_run.py FOLDER OUT [STEPS]. The process kills itself after STEPS steps.
"""

import os
import signal
import sys
from dataclasses import asdict

import safetensors.torch
from segmentation_data import boxes, small_fcn
from torch import distributed, nn

from secateur.training import Store, SupervisedTask, TrainSettings


class KillAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def after_step(self, model: nn.Module) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: str, out: str, steps: str = "1000000") -> None:
    settings = TrainSettings(batch_size=4, learning_rate=0.05)
    task = SupervisedTask(boxes(), settings=settings, device="cpu", checkpoint_steps=2)
    model = small_fcn(keys=("out", "aux"))
    together = distributed.is_initialized()
    result = None
    if not together:
        result = Store(folder).train("tune", task, model, epochs=2, hooks=[KillAfter(int(steps))])
    evaluation = task.evaluate(model)
    if not together or distributed.get_rank() == 0:
        losses = None if result is None else [epoch.train_loss for epoch in result.epochs]
        # One entry only: several are written in any order.
        text = repr({"losses": losses, **asdict(evaluation)})
        safetensors.torch.save_file(model.state_dict(), out, metadata={"measured": text})
    if together:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
