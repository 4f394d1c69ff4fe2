import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.data import NORMALIZATIONS, normalization_named
from secateur.errors import ModelError, UsageError
from secateur.models import NETWORKS, build_model, default_normalization, input_shape, model_names

CODE = """
import torch
def net(num_classes=3): return torch.nn.Linear(4, num_classes)
def fixed(): return torch.nn.Linear(4, 2)
def wrong(): return "a model"
def broken(): raise RuntimeError("boom")
"""


def require_torchvision() -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return str(tmp_path / "mine.py")


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].normalization != "imagenet"])
def test_every_network_maps_its_images_to_its_classes(name: str) -> None:
    model = build_model(name, num_classes=7).eval()
    shape = input_shape(name)
    assert shape is not None
    with torch.no_grad():
        assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_says_what_it_is_fed(name: str) -> None:
    assert name in model_names()
    normalization = default_normalization(name)
    assert normalization in NORMALIZATIONS
    shape = input_shape(name)
    assert shape is not None
    assert NORMALIZATIONS[normalization].for_channels(shape[0])


def test_the_guide_names_every_network() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    section = page.split("## Networks by name")[1].split("\n## ")[0]
    named = set(re.findall(r"`([\w-]+)`", section))
    found = {f"{name}-cifar" for name in named if name.startswith("autoslim-")}
    assert set(NETWORKS) <= named | found
    assert found <= set(NETWORKS)


def test_the_prefix_of_our_own_networks_is_optional() -> None:
    assert list(build_model("secateur:resnet20").state_dict()) == list(build_model("resnet20").state_dict())


def test_input_channels_can_be_chosen_where_the_network_allows() -> None:
    assert build_model("resnet20", in_channels=1)(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    assert build_model("lenet5", in_channels=1) is not None
    with pytest.raises(UsageError, match="lenet5 takes images of 1 channel, not 3"):
        build_model("lenet5", in_channels=3)
    with pytest.raises(UsageError, match="num_classes is 0"):
        build_model("resnet20", num_classes=0)


def test_torchvision_by_name() -> None:
    require_torchvision()
    model = build_model("torchvision:googlenet", num_classes=5)
    assert model.fc.out_features == 5  # type: ignore[union-attr]
    assert input_shape("torchvision:inception_v3") == (3, 299, 299)
    assert default_normalization("torchvision:resnet18") == "imagenet"
    assert input_shape("torchvision:fasterrcnn_mobilenet_v3_large_fpn") is None
    with pytest.raises(UsageError, match="takes images of 3 channels, not 1"):
        build_model("torchvision:resnet18", in_channels=1)


def test_timm_by_name() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    model = build_model("timm:resnet18", num_classes=5, in_channels=1).eval()
    assert model(torch.rand(1, 1, 64, 64)).shape == (1, 5)
    assert input_shape("timm:resnet18") == (3, 224, 224)
    text = default_normalization("timm:vit_base_patch16_clip_224")
    assert text is not None
    assert normalization_named(text).mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt56", "did you mean 'resnet56'"),
        ("secateur:lenet", "did you mean 'lenet5'"),
        ("resnet18", "did you mean 'torchvision:resnet18'"),
        ("torchvision:resnet19", "unknown torchvision model 'resnet19'; did you mean 'resnet18'"),
        ("torchvision:qqqqqq", r"torchvision lists \d+ others"),
        ("timm:resnet19", "unknown timm model 'resnet19'; did you mean 'resnet18'"),
        ("timm:hf-hub:somebody/something", "unknown timm model"),
        ("elsewhere:resnet20", "unknown model 'elsewhere:resnet20'"),
    ],
)
def test_unknown_names_suggest_the_nearest(name: str, message: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    require_torchvision()
    for ask in (build_model, input_shape, default_normalization):
        with pytest.raises(UsageError, match=message):
            ask(name)


def test_a_users_function(file: str) -> None:
    assert isinstance(build_model(f"{file}:net"), nn.Linear)
    assert build_model(f"{file}:net", num_classes=9).out_features == 9
    assert input_shape(f"{file}:net") is None
    assert default_normalization(f"{file}:net") is None


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("fixed", ModelError, r"fixed takes \(\), so no num_classes; add num_classes"),
        ("ne", UsageError, "did you mean 'net'"),
    ],
)
def test_a_users_function_that_does_not_fit(file: str, function: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_model(f"{file}:{function}", num_classes=4)


def test_a_users_function_that_fails(file: str) -> None:
    with pytest.raises(ModelError, match=r"broken failed with RuntimeError: boom \(mine\.py, line 6\)"):
        build_model(f"{file}:broken")
    with pytest.raises(ModelError, match=r"wrong returned str; it should return an nn\.Module"):
        build_model(f"{file}:wrong")
    with pytest.raises(UsageError, match="not allowed"):
        build_model(f"{file}:net", allow_code=False)
