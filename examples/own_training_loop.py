"""Cut a network in the middle of your own training loop, to half of its multiply-adds, and go on training.

Shows: trace, score, allocate, apply (proved), an optimiser that keeps the momentum of the channels that stay, and one
file for weights and plan. Data: scikit-learn's handwritten digits. Run: python examples/own_training_loop.py
"""

import tempfile

import torch
from torch.nn import functional as F

import secateur


def train(model, optimizer, epochs):
    model.train()
    for epoch in epochs:
        for images, labels in data.batches("train", batch_size=64, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model):
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum() for images, labels in data.batches("test", batch_size=256))
    return f"test accuracy {right / data.size('test'):.2%}"


torch.manual_seed(0)
data = secateur.load_data("digits")  # any source of (images, labels) will do
model = secateur.build_model("digits-resnet")  # any nn.Module that runs will do
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
train(model, optimizer, epochs=range(0, 4))
print(f"trained: {accuracy(model)}")

# The cut. The example inputs show how data flows through the model, and what the proof compares: real images are best.
images, _ = next(data.batches("train", batch_size=8))
graph = secateur.trace(model, images)  # which channels hang together, and what they cost
scores = secateur.score(graph, model, "l1")  # how much each of them matters
plan = secateur.allocate(graph, scores, secateur.Budget(macs=0.5))  # which ones stay; nothing is touched yet
small = secateur.apply(model, plan, verify_with=images)  # a new, ordinary nn.Module; a wrong cut would raise here
secateur.apply_to_optimizer(optimizer, before=model, after=small, plan=plan)  # it steps `small` from now on
print(f"cut: {graph.macs():,} → {graph.macs(plan):,} MACs, {accuracy(small)}")
print(f"proof: {secateur.verify(model, small, plan, images).sentence()}")

train(small, optimizer, epochs=range(4, 8))
print(f"fine-tuned: {accuracy(small)}")

# Weights and plan go into one file. It is loaded into the dense model, freshly built, which comes back cut.
with tempfile.TemporaryDirectory() as folder:  # keep yours
    secateur.save(small, f"{folder}/small.safetensors", plan=plan)
    loaded = secateur.load(secateur.build_model("digits-resnet"), f"{folder}/small.safetensors")
print(f"loaded: {accuracy(loaded)}")
