"""Write a criterion of your own, and compare it with L1 and with chance at the same budget, before any fine-tuning.

Shows the two ways: a ``Criterion`` (a function of the filters of one layer; here the distance to the others, FPGM) and
scores that come from anywhere (a tensor per group; here the scales of batch norms).
Data: scikit-learn's handwritten digits. Run: python examples/own_criterion.py
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

import secateur


def distance_to_others(slices):
    """Return how far each filter lies from all others of its layer, (n, elements) → (n,): what others can replace goes.

    Source: He et al. 2019, "Filter Pruning via Geometric Median" (FPGM), arXiv:1811.00250, eq. 6.
    """
    return torch.cdist(slices, slices, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)


FPGM = secateur.Criterion("fpgm", distance_to_others, "He et al. 2019, arXiv:1811.00250")


def batch_norm_scales(graph, model):
    """Return the mean |γ| of the batch norms behind each unit, {group: (units,)}: data the producing weights lack.

    Source: Liu et al. 2017, "Network Slimming", arXiv:1708.06519, §3 (without its training for sparsity).
    """
    scales = {f"{name}.weight": module.weight for name, module in model.named_modules() if is_batch_norm(module)}
    scores = {}
    for group in graph.groups:
        # A member is one dimension of one parameter, with the unit that each of its indices belongs to (-1: to none).
        members = [member for member in group.members if member.parameter in scales]
        if not group.prunable or not members:
            continue  # allocate leaves alone what has no scores
        total, count = torch.zeros(group.size), torch.zeros(group.size)
        for member in members:
            units = torch.from_numpy(member.units)
            mine = units >= 0
            total.index_add_(0, units[mine], scales[member.parameter].detach()[mine].abs())
            count.index_add_(0, units[mine], torch.ones(int(mine.sum())))
        scores[group.name] = total / count
    return scores


def is_batch_norm(module):
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def train(model, data, epochs):
    # Strong weight decay: what the network does not need fades, so that weights alone can tell it. With a decay of 5e-4
    # so short a training leaves the weights much as they were drawn, and no criterion beats chance.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.02)
    steps = epochs * -(-data.size("train") // 64)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        for images, labels in data.batches("train", batch_size=64, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def accuracy(model, data):
    model.eval()
    batches = data.batches("validation", batch_size=256)
    return float(sum((model(images).argmax(1) == labels).sum() for images, labels in batches) / data.size("validation"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-adds that stays (default: 0.5)")
    parser.add_argument("--epochs", type=int, default=12, help="of training before the cut (default: 12)")
    options = parser.parse_args()

    torch.manual_seed(0)
    # Who compares criteria chooses one, so the test split stays out of it.
    data = secateur.load_data("digits", validation_share=0.3)
    model = secateur.build_model("digits-resnet")
    train(model, data, options.epochs)
    print(f"dense: validation accuracy {accuracy(model, data):.2%}")

    images, _ = next(data.batches("train", batch_size=8))
    graph = secateur.trace(model, images)
    contenders = {
        "l1": secateur.score(graph, model, "l1"),
        "fpgm": secateur.score(graph, model, FPGM),
        "batch norm": batch_norm_scales(graph, model),
        **{f"random {seed}": secateur.score(graph, model, "random", seed=seed) for seed in range(5)},
    }
    for name, scores in contenders.items():
        # scope="local" takes the same share from every group: then only the order within a group counts, not how a
        # criterion compares layers, and all contenders cut equally many channels everywhere.
        plan = secateur.allocate(graph, scores, secateur.Budget(macs=options.macs), scope="local")
        small = secateur.apply(model, plan, verify_with=images)
        verdict = secateur.verify(model, small, plan, images).verdict
        result = f"{verdict}, validation accuracy {accuracy(small, data):.2%}"
        print(f"{name}: {graph.macs():,} → {graph.macs(plan):,} MACs, {result}")


if __name__ == "__main__":
    main()
