"""The two ways to choose channels that `benchmarks/thinet.py` compares, and what both work on."""

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction import GramAccumulator, greedy_removal, sample_rows
from secateur.data import load_data
from secateur.models import build_model
from secateur.randomness import generator_for

AUTHORS_IMAGES, AUTHORS_ROWS_PER_IMAGE = 10_000, 10
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def network() -> nn.Sequential:
    """Return VGG-16 as one chain; its filters differ in size as those of trained networks do, about twofold."""
    torch.manual_seed(0)
    model = build_model("vgg16-imagenet").eval()
    scale = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            sizes = torch.exp(0.5 * torch.randn(module.out_channels, generator=scale) - 0.25)  # mean square 1
            module.weight.data *= sizes.view(-1, 1, 1, 1)
    # The pooling changes nothing at 224 × 224; it is for trials with smaller images.
    return nn.Sequential(*model.features, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *model.classifier)


def images(split: str, count: int, side: int, batch: int) -> Iterator[Tensor]:
    """Yield real images, enlarged, in batches of at most ``batch``."""
    source = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", validation_share=0.0, normalize="imagenet")
    if count > source.size(split):
        raise SystemExit(f"{count} images are asked for, but the {split} part has {source.size(split)}")
    left = count
    for pixels, _ in source.batches(split, batch_size=batch):
        part = pixels[:left]
        left -= len(part)
        yield nn.functional.interpolate(part, size=(side, side), mode="bicubic")
        if left == 0:
            return


def inputs_of(chain: nn.Sequential, layers: list[int], pixels: Tensor) -> dict[int, Tensor]:
    """Return what each layer reads."""
    found = {}
    with torch.no_grad():
        for number, module in enumerate(chain[: max(layers) + 1]):
            if number in layers:
                found[number] = pixels
            pixels = module(pixels)
    return found


def channels_of(chain: nn.Sequential, layer: int) -> int:
    """Return how many channels a layer reads."""
    return int(chain[layer].in_channels)


class Rows:
    """The authors' matrix for one layer, a channel's rows next to each other: ``columns``, shape (C, rows)."""

    def __init__(self, chain: nn.Sequential, layer: int, rows: int, per_image: int) -> None:
        """Make room for ``rows``, so many from each image."""
        self._module, self._layer = chain[layer], layer
        self.columns = torch.empty(channels_of(chain, layer), rows)
        self._per_image, self._filled = per_image, 0

    def add(self, inputs: Tensor) -> bool:
        """Draw the rows of a batch of what the layer reads; False if there is no room left."""
        count = min(self._per_image * len(inputs), self.columns.shape[1] - self._filled)
        if count > 0:
            draws = generator_for("sampled", self._layer, self._filled)
            found = sample_rows(self._module, range(len(self.columns)), inputs, count, draws)
            self.columns[:, self._filled : self._filled + count] = found.T
            self._filled += count
        return count > 0


def greedy_on_rows(columns: Tensor, keep: int, *, at_once: bool = False) -> tuple[int, ...]:
    """Return the channels that stay, shape of ``columns`` (C, rows); the sum is evaluated anew for each candidate.

    ``at_once`` takes the candidates' sums from one product of matrix and vector instead.
    """
    left = list(range(len(columns)))
    gone = torch.zeros_like(columns[0])
    room = torch.empty_like(gone)
    energy = torch.stack([column.dot(column) for column in columns])
    while len(left) > keep:
        if at_once:
            costs = (energy + 2 * (columns @ gone))[left]
        else:
            costs = torch.empty(len(left))
            for place, channel in enumerate(left):
                torch.add(gone, columns[channel], out=room)
                costs[place] = torch.dot(room, room)
        chosen = left.pop(int(costs.argmin()))
        gone += columns[chosen]
    return tuple(left)


def working_memory_mb(layer: int, arm: str, count: int, options: argparse.Namespace) -> float:
    """Return the most memory that one arm takes on so many images, in a process of its own.

    Beyond what is there once network and images are loaded; so it holds the forward pass of a batch too. Large blocks
    are mapped one by one (``MALLOC_MMAP_THRESHOLD_``), so that what is freed is given back, and the peak is not that of
    a heap in pieces.
    """
    script = Path(__file__).parent / "thinet.py"
    own = [sys.executable, str(script), "--arm", arm, "--layers", str(layer), "--images", str(count)]
    given = [f"--{name}={getattr(options, name)}" for name in ("threads", "batch", "side", "rows", "keep")]
    told = subprocess.run(
        [*own, *given],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return float(told.stdout)


def run_arm(options: argparse.Namespace) -> None:
    """Do one arm in this process, and print what memory it took in MB. Linux alone tells."""
    chain, layer, count = network(), options.layers[0], options.images[0]
    channels = channels_of(chain, layer)
    accumulator = GramAccumulator(chain[layer], range(channels))
    matrix = Rows(chain, layer, options.rows if options.arm == "rows" else 0, AUTHORS_ROWS_PER_IMAGE)
    batches = images("train", count, options.side, options.batch)
    first = next(batches)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    loaded = memory_mb("VmRSS")
    for pixels in itertools.chain([first], batches):
        with torch.no_grad():
            chain(pixels)
        if options.arm == "exact":
            accumulator.add(inputs_of(chain, [layer], pixels)[layer])
        elif options.arm == "rows":
            inputs = inputs_of(chain, [layer], pixels)[layer]
            while matrix.add(inputs):  # again and again, in place of ever other images
                pass
    if options.arm == "exact":
        greedy_removal(accumulator.statistics().gram, int(channels * options.keep))
    elif options.arm == "rows":
        greedy_on_rows(matrix.columns, channels - 1)
    print(memory_mb("VmHWM") - loaded)


def memory_mb(name: str) -> float:
    """Return what the system says of this process: ``VmRSS`` for the memory it has, ``VmHWM`` for the most it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
