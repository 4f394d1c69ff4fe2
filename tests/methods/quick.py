"""Settings with which each method runs in seconds on the digits."""

from typing import Any

from secateur.cost import Budget
from secateur.methods import METHODS
from secateur.training import TrainSettings

SETTINGS = TrainSettings(batch_size=256, learning_rate=0.01, schedule="constant")
QUICK: dict[str, dict[str, Any]] = {
    "magnitude": {"finetune_epochs": 1, "steps": 2},
    "l1": {"finetune_epochs": 1, "finetune": None},
    "global": {"finetune_epochs": 1, "steps": 2, "criterion": "gate_taylor"},
    "blocks": {"finetune_epochs": 1, "score_batches": 1},
    "gate_decorator": {
        "share": 0.1,
        "tick": SETTINGS,
        "tick_subset": 256,
        "tock": SETTINGS,
        "tock_epochs": 1,
        "finetune": SETTINGS,
        "finetune_epochs": 1,
        "cooldown_epochs": 0,
    },
    "thinet": {"images": 64, "layer_epochs": 0.1, "recover": SETTINGS, "finetune": None, "finetune_epochs": 1},
    "weights_and_connections": {
        "iterations": 2,
        "retrain_epochs": 1,
        "finetune_epochs": 1,
        "scan_shares": (0.3, 0.6, 0.9),
        "activation_batches": 1,
    },
    "autoslim": {
        "supernet_epochs": 1,
        "supernet": SETTINGS,
        "steps": 4,
        "search_samples": 64,
        "finetune": SETTINGS,
        "finetune_epochs": 1,
        "uniform": False,
    },
    "network_slimming": {"sparse_epochs": 1, "finetune_epochs": 1, "training": None},
}


def budget_for(name: str, share: float) -> Budget:
    """Return a budget of this share, in what the method reduces."""
    return Budget(macs=share) if METHODS[name].reduces == "channels" else Budget(nonzeros=share)
