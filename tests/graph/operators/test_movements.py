"""Operators that move data: free along space, exact along channels where a cut moves with them, else locked."""

import pytest
import torch
import torch.nn.functional as F
from matrix import Between, Function, prove, reason
from torch import nn

FREE: dict[str, Function] = {
    "roll": lambda m, x: x.roll((1, 2), (2, 3)),
    "roll by name": lambda m, x: torch.roll(x, shifts=1, dims=-1),
    "flip of channels": lambda m, x: x.flip(1),
    "rot90": lambda m, x: torch.rot90(x, 1, (2, 3)),
    "triu": lambda m, x: x.triu() + x.tril(-1) * 2,
    "triu in place": lambda m, x: x.clone().triu_(),
    "diagonal": lambda m, x: x.diagonal(0, 2, 3).unsqueeze(-1),
    "diag_embed": lambda m, x: torch.diag_embed(x[..., 0]),
    "sliding windows": lambda m, x: x.unfold(2, 3, 1).sum(-1),
    "patches": lambda m, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)),
    "as_strided": lambda m, x: x.as_strided(x.shape, x.stride()),
    "unfold": lambda m, x: F.unfold(x, 3).unsqueeze(-1),
    "unfold, dilated": lambda m, x: F.unfold(x, (2, 3), dilation=2, stride=2).unsqueeze(-1),
    "fold": lambda m, x: F.fold(F.unfold(x, 3, padding=1) * 2, (8, 8), 3, padding=1),
    "pixel unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "channel shuffle, many groups": lambda m, x: F.channel_shuffle(x, 4),
    "native channel shuffle": lambda m, x: torch.native_channel_shuffle(x, 2),
    "channel shuffle by views": lambda m, x: x.view(2, 2, -1, 8, 8).transpose(1, 2).reshape(x.shape),
    "indices of space": lambda m, x: x[:, :, torch.tensor([1, 0, 3], device=x.device)][..., [0, 1]],
    "mask of space": lambda m, x: x.flatten(2)[:, :, torch.arange(64, device=x.device) % 2 == 0].unsqueeze(-1),
    "gather": lambda m, x: x.gather(2, x.argsort(2)),
    "gather at places alike for all channels": lambda m, x: x.gather(
        2, torch.arange(3, device=x.device).view(1, 1, 3, 1).expand(*x.shape[:2], 3, 8)
    ),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, x.argmax(2, keepdim=True), 2),
    "scatter": lambda m, x: torch.zeros_like(x).scatter(2, x.argsort(2), x),
    "scatter_add in place": lambda m, x: x.clone().scatter_add_(2, x.argsort(2), x),
    "scatter_reduce": lambda m, x: x.scatter_reduce(2, x.argsort(2), x, "amax"),
    "index_add": lambda m, x: x.index_add(2, torch.tensor([0, 1], device=x.device), x[:, :, :2]),
    "index_copy": lambda m, x: x.index_copy(3, torch.tensor([3], device=x.device), x[..., :1]),
    "index_fill": lambda m, x: x.index_fill(3, torch.tensor([3], device=x.device), 0.5),
    "assign at indices": lambda m, x: x.clone().index_put_(
        (torch.tensor([0, 1], device=x.device),), x[:2] * 3
    ),
    "rot90 that turns channels into rows, and back": lambda m, x: torch.rot90(x, 1, (1, 2)).transpose(1, 2),
    "repeat_interleave": lambda m, x: x.repeat_interleave(2, 1).repeat_interleave(2, -1),
    "where": lambda m, x: torch.where(x > 0.5, x, torch.zeros_like(x)),
    "masked_fill": lambda m, x: x.masked_fill(torch.ones(8, 8, device=x.device).triu().bool(), 0.0),
    "meshgrid": lambda m, x: x + torch.stack(
        torch.meshgrid(torch.arange(8, device=x.device), torch.arange(8, device=x.device), indexing="ij")
    ).sum(0).to(x.dtype),
    "one_hot": lambda m, x: x + F.one_hot(torch.arange(8, device=x.device), 8).to(x.dtype),
    "expanded statistics": lambda m, x: x - x.sum(1, keepdim=True).expand_as(x),
    "movedim and swapaxes": lambda m, x: x.movedim(1, -1).swapaxes(1, 2).movedim(-1, 1),
    "tensor_split": lambda m, x: torch.cat(x.tensor_split(2, 1)[::-1], 1),
    "window partition": lambda m, x: x.reshape(2, -1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(32, -1, 2, 2)
    .amax((2, 3)).reshape(2, 4, 4, -1).permute(0, 3, 1, 2),
    "einops-like join of space": lambda m, x: x.flatten(2).transpose(1, 2).unflatten(1, (8, 8)).permute(0, 3, 1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_channels_go_along(name: str) -> None:
    prove(Between(FREE[name]), "a")


def test_pixel_shuffle_ties_the_channels_behind_a_pixel() -> None:
    graph = prove(Between(lambda m, x: F.pixel_shuffle(m.layers[0](x), 2), nn.Conv2d(8, 12, 1)), "a", "layers.0")
    assert graph.group("layers.0").size == 3


def test_fold_ties_the_channels_behind_a_window() -> None:
    graph = prove(
        Between(lambda m, x: F.fold(m.layers[0](x).flatten(2)[..., :9], (4, 4), 2), nn.Conv2d(8, 12, 1)), "layers.0"
    )
    assert graph.group("layers.0").size == 3


FIXED: dict[str, tuple[Function, str]] = {
    "roll of channels": (lambda m, x: x.roll(1, 1), "moved along channels by fixed places"),
    "flat roll": (lambda m, x: x.roll(3), "moved along channels by fixed places"),
    "permutation in a buffer": (lambda m, x: x[:, m.order], "gathered at fixed channels"),
    "permutation in a list": (lambda m, x: x[:, [3, 1, 2, 0, 4, 5, 7, 6]], "gathered at fixed channels"),
    "index_select by a buffer": (lambda m, x: x.index_select(1, m.order), "gathered at fixed channels"),
    "diagonal of channels and columns": (lambda m, x: x.diagonal(0, 1, 3).unsqueeze(1), "moved along channels"),
    "sliding over channels": (lambda m, x: x.unfold(1, 3, 1).sum(-1), "moved along channels"),
    "triangle of channels": (lambda m, x: x.transpose(1, 2).triu().transpose(1, 2), "moved along channels"),
    "gather of channels": (lambda m, x: x.gather(1, x.argsort(1)), "along channels"),
    "gather at other places for each channel": (
        lambda m, x: x.gather(2, torch.arange(8, device=x.device).view(1, 8, 1, 1).repeat(2, 1, 1, 8)),
        "with a tensor that is not cut",
    ),
    "fewer channels gathered": (
        lambda m, x: x.gather(2, torch.zeros(2, 4, 2, 8, dtype=torch.int64, device=x.device)),
        "gathered at fixed channels",
    ),
    "scatter into channels": (lambda m, x: x.scatter(1, x.argsort(1), x), "along channels"),
    "index_add to channels": (
        lambda m, x: x.index_add(1, torch.tensor([0], device=x.device), x.sum(1, True)), "written at fixed channels"
    ),
    "assign to channels": (
        lambda m, x: x.clone().index_put_((torch.tensor([0], device=x.device), torch.tensor([1], device=x.device)),
                                          x.new_ones(())),
        "gathered at fixed channels",
    ),
    "masked_select": (lambda m, x: x * x.masked_select(x > 0.2).sum(), "no rule"),
    "squeeze in place": (lambda m, x: x.mean((2, 3), keepdim=True).squeeze_(-1).unsqueeze_(-1), "no rule"),
    "out=": (lambda m, x: torch.add(x, x, out=torch.empty_like(x)), "no rule"),
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_places_of_channels_written_in_the_code_lock(name: str) -> None:
    function, expected = FIXED[name]
    assert expected in reason(Between(function))


def test_restriding_in_place_by_pooling_of_channels_last() -> None:
    class Last(Between):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.contiguous(memory_format=torch.channels_last))

    pool = nn.AdaptiveAvgPool2d(1)
    prove(Last(lambda m, x: x * m.layers[0](x.contiguous(memory_format=torch.channels_last)), pool), "a")
