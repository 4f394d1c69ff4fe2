"""One run of ThiNet, to be killed and continued; usage as of global_killed_run.py, with the method "thinet"."""

import sys

from global_killed_run import METHODS, main

from secateur.compensation import RestoreSettings
from secateur.cost import Budget
from secateur.methods.thinet import ThiNet

METHODS["thinet"] = (  # type: ignore[index]
    ThiNet(
        images=16,
        layer_epochs=1,
        recover=None,
        finetune=None,
        finetune_epochs=1,
        residual="inner",
        restore=RestoreSettings(batch_norm_images=8),
    ),
    Budget(macs=0.6),
)

if __name__ == "__main__":
    main(*sys.argv[1:])
