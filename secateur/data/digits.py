"""scikit-learn's handwritten digits: 1,797 real images that come with the package."""

import torch

from secateur.data.augment import Augmentation
from secateur.data.augmentation_sets import tensor_source
from secateur.data.memory import LabelledImages
from secateur.data.normalization import NORMALIZATIONS
from secateur.data.options import LoadOptions
from secateur.data.source import DataSource
from secateur.data.splits import stratified_split
from secateur.errors import UsageError

PEAK = 16.0  # the images count ink in 4×4 blocks, so they have 17 levels
TEST_SHARE = 0.2  # the data set has no test part of its own
TEST_SEED = 0  # fixed: the test split is the same for everybody, whatever seed a run has


def digits_source(options: LoadOptions) -> DataSource:
    """Return the digits as 1×8×8 images with levels 0 … 16; a fifth of them is a fixed test split.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998 (its test part).

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "the digits come with scikit-learn, which is not installed; install it with: pip install 'secateur[demo]'"
        ) from error
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    train, test = stratified_split(labels, TEST_SHARE, TEST_SEED, "digits test")
    return tensor_source(
        {
            "train": LabelledImages(pixels[train], labels[train]),
            "test": LabelledImages(pixels[test], labels[test]),
        },
        name="digits",
        class_names=[str(digit) for digit in range(10)],
        normalization=options.normalization or NORMALIZATIONS["digits"],
        peak=PEAK,
        augmentation=Augmentation(padding=1),
        options=options,
    )
