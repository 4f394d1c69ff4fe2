"""An ONNX file computes what torch computes at any batch size, or it is not kept."""

import logging
from pathlib import Path

import onnx
import pytest
import torch
from small_net import Cut, assert_same_bits
from torch import Tensor, nn

from secateur.errors import ArtifactError, ExportError
from secateur.export import OnnxModel, Preprocessing, export_onnx, load, save

IMAGES = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), size=(8, 8), channels=3, labels=tuple("abcde"))


@pytest.fixture(scope="module")
def exported(traced: Cut, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(traced.small, path, traced.inputs, preprocessing=IMAGES)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_the_file_equals_torch_at_batch_sizes_it_was_not_checked_on(exported: Path, cut: Cut, threads: int) -> None:
    runnable = OnnxModel(exported, threads=threads)
    for batch in (1, 3, 7):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(runnable(x), cut.small(x), rtol=1e-4, atol=1e-5)


def test_the_file_says_how_images_become_inputs_and_nothing_of_this_machine(exported: Path) -> None:
    runnable = OnnxModel(exported)
    assert runnable.preprocessing == IMAGES
    assert runnable.metadata["secateur.format"] == "secateur-onnx"
    assert runnable.input_shapes == ((None, 3, 8, 8),)
    content = exported.read_bytes()
    for trace in (str(Path.cwd()), str(Path(torch.__file__).parent), str(Path.home()), "conftest.py", "stack_trace"):
        assert trace.encode() not in content
    assert [entry.name for entry in exported.parent.iterdir()] == ["net.onnx"]


def test_export_prints_nothing_and_leaves_the_model_alone(
    cut: Cut, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = cut.small.train()
    model.head.eval()
    flags = [module.training for module in model.modules()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    reference = load_copy(cut, tmp_path)
    report = export_onnx(model, tmp_path / "net.onnx", cut.inputs[:1])
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0
    assert [module.training for module in model.modules()] == flags
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert_same_bits(model, reference)
    assert report.relative_difference <= 1e-4
    assert report.size_bytes == (tmp_path / "net.onnx").stat().st_size
    assert report.opset == 20
    assert report.batch_sizes == (1, 2, 5)


def load_copy(cut: Cut, folder: Path) -> nn.Module:
    save(cut.small, folder / "copy.safetensors", plan=cut.plan)
    return load(cut.build(0), folder / "copy.safetensors")


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: Tensor, *, offset: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x) * scale + offset, x.sum(1)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    model, path = TwoInputs().eval(), tmp_path / "two.onnx"
    wrapped = {"x": torch.randn(2, 4), "scale": torch.randn(()), "offset": torch.randn(2, 3)}
    export_onnx(model, path, wrapped)
    runnable = OnnxModel(path)
    x, scale, offset = torch.randn(4, 4), torch.randn(()), torch.randn(4, 3)
    for found, wanted in zip(runnable.run(x, scale, offset), model(x, scale, offset=offset), strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ArtifactError, match="takes 3 inputs, but 1 were given"):
        runnable(x)


class ChoosesByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(x)
        if y.sum() > 0:
            y = y + 1
        return y


class FixesTheBatch(ChoosesByValue):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x).view(2, -1)


class Unknown(ChoosesByValue):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.line(x))


class Draws(ChoosesByValue):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) + torch.rand(x.shape[0], 2)


class NotANumber(ChoosesByValue):
    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) / torch.zeros(2) * 0


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (ChoosesByValue, r"ChoosesByValue cannot be exported by torch.export \(test_onnx_export.py, line \d+\)"),
        (FixesTheBatch, r"free batch size, because its code fixes it.*dynamic_batch=False"),
        (Unknown, "ONNX has no operator for prims.bessel_j0"),
        (Draws, r"differs from torch by up to \d.*it was removed"),
        (NotANumber, "differs from torch by up to nan"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_no_file(
    kind: type[nn.Module], match: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=match) as error:
        export_onnx(kind(), tmp_path / "net.onnx", torch.randn(2, 4))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_is_possible(tmp_path: Path) -> None:
    model = FixesTheBatch()
    report = export_onnx(model, tmp_path / "net.onnx", torch.randn(2, 4), dynamic_batch=False)
    assert report.batch_sizes == (2, 2, 2)
    runnable = OnnxModel(tmp_path / "net.onnx")
    assert runnable.input_shapes == ((2, 4),)
    with pytest.raises(ArtifactError, match=r"cannot be run on inputs of shape \(3, 4\)"):
        runnable(torch.randn(3, 4))


def test_files_that_are_no_onnx_models(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content, path = exported.read_bytes(), tmp_path / "net.onnx"
    for bad in (b"", b"hello", content[: len(content) // 2], content[:100], bytes(1000), b"PK\x03\x04" + content):
        path.write_bytes(bad)
        with pytest.raises(ArtifactError) as error:
            OnnxModel(path)
        assert "\n" not in str(error.value)
    with pytest.raises(ArtifactError, match="does not exist"):
        OnnxModel(tmp_path / "missing.onnx")
    with pytest.raises(ArtifactError, match="is a folder"):
        OnnxModel(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_weights_in_other_files_are_not_read(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(ArtifactError, match="in another file, which is not read"):
        OnnxModel(tmp_path / "net.onnx")


def test_preprocessing_that_lies_is_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    for text in ("{", '{"mean": 3}', "[NaN]"):
        for entry in model.metadata_props:
            if entry.key == "secateur.preprocessing":
                entry.value = text
        onnx.save(model, tmp_path / "net.onnx")
        with pytest.raises(ArtifactError):
            _ = OnnxModel(tmp_path / "net.onnx").preprocessing
