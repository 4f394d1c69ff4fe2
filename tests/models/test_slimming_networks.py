"""The networks of Network Slimming and FCN-32s: published counts, and what is particular to each."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models import (
    MLP,
    VGG,
    ChannelSelection,
    DenseNet,
    FCN32s,
    PreActivationResNet,
    build_model,
    input_shape,
)
from secateur.models.fcn import bilinear_kernel

# (network, classes) → exact parameters, and as published: Liu et al. 2017, Table 1 (millions, two digits).
SLIMMED = {
    ("vgg19-slimming", 10): (20_035_018, 20.04),
    ("vgg19-slimming", 100): (20_081_188, 20.08),
    ("resnet164-preact", 10): (1_703_258, 1.70),
    ("resnet164-preact", 100): (1_726_388, 1.73),
    ("densenet40", 10): (1_019_722, 1.02),
    ("densenet40", 100): (1_060_132, 1.06),
}


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def convolution_macs(model: nn.Module, size: tuple[int, int, int]) -> int:
    total = 0

    def count(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)  # type: ignore[arg-type]
    model.eval()(torch.empty(1, *size, device="meta"))
    return total


@pytest.mark.parametrize(("name", "classes"), SLIMMED)
def test_parameters_are_those_of_table_1(name: str, classes: int) -> None:
    with torch.device("meta"):
        model = build_model(f"secateur:{name}", num_classes=classes)
    exact, published = SLIMMED[name, classes]
    assert params(model) == exact
    assert round(exact / 1e6, 2) == published


@pytest.mark.parametrize(("name", "published"), [("resnet164-preact", 4.99e8), ("densenet40", 5.33e8)])
def test_operations_are_those_of_table_1_to_a_hundredth(name: str, published: float) -> None:
    with torch.device("meta"):
        macs = convolution_macs(build_model(name), (3, 32, 32))
    assert 2 * macs == pytest.approx(published, rel=0.01)  # the paper counts a little more than convolutions


def test_the_perceptron_is_that_of_table_3() -> None:
    model = build_model("mlp-500-300")
    assert params(model) == 545_810
    assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [500, 300, 10]
    left = params(MLP(784, (100, 60)))
    assert left == 85_170
    assert round(100 * (1 - left / 545_810), 1) == 84.4
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ModelError, match="each needs at least one"):
        MLP(4, (3, 0))


@pytest.mark.parametrize("model", [PreActivationResNet(11), DenseNet(7)], ids=["residual", "dense"])
def test_a_selection_follows_every_norm_of_the_stream_and_scales_begin_at_a_half(model: nn.Module) -> None:
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(bool((norm.weight == 0.5).all()) for norm in norms.values())
    selections = [module for module in model.modules() if isinstance(module, ChannelSelection)]
    inner = sum(name.endswith((".bn2", ".bn3")) for name in norms)
    assert len(selections) == len(norms) - inner
    outside = {id(tensor) for tensor in model.parameters()}
    assert not any(id(selection.indices) in outside for selection in selections)
    assert all(f"{n}.indices" in model.state_dict() for n, m in model.named_modules() if m in selections)


def test_the_residual_network_computes_its_formula() -> None:
    torch.manual_seed(0)
    model = PreActivationResNet(11, stem_width=4, widths=(2, 2, 3), num_classes=3).eval()
    x = torch.rand(2, 3, 8, 8)
    stream = model.conv1(x)
    for stage in (model.layer1, model.layer2, model.layer3):
        block = stage[0]
        out = block.conv1(F.relu(block.bn1(stream)))
        out = block.conv3(F.relu(block.bn3(block.conv2(F.relu(block.bn2(out))))))
        stream = block.shortcut(stream) + out
    expected = model.linear(F.relu(model.bn(stream)).mean((2, 3)))
    torch.testing.assert_close(model(x), expected)
    assert stream.shape == (2, 12, 2, 2)


def test_what_the_families_do_not_have_is_refused() -> None:
    with pytest.raises(ModelError, match=r"depth is 20; .* 3n \+ 4"):
        DenseNet(20)
    with pytest.raises(ModelError, match=r"depth is 21; .* 9n \+ 2"):
        PreActivationResNet(21)
    with pytest.raises(ModelError, match="2 widths"):
        PreActivationResNet(20, widths=(16, 32))


def small_fcn() -> FCN32s:
    steps = (3, "pool", 4, "pool", 4, "pool", 5, "pool", 6, "pool")
    return FCN32s(num_classes=4, steps=steps, hidden=8)  # type: ignore[arg-type]


def test_the_segmentation_network_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = build_model("fcn32s-vgg16")
        assert model(torch.empty(1, 3, 500, 375)).shape == (1, 21, 500, 375)
    vgg16, hidden, outputs = 14_714_688, 512 * 49 * 4096 + 4096 + 4096 * 4096 + 4096, 4096 * 21 + 21
    assert params(model) == vgg16 + hidden + outputs == 134_346_581  # Long et al. 2015, Table 1: 134M
    assert input_shape("fcn32s-vgg16") == (3, 224, 224)


@pytest.mark.parametrize("size", [(1, 1), (33, 64), (50, 41)])
def test_every_pixel_has_scores_whatever_the_size(size: tuple[int, int]) -> None:
    model = small_fcn().eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).shape == (1, 4, *size)
        assert model(torch.rand(1, 3, *size)).count_nonzero() == 0  # scores begin at zero
    assert "kernel" not in model.state_dict()


def test_the_upsampling_is_bilinear_interpolation() -> None:
    x = torch.rand(1, 1, 5, 6)
    ours = F.conv_transpose2d(x, bilinear_kernel(4)[None, None], stride=4)
    theirs = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours[:, :, 4:-4, 4:-4], theirs[:, :, 2:-2, 2:-2])  # but for the border


def test_the_segmentation_network_starts_from_vgg() -> None:
    model = small_fcn()
    layers = [nn.Linear(6 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 9)]
    features = nn.Sequential(
        *(
            nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1) if isinstance(layer, nn.Conv2d) else layer
            for layer in model.features
        )
    )
    vgg = VGG(features, nn.Sequential(*layers)).eval()
    model.start_from(vgg)
    x = torch.rand(1, 6, 7, 7)
    torch.testing.assert_close(model.eval().classifier(x).flatten(1), vgg.classifier[:6](x.flatten(1)))
    assert model.features[0].weight.equal(vgg.features[0].weight)
    with pytest.raises(ModelError, match=r"weights of shape \(8, 294\), not \(9, 6, 7, 7\)"):
        FCN32s(num_classes=4, steps=(3, "pool", 4, "pool", 4, "pool", 5, "pool", 6, "pool"), hidden=9).start_from(vgg)
