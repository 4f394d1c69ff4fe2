"""One run that prunes weights, to be killed and continued; usage as of global_killed_run.py.

The method is "weights", in rounds with layers in turn, or "surgery", with masks that change in training.
"""

import sys

from global_killed_run import METHODS, main

from secateur.compensation import RestoreSettings
from secateur.cost import Budget
from secateur.methods.weights_and_connections import Regrow, WeightsAndConnections

METHODS["weights"] = (  # type: ignore[index]
    WeightsAndConnections(
        iterations=2,
        order="linear_first",
        skip=("2", "3", "4"),
        scan_shares=(0.5, 0.9),
        retrain_epochs=1,
        retrain_l1=1e-4,
        finetune_epochs=1,
        activation_batches=1,
        restore=RestoreSettings(batch_norm_images=8),
    ),
    Budget(nonzeros=0.7),
)
METHODS["surgery"] = (  # type: ignore[index]
    WeightsAndConnections(
        connect_epochs=1,
        connect_l1=1e-4,
        allocation="global",
        regrow=Regrow(epochs=2, every=2, decay=0.05, l1=1e-4),
        finetune_epochs=1,
        activation_batches=1,
    ),
    Budget(nonzeros=0.3),
)

if __name__ == "__main__":
    main(*sys.argv[1:])
