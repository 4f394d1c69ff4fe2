"""Calibrates three sites on this process's share of the images, and writes what all processes counted."""

import json
import sys
from pathlib import Path

import torch

from secateur.quantization import RangeHistogram, reduce_all_
from secateur.randomness import generator_for
from secateur.training.devices import join_processes

processes = join_processes()
images = 3 * torch.randn(7, 50, generator=generator_for("images"))
images[5] *= 1000  # so that one process alone has to widen
sites = [RangeHistogram("conv1"), RangeHistogram("only the first process"), RangeHistogram("never reached")]
for number in range(processes.rank, len(images), processes.world_size):
    sites[0].update(images[number])
    if number == 0:
        sites[1].update(images[number].relu())
reduce_all_(sites[:1])
sites[1].reduce_()
reduce_all_(sites[2:])
Path(sys.argv[1]).write_text(json.dumps([site.to_json() for site in sites]))
