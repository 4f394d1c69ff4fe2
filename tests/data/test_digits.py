import pytest
import torch

from secateur.data import load_data

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def test_the_digits_are_exact_and_split_by_class() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits", normalize="none")
    assert [data.size("train"), data.size("validation"), data.size("test")] == [1294, 144, 359]
    assert (data.sample_shape, data.num_classes) == ((1, 8, 8), 10)
    stored = torch.from_numpy(load_digits().images).float()
    levels = torch.cat([x for split in ("train", "validation", "test") for x, _ in data.batches(split, batch_size=500)])  # type: ignore[arg-type]
    assert (levels * 16).sum() == stored.sum()
    assert set((levels * 16).unique().tolist()) == set(range(17))


def test_the_test_split_never_changes() -> None:
    first = next(iter(load_data("digits", split_seed=0).batches("test", batch_size=400)))
    second = next(iter(load_data("digits", split_seed=5, validation_share=0.3).batches("test", batch_size=400)))
    assert first[0].equal(second[0])
    assert first[1].bincount().min() >= 34


def test_normalised_digits_have_mean_0_and_deviation_1() -> None:
    x = torch.cat([x for x, _ in load_data("digits", validation_share=0.0).batches("train", batch_size=500)])
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3
