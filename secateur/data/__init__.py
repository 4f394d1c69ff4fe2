"""Real data sets, the embedded digits, and subsets for calibration."""

from secateur.data.augment import Augmentation as Augmentation
from secateur.data.augmentation_sets import AUGMENTATIONS as AUGMENTATIONS
from secateur.data.augmentation_sets import RESIZING_AUGMENTATIONS as RESIZING_AUGMENTATIONS
from secateur.data.augmentation_sets import augmentation_named as augmentation_named
from secateur.data.calibration import CalibrationSubset as CalibrationSubset
from secateur.data.calibration import calibration_subset as calibration_subset
from secateur.data.fingerprint import data_fingerprint as data_fingerprint
from secateur.data.framing import Framing as Framing
from secateur.data.memory import LabelledImages as LabelledImages
from secateur.data.memory import MemorySource as MemorySource
from secateur.data.normalization import NORMALIZATIONS as NORMALIZATIONS
from secateur.data.normalization import Normalization as Normalization
from secateur.data.normalization import normalization_named as normalization_named
from secateur.data.registry import DATA_FOLDERS as DATA_FOLDERS
from secateur.data.registry import DATA_SETS as DATA_SETS
from secateur.data.registry import PARQUET as PARQUET
from secateur.data.registry import load_data as load_data
from secateur.data.resizing import Resizing as Resizing
from secateur.data.segmentation import SegmentationSource as SegmentationSource
from secateur.data.source import SPLITS as SPLITS
from secateur.data.source import DataSource as DataSource
from secateur.data.source import Split as Split
from secateur.data.streaming import StreamingSource as StreamingSource
from secateur.data.train_share import TrainShare as TrainShare

__all__ = [
    "AUGMENTATIONS",
    "DATA_FOLDERS",
    "DATA_SETS",
    "NORMALIZATIONS",
    "PARQUET",
    "RESIZING_AUGMENTATIONS",
    "SPLITS",
    "Augmentation",
    "CalibrationSubset",
    "DataSource",
    "Framing",
    "LabelledImages",
    "MemorySource",
    "Normalization",
    "Resizing",
    "SegmentationSource",
    "Split",
    "StreamingSource",
    "TrainShare",
    "augmentation_named",
    "calibration_subset",
    "data_fingerprint",
    "load_data",
    "normalization_named",
]
