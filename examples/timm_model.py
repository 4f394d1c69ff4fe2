"""Cut a timm model to half of its multiply-adds, fine-tune it, and evaluate what ships: its ONNX file in ONNX Runtime.

Shows: any traced model of the library will do (``--model mobilenetv3_small_050`` has depthwise convolutions and
squeeze-excite). Data: scikit-learn's handwritten digits, enlarged. Run: python examples/timm_model.py
"""

import argparse
import tempfile

import onnxruntime
import torch
from torch.nn import functional as F

import secateur


def batches(data, split, image_size, *, seed=None):
    for images, labels in data.batches(split, batch_size=32, seed=seed):
        yield F.interpolate(images, size=image_size, mode="bilinear"), labels


def train(model, data, image_size, epochs):
    optimizer = torch.optim.AdamW(model.parameters())
    steps = len(epochs) * -(-data.size("train") // 32)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    model.train()
    for epoch in epochs:
        for images, labels in batches(data, "train", image_size, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def accuracy(classify, data, image_size):
    right = sum((classify(images).argmax(1) == labels).sum() for images, labels in batches(data, "test", image_size))
    return f"{right / data.size('test'):.2%}"


def in_onnx_runtime(path):
    """Return a function from images to logits that knows nothing of torch's model, as a deployment would have it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet10t", help="a name in timm.list_models() (default: resnet10t)")
    parser.add_argument("--image-size", type=int, default=32, help="pixels of a side (default: 32)")
    parser.add_argument("--epochs", type=int, default=2, help="before the cut, and again after it (default: 2)")
    options = parser.parse_args()
    size, epochs = options.image_size, options.epochs

    torch.manual_seed(0)
    data = secateur.load_data("digits")
    # What timm.create_model(..., num_classes=10, in_chans=1) returns, untrained; give a trained one if you have it.
    model = secateur.build_model(f"timm:{options.model}", num_classes=10, in_channels=1)
    train(model, data, size, range(epochs))
    print(f"trained: test accuracy {accuracy(model.eval(), data, size)}")

    images, _ = next(batches(data, "train", size))
    graph = secateur.trace(model, images[:4])
    plan = secateur.allocate(graph, secateur.score(graph, model, "l1"), secateur.Budget(macs=0.5))
    small = secateur.apply(model, plan, verify_with=images[:4])
    print(f"cut: {graph.macs():,} → {graph.macs(plan):,} MACs, {graph.params():,} → {graph.params(plan):,} parameters")
    print(f"proof: {secateur.verify(model, small, plan, images[:4]).sentence()}")
    print(f"cut: test accuracy {accuracy(small.eval(), data, size)}")

    train(small, data, size, range(epochs, 2 * epochs))
    print(f"fine-tuned: test accuracy {accuracy(small.eval(), data, size)}")

    with tempfile.TemporaryDirectory() as folder:  # keep yours
        report = secateur.export_onnx(small, f"{folder}/small.onnx", images[:4])
        print(f"exported: {report.size_bytes / 1e6:.2f} MB, max|torch − ONNX Runtime| = {report.max_difference:.1e}")
        shipped = in_onnx_runtime(f"{folder}/small.onnx")
        print(f"ONNX Runtime: test accuracy {accuracy(shipped, data, size)}")


if __name__ == "__main__":
    main()
