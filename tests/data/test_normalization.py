import pytest
import torch

from secateur.data import NORMALIZATIONS, Normalization, normalization_named
from secateur.data.augment import Normalizer
from secateur.errors import UsageError


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_the_text_of_a_normalisation_reads_back(name: str) -> None:
    assert normalization_named(str(NORMALIZATIONS[name])) == NORMALIZATIONS[name]


def test_one_value_stands_for_all_channels() -> None:
    assert Normalization((0.5,), (0.25,)).for_channels(3) == Normalization((0.5,) * 3, (0.25,) * 3)


def test_normalising_by_hand() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    out = Normalizer(Normalization((0.5,), (0.25,)), 255.0, "cpu")(pixels)
    torch.testing.assert_close(out.flatten(), torch.tensor([-2.0, 2.0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifar", "did you mean 'cifar10'"),
        ("mean=1,2;std=a,b", "is not a list of numbers"),
        ("mean=1,2;std=1", "2 mean and 1 std"),
        ("mean=0.5;std=0", "each std above 0"),
        ("mean=nan;std=1", "finite"),
    ],
)
def test_bad_text_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normalization_named(text)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="for 3 channels but the images have 1"):
        NORMALIZATIONS["cifar10"].for_channels(1)
