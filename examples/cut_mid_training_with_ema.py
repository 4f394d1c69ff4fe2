"""Cut a network in mid-training together with what has grown around it: averaged weights, optimiser, learning rates.

Shows: one plan cuts the network and its exponential moving average (EMA) in place, so that averaging and the schedule
of the learning rate go on as if nothing had happened; and that the averaged network, cut, computes what it computed
with the removed channels masked.
Data: scikit-learn's handwritten digits. Run: python examples/cut_mid_training_with_ema.py
"""

import argparse
import copy

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur


def train(network, ema, optimizer, scheduler, data, epochs):
    for epoch in epochs:
        network.train()
        for images, labels in data.batches("train", batch_size=64, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            ema.update_parameters(network)
            scheduler.step()


@torch.no_grad()
def accuracy(model, data):
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum() for images, labels in data.batches("test", batch_size=256))
    return f"{right / data.size('test'):.2%}"


@torch.no_grad()
def check_of_ema(ema, before, plan, images):
    """Return max|masked − cut| and max|original − masked| of the averaged network, in float64."""
    before, after, images = before.double().eval(), copy.deepcopy(ema.module).double().eval(), images.double()
    with secateur.masked(before, plan):
        masked = before(images)
    return (masked - after(images)).abs().max(), (before(images) - masked).abs().max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="in all; the cut is in the middle (default: 10)")
    epochs = parser.parse_args().epochs

    torch.manual_seed(0)
    data = secateur.load_data("digits")
    steps_per_epoch = -(-data.size("train") // 64)
    network = secateur.build_model("digits-resnet")
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * steps_per_epoch)
    train(network, ema, optimizer, scheduler, data, range(0, epochs // 2))
    print(f"trained: test accuracy {accuracy(network, data)}, averaged {accuracy(ema, data)}")

    images, _ = next(data.batches("train", batch_size=8))
    graph = secateur.trace(network, images)
    # The averaged weights are the steadier ones to judge channels by, and the ones that will be used.
    plan = secateur.allocate(graph, secateur.score(graph, ema.module, "l1"), secateur.Budget(macs=0.5))
    secateur.apply(network, plan, verify_with=images)  # the proof, on a copy: raises before anything is touched
    averaged_before = copy.deepcopy(ema.module)  # only for the check below

    # Both are cut in place by the same plan, so every average keeps its parameter, and the scheduler its optimiser.
    secateur.apply_(network, plan, optimizers=[optimizer])
    secateur.apply_(ema.module, plan)
    print(f"cut: {graph.macs():,} → {graph.macs(plan):,} MACs")
    print(f"proof: {secateur.verify(averaged_before, ema.module, plan, images).sentence()}")
    error, effect = check_of_ema(ema, averaged_before, plan, images)
    print(f"averaged network: max|masked − cut| = {error:.1e}, max|original − masked| = {effect:.1e}")
    print(f"cut: test accuracy {accuracy(network, data)}, averaged {accuracy(ema, data)}")
    print(f"step {scheduler.last_epoch} of {scheduler.total_steps}: learning rate {scheduler.get_last_lr()[0]:.4f}")

    train(network, ema, optimizer, scheduler, data, range(epochs // 2, epochs))
    print(f"fine-tuned: test accuracy {accuracy(network, data)}, averaged {accuracy(ema, data)}")
    print(f"step {scheduler.last_epoch} of {scheduler.total_steps}: learning rate {scheduler.get_last_lr()[0]:.4f}")


if __name__ == "__main__":
    main()
