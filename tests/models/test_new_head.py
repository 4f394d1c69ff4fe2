"""VGG-16 with global average pooling, and weights of all layers but the last."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.errors import ModelError, UsageError
from secateur.models import build_model, head_of, load_weights
from secateur.models.vgg import VGG, _features


def narrow_vgg(*classifier: nn.Module) -> VGG:
    """A VGG with few channels whose convolutions are named like those of VGG-16."""
    return VGG(_features((4, "pool", 6), 3, bias=True, batch_norm=False), nn.Sequential(*classifier))


def pooled_vgg(classes: int = 5) -> VGG:
    model = narrow_vgg(nn.Linear(6, classes))
    model.features.append(nn.AdaptiveAvgPool2d(1))
    return model


def test_vgg16_gap_has_the_convolutions_of_vgg16_and_averages_what_the_last_gives() -> None:
    with torch.device("meta"):
        ours, whole = build_model("vgg16-gap", num_classes=200), build_model("vgg16-imagenet")
    convolutions = {name: value.shape for name, value in whole.state_dict().items() if name.startswith("features.")}
    found = {name: value.shape for name, value in ours.state_dict().items()}
    assert {name: shape for name, shape in found.items() if name in convolutions} == convolutions
    assert set(found) - set(convolutions) == {"classifier.0.weight", "classifier.0.bias"}
    assert found["classifier.0.weight"] == (200, 512)
    assert sum(isinstance(module, nn.MaxPool2d) for module in ours.modules()) == 4


def test_it_takes_images_of_other_sizes() -> None:
    model = pooled_vgg().eval()
    images = torch.rand(2, 3, 12, 20)
    with torch.no_grad():
        maps = images
        for layer in list(model.features)[:-1]:
            maps = layer(maps)
        by_hand = model.classifier(maps.mean((2, 3)))
        torch.testing.assert_close(model(images), by_hand)


def test_all_layers_but_the_head_get_the_weights_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, model = narrow_vgg(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)), pooled_vgg()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    head = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    load_weights(model, tmp_path / "whole.safetensors", new_head="classifier")
    for name, value in model.features.state_dict().items():
        assert value.equal(whole.features.state_dict()[name])
    assert all(value.equal(head[name]) for name, value in model.classifier.state_dict().items())


def test_a_head_that_would_fit_stays_new_all_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, model = pooled_vgg(), pooled_vgg()
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    before = model.classifier[0].weight.clone()
    load_weights(model, tmp_path / "trained.safetensors", new_head="classifier")
    assert model.classifier[0].weight.equal(before)
    assert not model.classifier[0].weight.equal(trained.classifier[0].weight)


@pytest.mark.parametrize(("change", "words"), [
    (lambda w: {k: v for k, v in w.items() if k != "features.0.bias"}, "missing: features.0.bias"),
    (lambda w: {**w, "features.9.weight": torch.zeros(2)}, "unexpected: features.9.weight"),
    (lambda w: {**w, "features.0.bias": torch.zeros(9)}, "of another shape: features.0.bias"),
])  # fmt: skip
def test_what_does_not_fit_below_the_head_is_refused_and_nothing_is_loaded(tmp_path, change, words) -> None:  # type: ignore[no-untyped-def]
    model, weights = pooled_vgg(), pooled_vgg().state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(change(weights), tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match=words):
        load_weights(model, tmp_path / "odd.safetensors", new_head="classifier")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_without_a_new_head_other_layers_are_still_refused(tmp_path: Path) -> None:
    save_file(narrow_vgg(nn.Linear(24, 3)).state_dict(), tmp_path / "whole.safetensors")
    with pytest.raises(ModelError, match=r"classifier.0.bias \(file \(3,\), model \(5,\)\)"):
        load_weights(pooled_vgg(), tmp_path / "whole.safetensors")


@pytest.mark.parametrize("name", ["alexnet-caffe", "vgg16-gap", "vgg16-imagenet", "resnet50", "resnet50-caffe"])
def test_the_head_of_a_network_is_what_gives_its_classes(name: str) -> None:
    with torch.device("meta"):
        ten, seven = build_model(name, num_classes=10).state_dict(), build_model(name, num_classes=7).state_dict()
    differing = {key for key in ten if ten[key].shape != seven[key].shape}
    assert differing
    assert all(key.startswith(f"{head_of(name)}.") for key in differing)


def test_a_head_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nobody says which layers of resnet20 are its head.*vgg16-gap"):
        head_of("resnet20")
    with pytest.raises(UsageError, match="did you mean 'vgg16-gap'"):
        head_of("vgg16-gpa")
