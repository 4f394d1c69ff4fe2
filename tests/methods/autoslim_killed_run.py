"""One run of AutoSlim, to be killed and continued; usage as of global_killed_run.py, with the method "autoslim"."""

import sys

from global_killed_run import METHODS, main

from secateur.cost import Budget
from secateur.methods.autoslim import AutoSlim
from secateur.training import TrainSettings

TRAINING = TrainSettings(batch_size=8, learning_rate=0.02, schedule="linear", label_smoothing=0.1)
METHODS["autoslim"] = (  # type: ignore[index]
    AutoSlim(
        supernet_epochs=1,
        supernet=TRAINING,
        steps=3,
        lower=0.3,
        multiple=1,
        search_samples=16,
        post_batches=2,
        finetune=TRAINING,
        finetune_epochs=1,
    ),
    Budget(macs=0.6),
)

if __name__ == "__main__":
    main(*sys.argv[1:])
