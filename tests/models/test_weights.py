import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.data import load_data
from secateur.errors import ModelError
from secateur.models import CifarResNet, build_model, load_weights

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def tiny(shortcut: str = "B", **changes: int) -> CifarResNet:
    return CifarResNet(8, shortcut=shortcut, stem_width=4, stage_widths=(4, 6, 8), **changes)  # type: ignore[arg-type]


def same(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())


def refused(path: Path, model: nn.Module | None = None) -> str:
    """Return the sentence, having checked that it is one line and the model is as it was."""
    model = model or tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_weights(model, path)
    assert same(model, before)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": lambda weights, path: save_file(weights, path),
    "state dict": lambda weights, path: torch.save(weights, path),
    "old format": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "under state_dict": lambda weights, path: torch.save({"state_dict": weights, "epoch": 3}, path),
    "under model": lambda weights, path: torch.save({"model": weights, "best": 0.5}, path),
    "data parallel": lambda weights, path: save_file({f"module.{name}": t for name, t in weights.items()}, path),
    "compiled": lambda weights, path: torch.save({f"module._orig_mod.{k}": t for k, t in weights.items()}, path),
    "without batch counters": lambda weights, path: save_file(
        {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}, path
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_common_layout_is_read(tmp_path: Path, writer: str) -> None:
    source = tiny()
    WRITERS[writer](source.state_dict(), tmp_path / "weights")
    model = tiny()
    load_weights(model, tmp_path / "weights")
    assert same(model, source.state_dict())


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": tiny().state_dict(), "extra": Attack(marker)}, tmp_path / "a.pt")
    message = refused(tmp_path / "a.pt")
    assert "holds Python objects (posix.system)" in message
    assert "nothing was executed" in message
    assert not marker.exists()
    torch.save(tiny(), tmp_path / "whole.pt")
    assert "secateur.models.cifar_resnet.CifarResNet" in refused(tmp_path / "whole.pt")


@pytest.mark.parametrize("writer", ["safetensors", "state dict", "old format"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, writer: str, share: float) -> None:
    suffix = ".safetensors" if writer == "safetensors" else ".pt"
    path = tmp_path / f"cut{suffix}"
    WRITERS[writer](tiny().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "copy it again" in refused(path)


def test_a_file_that_is_no_weight_file_is_refused(tmp_path: Path) -> None:
    assert "there is no weight file" in refused(tmp_path / "gone.pt")
    assert "there is no weight file" in refused(tmp_path)
    for name, content in {"text.pt": b"hello, this is text", "random.safetensors": bytes(range(256))}.items():
        (tmp_path / name).write_bytes(content)
        assert "copy it again" in refused(tmp_path / name)
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "log.pt")
    assert "holds no state dict but epoch, loss" in refused(tmp_path / "log.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    assert "holds a Tensor instead of named tensors" in refused(tmp_path / "tensor.pt")
    torch.save({}, tmp_path / "empty.pt")
    assert "an empty dict" in refused(tmp_path / "empty.pt")


def test_weights_that_do_not_fit_say_which_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tiny().state_dict(), path)
    assert "of another shape: linear.bias (file (10,), model (7,)), linear.weight" in refused(path, tiny(num_classes=7))
    unexpected = refused(path, tiny("A"))
    assert "unexpected: layer2.0.shortcut.0.weight, layer2.0.shortcut.1.bias" in unexpected
    assert "and 5 more" in unexpected
    save_file({name: t for name, t in tiny().state_dict().items() if name != "linear.bias"}, path)
    assert "missing: linear.bias" in refused(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    weights = tiny().state_dict()
    weights["layer1.0.bn1.weight"][2] = value
    save_file(weights, tmp_path / "w.safetensors")
    assert "tensor 'layer1.0.bn1.weight' holds NaN or infinity" in refused(tmp_path / "w.safetensors")


PUBLISHED = [
    ("resnet20", "resnet20-cifar10-shortcut-a", "mean=0.485,0.456,0.406;std=0.229,0.224,0.225", 91.64),
    ("resnet56", "resnet56-cifar10-shortcut-a", "imagenet", 92.72),
    ("resnet56-b", "resnet56-cifar10-shortcut-b", "cifar10", 93.71),
]


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the published weights are not beside the checkout")
@pytest.mark.parametrize(("name", "file", "normalize", "accuracy"), PUBLISHED)
def test_published_weights_have_their_measured_accuracy(name: str, file: str, normalize: str, accuracy: float) -> None:
    path = SHARED / "weights" / f"{file}.safetensors"
    model = build_model(name)
    load_weights(model, path)
    model.load_state_dict(load_file(path), strict=True)
    data = load_data(f"parquet:{SHARED / 'cifar10-lossless'}", normalize=normalize)
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.batches("test", batch_size=128))
    assert round(100 * right / data.size("test"), 2) == accuracy
