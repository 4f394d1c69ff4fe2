"""What only a runtime can tell: measured latency, and the accuracy of a saved file."""

from secateur.measure.evaluation import Agreement as Agreement
from secateur.measure.evaluation import check_data as check_data
from secateur.measure.evaluation import compare_predictions as compare_predictions
from secateur.measure.evaluation import evaluate_artifact as evaluate_artifact
from secateur.measure.evaluation import open_classifier as open_classifier
from secateur.measure.latency import Latency as Latency
from secateur.measure.latency import LatencyComparison as LatencyComparison
from secateur.measure.latency import compare_latency as compare_latency
from secateur.measure.latency import measure_latency as measure_latency
from secateur.measure.threads import torch_threads as torch_threads

__all__ = [
    "Agreement",
    "Latency",
    "LatencyComparison",
    "check_data",
    "compare_latency",
    "compare_predictions",
    "evaluate_artifact",
    "measure_latency",
    "open_classifier",
    "torch_threads",
]
