"""Networks that are cut in one process and loaded in another: one process per call.

Usage: loaded_afresh.py FOLDER. For each network, FOLDER holds `NAME.safetensors` and `NAME-outputs.safetensors` of the
cut model. This process builds the class anew from another seed, loads the file, compares, exports to ONNX, compares
again, and writes what it found to FOLDER/found.json.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from secateur.export import OnnxModel, export_onnx, load
from secateur.torchvision_shim import import_torchvision


class Attention(nn.Module):
    """Self-attention whose forward reads an integer of its own and the width of its tensor."""

    def __init__(self, width: int, num_heads: int, head: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * num_heads * head)
        self.out = nn.Linear(num_heads * head, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))


class TinyTransformer(nn.Module):
    """Patches, two residual blocks of attention and perceptron, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.attentions = nn.ModuleList(Attention(32, num_heads=8, head=4) for _ in range(2))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.Linear(96, 32)) for _ in range(2)
        )
        self.classes = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for number in range(2):
            x = x + self.attentions[number](self.norms[2 * number](x))
            x = x + self.perceptrons[number](self.norms[2 * number + 1](x))
        return self.classes(x.mean(1))


def shufflenet() -> nn.Module:
    """torchvision's class, with two units per stage."""
    models = import_torchvision().models
    return models.ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 256], num_classes=10)


def mobilenet() -> nn.Module:
    """torchvision's class, with three blocks: strides, squeeze-and-excitation, a residual sum."""
    mobilenetv3 = import_torchvision().models.mobilenetv3
    blocks = [
        mobilenetv3.InvertedResidualConfig(16, 3, 32, 24, True, "RE", 2, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(24, 5, 72, 24, True, "HS", 1, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(24, 3, 72, 40, False, "HS", 2, 1, 1.0),
    ]
    return mobilenetv3.MobileNetV3(blocks, last_channel=64, num_classes=10)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "attention": TinyTransformer,
    "shufflenet": shufflenet,
    "mobilenet": mobilenet,
}


def build(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name]().eval()


def images(seed: int) -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for name in NETWORKS:
        small = load(build(name, seed=9), folder / f"{name}.safetensors").eval()
        stored = safetensors.torch.load_file(folder / f"{name}-outputs.safetensors")["outputs"]
        with torch.no_grad():
            equal = torch.equal(small(images(1)), stored)
            report = export_onnx(small, folder / f"{name}.onnx", images(0))
            wanted, got = small(images(2)), OnnxModel(folder / f"{name}.onnx")(images(2))
        found[name] = {
            "loaded_equal": equal,
            "difference": float((wanted - got).abs().max()),
            "largest": float(wanted.abs().max()),
            "batch_sizes": report.batch_sizes,
            "onnx_bytes": report.size_bytes,
            "params": sum(parameter.numel() for parameter in small.parameters()),
            "num_heads": [module.num_heads for module in small.modules() if isinstance(module, Attention)],
        }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
