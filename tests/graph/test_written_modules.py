"""Every hand-written module is traced, cut at random and proved exact, and only the right groups are cut."""

from collections.abc import Callable

import pytest
import torch
import written_modules as w
from cutting import assert_exact, count_macs, images, locked_reasons, prunable
from torch import nn

from secateur.graph import apply, trace, verify

LINE, VOLUME = torch.randn(2, 2, 12), torch.randn(2, 2, 4, 4, 4)
TOKENS, ROWS = torch.randn(2, 5, 4), torch.randn(4, 6)

CASES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, dict[str, int]]] = {
    "nhwc-flatten": (w.NhwcFlatten, images(), {"conv": 6}),
    "view-shuffle": (w.ViewShuffle, images(), {"a": 6}),
    "view-shuffle-3": (lambda: w.ViewShuffle(3), images(), {"a": 4}),
    "bare-parameter": (w.BareParameter, images(), {"kernel": 7}),
    "tied-weights": (w.Tied, images(), {"stem": 6}),
    "called-twice": (w.CalledTwice, images(), {"stem": 6}),
    "shared-with-function": (w.SharedWithFunction, images(), {"conv": 6}),
    "squeeze-excite": (w.SqueezeExcite, images(), {"conv": 8, "reduce": 4}),
    "chunk-gate": (w.ChunkGate, images(), {"a": 6, "b": 4}),
    "pixel-shuffle": (w.PixelShuffle, images(), {"a": 5, "b": 6}),
    "transposed": (w.Transposed, images(), {"a": 6, "plain": 4, "grouped": 6}),
    "grouped-inside": (lambda: w.Grouped(2), images(), {"a": 8, "grouped": 8}),
    "grouped-whole": (lambda: w.Grouped(8), images(), {"a": 8}),
    "depthwise": (lambda: w.Grouped(16), images(), {"a": 16}),
    "depthwise-multiplier": (w.Multiplier, images(), {"a": 5}),
    "conv1d": (w.Line, LINE, {"a": 6, "b": 5}),
    "conv3d": (w.Volume, VOLUME, {"a": 6, "b": 4}),
    "unet": (w.UNet, images(), {"a": 6, "down": 8, "middle": 8}),
    "option-a": (w.OptionA, images(), {"stem": 4, "conv1": 6}),
    "instance-norm": (lambda: w.InstanceNorm(False), images(), {"a": 6}),
    "instance-norm-affine": (lambda: w.InstanceNorm(True), images(), {"a": 6}),
    "prelu": (w.Slopes, images(), {"a": 6, "b": 5}),
    "attention-scale-given": (lambda: w.Attention(0.3), TOKENS, {"embed": 10, "q": 10, "v": 10}),
    "attention-default-scale": (lambda: w.Attention(None), TOKENS, {"embed": 10, "v": 10}),
    "linear-only": (w.Mlp, ROWS, {"layers.0": 10, "layers.3": 8}),
    "filter-per-channel": (w.PerChannelFilter, images(), {"a": 6}),
    "gathered": (w.Gathered, images(), {"a": 6}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_random_cut_is_exact(name: str) -> None:
    build, given, groups = CASES[name]
    model = build().eval()
    graph, plan, small = assert_exact(model, given)
    assert {group.name: group.size for group in graph.groups if group.prunable and group.size > 1} == groups
    assert set(plan.kept) == set(groups)
    assert not graph.unknown_ops
    assert graph.unreached == ()
    if "attention" not in name and name not in ("bare-parameter", "shared-with-function", "filter-per-channel"):
        assert graph.macs() == count_macs(model, given)
        assert graph.macs(plan) == count_macs(small, given)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_after_the_cut_is_that_of_the_cut_model(name: str) -> None:
    build, given, _ = CASES[name]
    graph, plan, small = assert_exact(build().eval(), given)
    # Which of two ways to cut is finer may flip with the sizes: of a grouped convolution, of C seen as 3 × C/3.
    if name not in ("grouped-inside", "transposed", "view-shuffle-3"):
        assert graph.after(plan) == trace(small, given)


def test_the_default_scale_of_attention_locks_what_it_reads() -> None:
    graph = trace(w.Attention(None).eval(), TOKENS)
    assert "default scale reads this size" in locked_reasons(graph)["q"]
    assert [member.parameter for member in graph.group("q").members] == ["q.weight", "q.bias", "k.weight", "k.bias"]


def test_integer_attributes_follow() -> None:
    _, plan, small = assert_exact(w.Grouped(8), images())
    kept = plan.kept_sizes()["a"]
    assert (small.grouped.groups, small.grouped.in_channels, small.grouped.out_channels) == (kept, 2 * kept, 2 * kept)
    _, plan, small = assert_exact(w.Transposed(), images())
    assert small.plain.out_channels == small.grouped.in_channels == 2 * plan.kept_sizes()["plain"]
    assert small.depthwise.groups == small.depthwise.in_channels == small.depthwise.out_channels
    _, plan, small = assert_exact(w.Mlp(), ROWS)
    assert small.layers[0].out_features == small.layers[1].num_features == small.layers[3].in_features
    _, plan, small = assert_exact(w.InstanceNorm(False), images())
    assert small.norm.num_features == plan.kept_sizes()["a"]
    _, plan, small = assert_exact(w.Slopes(), images())
    assert small.act.num_parameters == plan.kept_sizes()["a"]


def test_tied_weights_stay_tied() -> None:
    graph, _, small = assert_exact(w.Tied(), images())
    assert small.a.weight is small.b.weight
    assert next(spec for spec in graph.tensors if spec.name == "a.weight").aliases == ("b.weight",)


def test_frozen_parameters_are_cut_and_stay_frozen() -> None:
    model = w.SqueezeExcite()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("out"))
    _, _, small = assert_exact(model, images())
    assert [name for name, parameter in small.named_parameters() if parameter.requires_grad] == [
        "out.weight",
        "out.bias",
    ]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(context: Callable[[], torch.no_grad]) -> None:
    expected = trace(w.SqueezeExcite().eval(), images())
    with context():
        assert trace(w.SqueezeExcite().eval(), images()) == expected
        built_inside = w.SqueezeExcite().eval()
        given = images()
        _, _, small = assert_exact(w.Mlp(), torch.randn(4, 6))
        assert not any(parameter.is_inference() for parameter in small.parameters())
    graph, _, small = assert_exact(built_inside, given)
    assert graph == expected
    assert not any(parameter.is_inference() for parameter in small.parameters())
    small(images()).sum().backward()


def test_inference_mode_within_forward() -> None:
    class Inside(w.SqueezeExcite):
        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.contiguous().reshape(x.shape)) + F_dropout(x)

    def F_dropout(x: torch.Tensor) -> torch.Tensor:  # noqa: N802
        return nn.functional.dropout(nn.functional.adaptive_avg_pool2d(x, 1), training=False).mean()

    graph, _, _ = assert_exact(Inside(), images())
    assert prunable(graph) >= {"conv", "reduce"}


def test_a_blur_kernel_in_a_buffer_is_cut_along() -> None:
    graph, _, _ = assert_exact(w.BlurPool(), images())
    assert "a" in prunable(graph)


def test_a_cut_model_is_cut_again() -> None:
    _, _plan, small = assert_exact(w.SqueezeExcite(), images())
    graph = trace(small, images())
    again = graph.plan({"conv": [0]})
    assert verify(small, apply(small, again, verify_with=images()), again, images()).passed
