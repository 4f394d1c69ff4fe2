"""What a run measured: one type for all of it, written as ``record.json`` and ``log.jsonl``."""

from secateur.record.earlier import with_defaults as with_defaults
from secateur.record.environment import Environment as Environment
from secateur.record.environment import environment as environment
from secateur.record.int8 import CalibratorTrial as CalibratorTrial
from secateur.record.int8 import FloatOperator as FloatOperator
from secateur.record.int8 import Int8 as Int8
from secateur.record.latency_budget import LatencyBudget as LatencyBudget
from secateur.record.log import RunLog as RunLog
from secateur.record.log import read_log as read_log
from secateur.record.measurements import MEAN_IOU as MEAN_IOU
from secateur.record.measurements import TOP1 as TOP1
from secateur.record.measurements import Agreement as Agreement
from secateur.record.measurements import EpochMeasurement as EpochMeasurement
from secateur.record.measurements import Evaluation as Evaluation
from secateur.record.measurements import Latency as Latency
from secateur.record.measurements import Measurement as Measurement
from secateur.record.measurements import Proof as Proof
from secateur.record.measurements import TrainResult as TrainResult
from secateur.record.pruned_weights import CodedWeight as CodedWeight
from secateur.record.pruned_weights import Histogram as Histogram
from secateur.record.pruned_weights import ImageLayer as ImageLayer
from secateur.record.pruned_weights import LayerHistograms as LayerHistograms
from secateur.record.pruned_weights import LayerWeights as LayerWeights
from secateur.record.pruned_weights import PrunedWeights as PrunedWeights
from secateur.record.pruned_weights import PruningRound as PruningRound
from secateur.record.pruned_weights import SparseFile as SparseFile
from secateur.record.pruned_weights import WeightScan as WeightScan
from secateur.record.pruning_steps import PruningStep as PruningStep
from secateur.record.pruning_steps import read_steps as read_steps
from secateur.record.pruning_steps import write_steps as write_steps
from secateur.record.restoration import Restoration as Restoration
from secateur.record.restoration import RestoreStep as RestoreStep
from secateur.record.run import RunRecord as RunRecord
from secateur.record.run import read_record as read_record
from secateur.record.run import write_record as write_record
from secateur.record.width_search import FrontPoint as FrontPoint
from secateur.record.width_search import JointNetwork as JointNetwork
from secateur.record.width_search import UniformNetwork as UniformNetwork
from secateur.record.width_search import WidthSearch as WidthSearch
from secateur.record.width_search import read_width_search as read_width_search
from secateur.record.width_search import write_width_search as write_width_search

__all__ = [
    "MEAN_IOU",
    "TOP1",
    "Agreement",
    "CalibratorTrial",
    "CodedWeight",
    "Environment",
    "EpochMeasurement",
    "Evaluation",
    "FloatOperator",
    "FrontPoint",
    "Histogram",
    "ImageLayer",
    "Int8",
    "JointNetwork",
    "Latency",
    "LatencyBudget",
    "LayerHistograms",
    "LayerWeights",
    "Measurement",
    "Proof",
    "PrunedWeights",
    "PruningRound",
    "PruningStep",
    "Restoration",
    "RestoreStep",
    "RunLog",
    "RunRecord",
    "SparseFile",
    "TrainResult",
    "UniformNetwork",
    "WeightScan",
    "WidthSearch",
    "environment",
    "read_log",
    "read_record",
    "read_steps",
    "read_width_search",
    "with_defaults",
    "write_record",
    "write_steps",
    "write_width_search",
]
