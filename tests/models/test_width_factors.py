"""``NAME@1.5x``: which networks it builds, how it is refused, and that it is a name wherever names are taken."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_networks import require_torchvision
from torch import nn

import secateur
from secateur.cli.app import main
from secateur.errors import ArtifactError, ModelError, UsageError
from secateur.export import Builder
from secateur.export.building import load_built
from secateur.models import NETWORKS, build_model, default_normalization, full_name, head_of, input_shape
from secateur.models.widths import scaled, split_width

CODE = """
import torch
def net(width=1.0, num_classes=3): return torch.nn.Linear(int(4 * width), num_classes)
def fixed(num_classes=3): return torch.nn.Linear(4, num_classes)
"""


def shapes(name: str, *, num_classes: int | None = None) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = build_model(name, num_classes=num_classes)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("channels", "factor", "multiple", "expected"),
    [
        (16, 1.5, 1, 24),
        (10, 0.25, 1, 3),  # 2.5: halves rise
        (16, 0.01, 1, 1),
        (24, 1.5, 8, 40),  # 36: halves rise
        (16, 0.1, 8, 8),
        (32, 0.3, 8, 16),  # 9.6: 8 would lose more than a tenth
        (12, 1.0, 8, 16),
        (64, 1.5, 8, 96),
    ],
)
def test_scaled_by_hand(channels: int, factor: float, multiple: int, expected: int) -> None:
    assert scaled(channels, factor, multiple=multiple) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20@1.5x", ("resnet20", 1.5)),
        ("resnet20", ("resnet20", 1.0)),
        ("torchvision:mobilenet_v2@0.35x", ("torchvision:mobilenet_v2", 0.35)),
        ("nets/me@home/net.py:build", ("nets/me@home/net.py:build", 1.0)),
        ("nets/me@2x/net.py:build@2x", ("nets/me@2x/net.py:build", 2.0)),
        ("me@2x.py:build", ("me@2x.py:build", 1.0)),
    ],
)
def test_a_name_is_split_at_its_last_part(name: str, expected: tuple[str, float]) -> None:
    assert split_width(name) == expected


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if not network.fixed_width])
def test_every_network_with_a_width_is_wider_in_every_layer(name: str) -> None:
    """All hidden dimensions grow, and those of images and classes stay."""
    plain, wide = shapes(name, num_classes=7), shapes(f"{name}@1.5x", num_classes=7)
    assert list(plain) == list(wide)
    assert shapes(f"{name}@1x", num_classes=7) == plain
    images = {input_shape(name)[0]} if name != "mlp-500-300" else {784}  # type: ignore[index]
    for key, before in plain.items():
        for place, (old, new) in enumerate(zip(before, wide[key], strict=True)):
            hidden = place < 2 and old not in (1, 7, *images)
            assert new > old if hidden else new == old, key


def test_cifars_residual_networks_are_exactly_wider() -> None:
    model = build_model("resnet20@1.5x")
    widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [24] * 7 + [48] * 6 + [96] * 6


@pytest.mark.parametrize("factor", ["0.35x", "1.5x"])
def test_mobilenet_v2_is_as_wide_as_torchvisions(factor: str) -> None:
    require_torchvision()
    assert shapes(f"mobilenet-v2@{factor}") == shapes(f"torchvision:mobilenet_v2@{factor}")


def test_mnasnet_is_as_wide_as_torchvisions() -> None:
    require_torchvision()
    assert shapes("mnasnet@0.5x") == shapes("torchvision:mnasnet0_5")
    theirs = shapes("torchvision:mnasnet1_0@1.5x")  # whose last convolution is 1,280 wide at any width
    differ = {key for key, shape in shapes("mnasnet@1.5x").items() if shape != theirs[key]}
    assert {key.rsplit(".", 1)[0] for key in differ} == {"layers.14", "layers.15", "classifier.1"}


@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "mnasnet0_5", "densenet121", "densenet161", "densenet169", "densenet201"]
)
def test_other_networks_of_torchvision_with_a_width(name: str) -> None:
    """Twice as wide is almost four times as large; what torchvision's own rules leave as it was is little."""
    require_torchvision()
    plain, wide = shapes(f"torchvision:{name}", num_classes=7), shapes(f"torchvision:{name}@2x", num_classes=7)
    assert list(plain) == list(wide)
    pairs = list(zip(plain.values(), wide.values(), strict=True))
    assert all(all(a <= b for a, b in zip(old, new, strict=True)) for old, new in pairs)
    sizes = [sum(math.prod(shape) for shape in found.values()) for found in (plain, wide)]
    assert 3 * sizes[0] < sizes[1] < 4 * sizes[0]


def test_densenet_widens_by_its_growth() -> None:
    require_torchvision()
    wide = shapes("torchvision:densenet121@1.5x")
    assert wide["features.conv0.weight"][0] == 96
    assert wide["features.denseblock1.denselayer1.conv1.weight"][:2] == (192, 96)
    assert wide["features.denseblock1.denselayer1.conv2.weight"][:2] == (48, 192)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20@1.5", r"the width in 'resnet20@1.5' is '1.5'; write .* 'resnet20@1.5x'"),
        ("resnet20@", "the width in 'resnet20@' is ''"),
        ("resnet20@-1x", "is '-1x'; write a factor"),
        ("resnet20@nanx", "is 'nanx'; write a factor"),
        ("resnet20@0x", "is 0x; give a factor from 0.1x to 8x"),
        ("resnet20@15x", "is 15x; give a factor from 0.1x to 8x"),
        ("resnt20@1.5x", "unknown model 'resnt20'; did you mean 'resnet20'"),
        ("lenet5@2x", r"lenet5 takes no width, .* 2 times as wide; build lenet5 and .* secateur\.slimmable\.widened"),
        ("autoslim-mobilenet-v2-207m@1.5x", "autoslim-mobilenet-v2-207m takes no width"),
        ("torchvision:resnet18@1.5x", "torchvision:resnet18 takes no width"),
        ("torchvision:mobilenet_v9@1.5x", "unknown torchvision model 'mobilenet_v9'; did you mean"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(name: str, message: str) -> None:
    if name.startswith("torchvision"):
        require_torchvision()
    with pytest.raises(UsageError, match=message):
        build_model(name)


def test_timm_says_its_widths_in_names() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(UsageError, match="timm:mobilenetv2_100 takes no width"):
        build_model("timm:mobilenetv2_100@1.5x")


def test_what_is_known_of_a_network_is_known_of_a_wider_one() -> None:
    assert input_shape("resnet50@1.5x") == (3, 224, 224)
    assert default_normalization("secateur:mobilenet-v2-cifar@2x") == "cifar10"
    assert head_of("resnet50@1.5x") == "fc"
    assert full_name("resnet20@1.5x") == "secateur:resnet20@1.5x"
    assert full_name("torchvision:mobilenet_v2@1.5x") == "torchvision:mobilenet_v2@1.5x"


def test_a_users_function_is_given_the_width(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    model = build_model(f"{tmp_path}/mine.py:net@1.5x", num_classes=5)
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (5, 6)
    with pytest.raises(ModelError, match="so no width; add width"):
        build_model(f"{tmp_path}/mine.py:fixed@1.5x")
    with pytest.raises(UsageError, match="not allowed"):
        build_model(f"{tmp_path}/mine.py:net@1.5x", allow_code=False)


def test_a_wider_network_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Planned, cut, proved and read again by the name in the file alone."""
    name, plan, small = "digits-resnet@1.5x", tmp_path / "plan.json", tmp_path / "small.safetensors"
    quiet = ["--threads", "1", "--quiet"]
    assert main(["plan", "--model", name, "--macs", "0.5", "--out", str(plan), *quiet]) == 0
    assert main(["apply", str(plan), "--model", name, "--out", str(small), *quiet]) == 0
    assert main(["verify", str(small), "--model", name, *quiet]) == 0
    with safe_open(small, "pt") as file:
        header = json.loads(file.metadata()["secateur"])
    assert header["builder"]["name"] == "secateur:digits-resnet@1.5x"
    loaded = load_built(small)
    dense = secateur.trace(build_model(name), torch.randn(1, 1, 8, 8)).macs()
    assert secateur.trace(loaded, torch.randn(1, 1, 8, 8)).macs() <= 0.5 * dense
    capsys.readouterr()
    assert main(["groups", "--model", "digits-resnet@1,5x"]) == 2
    assert "the width in 'digits-resnet@1,5x' is '1,5x'" in capsys.readouterr().err


def test_a_file_that_names_another_width_is_refused(tmp_path: Path) -> None:
    model = build_model("digits-resnet@0.5x")
    for name, error, message in (
        ("secateur:digits-resnet@8x", ArtifactError, "names the builder secateur:digits-resnet@8x, whose"),
        ("secateur:digits-resnet@999x", UsageError, "cannot be built: the width in .* is 999x"),
        ("net.py:build@2x", ArtifactError, "is code of its author"),
    ):
        secateur.save(model, tmp_path / "net.safetensors", builder=Builder(name=name))
        with pytest.raises(error, match=message):
            load_built(tmp_path / "net.safetensors")
