"""Parameters and multiply-adds of the papers' networks, by a counter that shares nothing with the library's own."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from secateur.data import load_data
from secateur.errors import ModelError
from secateur.models import CifarResNet, LeNet5, build_model, digits_resnet, input_shape

# (parameters, MACs of convolutions and linear layers for one image)
GOLDEN = {
    "lenet-300-100": (266_610, 266_200),
    "lenet5": (431_080, 2_293_000),
    "resnet20": (269_722, 40_551_040),
    "resnet20-b": (272_474, 40_813_184),
    "resnet56": (853_018, 125_485_696),
    "resnet56-b": (855_770, 125_747_840),
    "resnet110": (1_727_962, 252_887_680),
    "resnet110-b": (1_730_714, 253_149_824),
    "vgg16-gd": (14_728_266, 313_201_664),
    "vgg16-l1": (14_982_474, 313_463_808),
    "vgg16-l1-bn": (14_990_922, 313_463_808),
    "alexnet-caffe": (60_965_224, 724_406_816),
    "vgg16-imagenet": (138_357_544, 15_470_264_320),
    "vgg16-gap": (15_227_688, 15_347_142_656),
    "resnet50-caffe": (25_557_032, 3_857_973_248),
    "resnet50": (25_557_032, 4_089_184_256),
    "vgg19-slimming": (20_035_018, 398_136_320),
    # 1.0 times as published: 4.2M and 569M, 3.4M and 300M (Howard et al., Sandler et al., their tables of results).
    "mobilenet-v1": (4_231_976, 568_740_352),
    "mobilenet-v2": (3_504_872, 300_774_272),
    "mnasnet": (4_383_312, 314_415_872),
    "mobilenet-v2-cifar": (2_236_682, 87_976_448),  # 88M in AutoSlim's table of CIFAR-10
    # The names of AutoSlim's networks say their MACs in millions.
    "autoslim-mobilenet-v1-150m": (1_887_664, 149_825_128),
    "autoslim-mobilenet-v1-325m": (4_001_448, 324_756_536),
    "autoslim-mobilenet-v1-572m": (4_655_632, 572_070_904),
    "autoslim-mobilenet-v2-207m": (4_125_104, 206_767_048),
    "autoslim-mobilenet-v2-305m": (5_767_288, 305_072_416),
    "autoslim-mobilenet-v2-505m": (6_495_992, 504_934_400),
    "autoslim-mnasnet-217m": (4_035_760, 217_220_648),
    "autoslim-mnasnet-315m": (6_078_432, 315_260_104),
    "autoslim-mnasnet-532m": (8_338_960, 531_773_072),
    "autoslim-resnet50-570m": (7_417_104, 570_004_736),
    "autoslim-resnet50-1000m": (13_344_136, 999_850_432),
    "autoslim-resnet50-2006m": (20_608_336, 2_006_045_440),
    "autoslim-resnet50-3005m": (23_185_064, 3_004_547_840),
}


def require_torchvision() -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")


def count_macs(model: nn.Module, example: Tensor) -> int:
    total = 0

    def convolution(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]

    def linear(layer: nn.Linear, _: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.in_features

    hooks: dict[type[nn.Module], Callable[..., None]] = {nn.Conv2d: convolution, nn.Linear: linear}
    for module in model.modules():
        if type(module) in hooks:
            module.register_forward_hook(hooks[type(module)])
    with torch.no_grad():
        model.eval()(example)
    return total


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    shape = input_shape(name)
    assert shape is not None
    with torch.device("meta"):
        model = build_model(name)
        macs = count_macs(model, torch.empty(1, *shape))
    assert (sum(parameter.numel() for parameter in model.parameters()), macs) == GOLDEN[name]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_names_are_those_of_the_published_checkpoints(shortcut: str) -> None:
    names = {name.rsplit(".", 1)[0] for name in CifarResNet(8, shortcut=shortcut).state_dict()}  # type: ignore[arg-type]
    blocks = {f"layer{stage}.0.{part}" for stage in (1, 2, 3) for part in ("conv1", "bn1", "conv2", "bn2")}
    projections = {f"layer{stage}.0.shortcut.{index}" for stage in (2, 3) for index in (0, 1)}
    assert names == {"conv1", "bn1", "linear"} | blocks | (projections if shortcut == "B" else set())


def test_the_parameter_free_shortcut_slices_and_pads_both_sides() -> None:
    block = CifarResNet(8, stem_width=2, stage_widths=(2, 5, 5)).layer2[0]
    x = torch.rand(1, 2, 4, 4)
    out = block.shortcut(x)  # type: ignore[operator,union-attr]
    assert out.shape == (1, 5, 2, 2)
    assert out[:, 1:3].equal(x[:, :, ::2, ::2])
    assert out[:, [0, 3, 4]].count_nonzero() == 0


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_widths_are_free(shortcut: str) -> None:
    model = CifarResNet(8, shortcut=shortcut, stem_width=3, stage_widths=(4, 6, 7), num_classes=5, in_channels=1)  # type: ignore[arg-type]
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 5)


def test_what_the_family_does_not_have_is_refused() -> None:
    with pytest.raises(ModelError, match=r"depth is 21; .* 6n \+ 2"):
        CifarResNet(21)
    with pytest.raises(ModelError, match="2 stage widths"):
        CifarResNet(20, stage_widths=(16, 32))
    with pytest.raises(ModelError, match="cannot narrow 16 channels to 8"):
        CifarResNet(20, stage_widths=(16, 8, 8))


def test_initialisations_are_those_of_the_sources() -> None:
    torch.manual_seed(0)
    weight = CifarResNet(20).layer3[1].conv1.weight  # type: ignore[union-attr]
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)  # type: ignore[union-attr,operator]
    caffe = LeNet5().fc1.weight.detach()
    assert float(caffe.abs().max()) == pytest.approx((3 / 800) ** 0.5, rel=0.01)
    scales = [m.weight for m in build_model("vgg19-slimming").modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool((scale == 0.5).all()) for scale in scales)


@pytest.mark.parametrize(
    ("name", "other"), [("resnet50", "resnet50"), ("mobilenet-v2", "mobilenet_v2"), ("mnasnet", "mnasnet1_0")]
)
def test_names_and_function_are_torchvisions(name: str, other: str) -> None:
    require_torchvision()
    ours, theirs = build_model(name, num_classes=7), build_model(f"torchvision:{other}", num_classes=7)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_the_digits_network_learns_the_digits() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    torch.manual_seed(0)
    data, model = load_data("digits"), digits_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(4):
        for x, y in data.batches("train", batch_size=64, seed=epoch, augment=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.batches("validation", batch_size=64))
    assert right / data.size("validation") > 0.85
