"""Cut the network of a LightningModule in mid-training: in place, with its optimiser's state, and proved first.

Shows ``CutInTraining``, a Lightning callback to copy into a project, and the two lines of the LightningModule that make
checkpoints written after the cut load.
Data: scikit-learn's handwritten digits. Run: python examples/lightning_callback.py
"""

import argparse
import logging
import tempfile
import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.torchvision_shim import import_torchvision

# Lightning imports torchvision, whose CUDA wheel does not load beside a CPU-only torch. Elsewhere leave this out.
import_torchvision()
import lightning as L  # noqa: E402


class CutInTraining(L.Callback):
    """Cut once, before the first batch of an epoch. The network stays the same object, so what holds it goes on.

    For one device: DistributedDataParallel sizes its gradient buckets once, for the dense network. All parameters of
    the optimisers are to be the network's.

    Args:
        epoch: before which to cut.
        budget: what the cut network may cost.
        example_inputs: what the network takes, a few samples.
        network: name of the LightningModule's attribute that holds the network; "" for the module itself, where its own
            ``forward`` takes the example inputs.
        criterion: see ``secateur.score``.
    """

    def __init__(self, *, epoch, budget, example_inputs, network="network", criterion="l1"):
        self.epoch, self.budget, self.example_inputs = epoch, budget, example_inputs
        self.network, self.criterion = network, criterion
        self.plan = None

    def on_train_epoch_start(self, trainer, pl_module):
        if self.plan is not None or trainer.current_epoch < self.epoch:
            return
        if trainer.world_size > 1:
            raise RuntimeError(f"CutInTraining needs one device, but there are {trainer.world_size} processes")
        network = pl_module.get_submodule(self.network)
        inputs = self.example_inputs.to(pl_module.device)
        graph = secateur.trace(network, inputs)
        plan = secateur.allocate(graph, secateur.score(graph, network, self.criterion), self.budget)
        # `apply_` proves nothing, so a copy is cut and compared first: a cut that is not exact raises here.
        proof = secateur.verify(network, secateur.apply(network, plan, verify_with=None), plan, inputs)
        if not proof.passed:
            raise secateur.SecateurError(proof.sentence())
        secateur.apply_(network, plan, optimizers=trainer.optimizers)
        self.plan = plan
        print(f"before epoch {trainer.current_epoch}: {graph.macs():,} → {graph.macs(plan):,} MACs")
        print(f"proof: {proof.sentence()}")

    # A checkpoint written after the cut holds narrow tensors, so it says which.

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        if self.plan is not None:
            checkpoint["secateur_plan"] = self.plan.to_json()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        if "secateur_plan" in checkpoint:
            self.plan = secateur.Plan.from_json(checkpoint["secateur_plan"])  # do not cut again


class Classifier(L.LightningModule):
    """An ordinary LightningModule; only ``on_load_checkpoint`` knows of the cut."""

    def __init__(self):
        super().__init__()
        self.network: nn.Module = secateur.build_model("digits-resnet")  # or your own

    def training_step(self, batch, _):
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch, _):
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def on_load_checkpoint(self, checkpoint):
        # Lightning calls this on the freshly built module before it loads the weights.
        if "secateur_plan" in checkpoint:
            secateur.apply_(self.network, secateur.Plan.from_json(checkpoint["secateur_plan"]))


class PrintAccuracy(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):  # after validation
        print(f"epoch {trainer.current_epoch}: test accuracy {trainer.callback_metrics['accuracy']:.2%}")


def trainer_for(epochs, *callbacks):
    """Return a Trainer that leaves nothing on disk."""
    return L.Trainer(
        max_epochs=epochs,
        callbacks=[*callbacks, PrintAccuracy()],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="in all; the cut is in the middle (default: 8)")
    epochs = parser.parse_args().epochs
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no list of the devices that are not there
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # tensors in memory need none
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning 2.6 with torch 2.13

    L.seed_everything(0, verbose=False)
    data = secateur.load_data("digits")
    train, test = (TensorDataset(*next(data.batches(name, batch_size=data.size(name)))) for name in ("train", "test"))
    train_batches, test_batches = DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=512)
    settings = {"epoch": epochs // 2, "budget": secateur.Budget(macs=0.5), "example_inputs": train[:8][0]}

    module = Classifier()
    trainer = trainer_for(epochs, CutInTraining(**settings))
    trainer.fit(module, train_batches, test_batches)

    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/last.ckpt")
        loaded = Classifier.load_from_checkpoint(f"{folder}/last.ckpt")
        result = trainer_for(epochs).validate(loaded, test_batches, verbose=False)
        print(f"loaded from the checkpoint: test accuracy {result[0]['accuracy']:.2%}")
        print("continued from the checkpoint:")
        longer = trainer_for(epochs + 1, CutInTraining(**settings))
        longer.fit(Classifier(), train_batches, test_batches, ckpt_path=f"{folder}/last.ckpt")


if __name__ == "__main__":
    main()
