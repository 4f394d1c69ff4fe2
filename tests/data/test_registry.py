import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from secateur.data import AUGMENTATIONS, DATA_FOLDERS, DATA_SETS, StreamingSource, load_data
from secateur.errors import DataError, UsageError

TENSORS = """
import torch
from secateur.data import Augmentation
def data():
    images = torch.arange(8 * 3 * 4 * 4).remainder(256).to(torch.uint8).view(8, 3, 4, 4)
    labels = torch.arange(8) % 2
    return {"train": (images, labels), "test": (images, labels), "class_names": ["a", "b"],
            "normalization": "imagenet", "augmentation": Augmentation(flip=True)}
def floats():
    made = data()
    return {part: (made[part][0].double() / 255, made[part][1].numpy()) for part in ("train", "test")}
def grey(): return {part: (torch.zeros(4, 5, 5), torch.arange(4) % 2) for part in ("train", "test")}
class Rows:
    targets = [0, 1] * 4
    def __len__(self): return 8
    def __getitem__(self, row): return torch.full((1, 4, 4), row, dtype=torch.uint8), row % 2
def rows(): return {"train": Rows(), "test": Rows()}
def mixed(): return {"train": Rows(), "test": data()["test"]}
def nothing(): return 3
def named(): return {**data(), "augmentation": "cifar"}
def resized():
    from secateur.data import Resizing
    return {**data(), "augmentation": Resizing(size=5)}
def odd(): return {**data(), "augmentation": 3}
def typo(): return {"trian": 1}
def half(): return {"train": Rows()}
def broken(): raise KeyError("my_key")
def source():
    from secateur.data import load_data
    return load_data("digits")
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(TENSORS)
    return str(tmp_path / "mine.py")


@pytest.mark.parametrize("name", ["digit", "cifar-10", "minst"])
def test_an_unknown_name_suggests_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown data set '{name}'; did you mean '({'|'.join(DATA_SETS)})'"):
        load_data(name)


@pytest.mark.parametrize("name", ["foldr:here", "parqet:here", "cub20:here", "fashionmnist", "imagnet"])
def test_a_layout_that_is_misspelt_suggests_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown data set '{name}'; did you mean '"):
        load_data(name)


@pytest.mark.parametrize("prefix", DATA_FOLDERS)
def test_a_layout_needs_its_folder(prefix: str) -> None:
    with pytest.raises(UsageError, match=f"'{prefix}' names no folder; write it as {prefix}DIR"):
        load_data(prefix)


def test_an_unknown_augmentation_is_refused_before_data_is_read() -> None:
    with pytest.raises(UsageError, match="did you mean 'imagenet'"):
        load_data("mnist", root="nowhere", augmentation="imagnet")


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_a_set_that_resizes_fits_tensors_and_data_sets(file: str) -> None:
    for function, peak in (("data", 255.0), ("floats", 1.0), ("rows", 255.0), ("resized", 255.0)):
        data = load_data(f"{file}:{function}", augmentation="imagenet:6", workers=0, validation_share=0.0)
        assert isinstance(data, StreamingSource)
        assert data.peak == peak
        x, _ = next(iter(data.batches("train", batch_size=8, seed=1, augment=True)))
        assert x.shape[-2:] == (6, 6)
    assert load_data(f"{file}:resized", workers=0).sample_shape == (3, 5, 5)
    named = load_data(f"{file}:named")
    assert named.augmentation == AUGMENTATIONS["cifar"]  # type: ignore[attr-defined]
    chosen = load_data(f"{file}:named", augmentation="none")
    assert chosen.augmentation == AUGMENTATIONS["none"]  # type: ignore[attr-defined]


@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_digits_can_be_resized_too() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    data = load_data("digits", augmentation="imagenet:32", workers=0, normalize="none")
    x, _ = next(iter(data.batches("test", batch_size=50)))
    assert x.shape == (50, 1, 32, 32)
    assert 0.9 < float(x.max()) <= 1
    plain, _ = next(iter(load_data("digits", normalize="none").batches("test", batch_size=50)))
    assert abs(float(x.mean()) - float(plain[..., 1:-1, 1:-1].mean())) < 0.1


def test_an_unknown_normalisation_is_refused_before_data_is_read() -> None:
    with pytest.raises(UsageError, match="did you mean 'imagenet'"):
        load_data("mnist", root="nowhere", normalize="imagnet")


def test_tensors_of_a_users_function(file: str) -> None:
    data = load_data(f"{file}:data", validation_share=0.25)
    assert (data.class_names, data.sample_shape) == (("a", "b"), (3, 4, 4))
    assert data.normalization.mean[0] == 0.485
    assert data.size("validation") == 2
    floats = next(iter(load_data(f"{file}:floats", validation_share=0.0).batches("train", batch_size=8)))[0]
    raw = next(iter(load_data(f"{file}:data", normalize="none").batches("test", batch_size=8)))[0]
    torch.testing.assert_close(floats, raw)
    assert load_data(f"{file}:grey").sample_shape == (1, 5, 5)


def test_data_sets_and_sources_of_a_users_function(file: str) -> None:
    data = load_data(f"{file}:rows", workers=2)
    assert isinstance(data, StreamingSource)
    assert sorted(torch.cat([y for _, y in data.batches("test", batch_size=3)]).tolist()) == [0] * 4 + [1] * 4
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert load_data(f"{file}:source").name == "digits"
    with pytest.raises(UsageError, match="augments by itself"):
        load_data(f"{file}:source", augmentation="none")
    with pytest.raises(UsageError, match="normalises by itself"):
        load_data(f"{file}:source", normalize="none")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("dat", UsageError, "did you mean 'data'"),
        ("broken", DataError, r"broken failed with KeyError: 'my_key' \(mine\.py, line \d+\)"),
        ("nothing", DataError, "returned int; return a DataSource"),
        ("typo", DataError, "did you mean 'train'"),
        ("odd", DataError, "returned 3 as augmentation; return Augmentation"),
        ("half", DataError, "returned no 'test' entry"),
        ("mixed", DataError, "returned tuple as 'test'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(file: str, function: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_data(f"{file}:{function}")
    assert "\n" not in str(caught.value)


def test_code_runs_only_where_allowed(file: str) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        load_data(f"{file}:data", allow_code=False)


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [("digits", "sklearn.datasets", "demo"), ("mnist", "torchvision", "vision"), ("parquet:.", "pyarrow", "vision")],
)
def test_a_missing_package_names_its_extra(
    spec: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"pip install 'secateur\[{extra}\]'"):
        load_data(spec)


def test_importing_the_packages_imports_no_extra() -> None:
    script = "import sys, secateur.data, secateur.models; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torchvision", "timm", "sklearn", "pyarrow", "PIL"} & set(done.stdout.split())
