"""Contributions at places drawn at random, as the ThiNet paper takes them: rows of the matrix that its selection sees.

Source: Luo, Wu, Lin 2017, arXiv:1707.06342, §3.2.1, and the authors' code: ten pairs of a filter and an output position
per image, drawn independently, from padded inputs, without the bias.
"""

import itertools

import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction.read_layer import CHUNK_ELEMENTS, ReadLayer, Units
from secateur.criteria.reconstruction.statistics import Statistics
from secateur.errors import UsageError
from secateur.wording import counted


@torch.no_grad()
def sample_rows(
    module: nn.Module,
    units: Units,
    inputs: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    size: int | None = None,
) -> Tensor:
    """Return the contributions of all units at places drawn at random.

    Each image gives as many rows as the next, those that are left over come from images drawn at random; filter and
    position of each row are drawn independently of each other and of the other rows.

    Args:
        module: the reader, a convolution or linear layer.
        units: unit of each input channel (each column of a linear layer), -1 for none.
        inputs: what the module reads, not padded, shape (N, C, *spatial), or (..., columns).
        count: number of rows.
        generator: what draws, on the CPU: the same places on every device.
        size: number of units; the highest and one if None.

    Returns:
        z at (image, filter, position) of each row, shape (count, U), in the inputs' precision, at least single. The sum
        of a row is the layer's output there without its bias (and without channels of no unit).

    Raises:
        UsageError: a shape does not fit, there is no image, or fewer than one row is asked for.
    """
    layer = ReadLayer.of(module, units, size)
    with torch.autocast(inputs.device.type, enabled=False):
        images = layer.images(inputs)
        if count < 1 or len(images) == 0:
            raise UsageError(
                f"{counted(count, 'row')} cannot be drawn from {counted(len(images), 'image')}; both must be at least 1"
            )
        outputs = layer.output_size(images.shape[2:])
        every = torch.arange(len(images)).repeat_interleave(count // len(images))
        drawn = torch.cat([every, torch.randperm(len(images), generator=generator)[: count % len(images)]])
        filters = torch.randint(layer.filters, (count,), generator=generator)
        positions = [torch.randint(length, (count,), generator=generator) for length in outputs]
        padded = layer.padded(images)
        at_once = max(1, CHUNK_ELEMENTS // (4 * layer.taps))
        rows = []
        for first in range(0, count, at_once):
            some = slice(first, first + at_once)
            here = [place[some].to(images.device) for place in (drawn, filters, *positions)]
            rows.append(_contributions(layer, padded, here[0], here[1], here[2:]))
    return torch.cat(rows)


def statistics_of_rows(rows: Tensor) -> Statistics:
    """Return the sums of products over rows, shape (rows, U), whose target is each row's own sum.

    Rows are of any filter, so sums per filter are those of all rows together, as of a single filter: a free bias is
    then one bias for all.
    """
    matrix = rows.detach().double()
    return Statistics.of_own_output(
        matrix.T @ matrix, matrix.sum(0, keepdim=True), rows=len(matrix), positions=len(matrix)
    )


def _contributions(
    layer: ReadLayer, padded: Tensor, images: Tensor, filters: Tensor, positions: list[Tensor]
) -> Tensor:
    """Return z at each place, shape (places, U)."""
    per_group, channels = layer.weight.shape[1:3]
    group, of_group = filters // per_group, filters % per_group
    read = group[:, None] * channels + torch.arange(channels, device=images.device)  # (places, C/groups)
    found = padded.new_zeros(read.shape)
    weight = layer.weight.reshape(*layer.weight.shape[:3], -1)
    for number, tap in enumerate(itertools.product(*map(range, layer.kernel))):
        seen = [
            (position * stride + place * dilation)[:, None]
            for position, stride, place, dilation in zip(positions, layer.stride, tap, layer.dilation, strict=True)
        ]
        index: tuple[Tensor, ...] = (images[:, None], read, *seen)
        found += padded[index] * weight[group, of_group, :, number].to(found.dtype)
    if layer.groups == 1:
        return layer.by_unit(found, 1)
    units = layer.units[read]
    return found.new_zeros(len(found), layer.size + 1).scatter_add_(1, units % (layer.size + 1), found)[:, :-1]
