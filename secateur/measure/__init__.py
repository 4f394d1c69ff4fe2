"""What only running a model can tell: latency, the accuracy of a saved file, how sensitive each group is to a cut."""

from secateur.measure.divergence import Divergence as Divergence
from secateur.measure.evaluation import Agreement as Agreement
from secateur.measure.evaluation import check_data as check_data
from secateur.measure.evaluation import compare_predictions as compare_predictions
from secateur.measure.evaluation import evaluate_artifact as evaluate_artifact
from secateur.measure.evaluation import open_classifier as open_classifier
from secateur.measure.latency import Latency as Latency
from secateur.measure.latency import LatencyComparison as LatencyComparison
from secateur.measure.latency import compare_latency as compare_latency
from secateur.measure.latency import latencies_in_turn as latencies_in_turn
from secateur.measure.latency import measure_latency as measure_latency
from secateur.measure.latency import steady_clock as steady_clock
from secateur.measure.latency_table import QuietTable as QuietTable
from secateur.measure.latency_table import TableProgress as TableProgress
from secateur.measure.latency_table import TableSettings as TableSettings
from secateur.measure.latency_table import drift_note as drift_note
from secateur.measure.latency_table import measure_latency_table as measure_latency_table
from secateur.measure.sensitivity import SHARES as SHARES
from secateur.measure.sensitivity import QuietScan as QuietScan
from secateur.measure.sensitivity import ScanProgress as ScanProgress
from secateur.measure.sensitivity import checked_shares as checked_shares
from secateur.measure.sensitivity import groups_to_scan as groups_to_scan
from secateur.measure.sensitivity import scan_sensitivity as scan_sensitivity
from secateur.measure.sensitivity_record import FLAT as FLAT
from secateur.measure.sensitivity_record import GroupSensitivity as GroupSensitivity
from secateur.measure.sensitivity_record import RankedGroup as RankedGroup
from secateur.measure.sensitivity_record import Sensitivity as Sensitivity
from secateur.measure.sensitivity_record import SensitivityPoint as SensitivityPoint
from secateur.measure.sensitivity_record import read_sensitivity as read_sensitivity
from secateur.measure.sensitivity_record import sensitive_groups as sensitive_groups
from secateur.measure.sensitivity_record import write_sensitivity as write_sensitivity
from secateur.measure.threads import torch_threads as torch_threads

__all__ = [
    "FLAT",
    "SHARES",
    "Agreement",
    "Divergence",
    "GroupSensitivity",
    "Latency",
    "LatencyComparison",
    "QuietScan",
    "QuietTable",
    "RankedGroup",
    "ScanProgress",
    "Sensitivity",
    "SensitivityPoint",
    "TableProgress",
    "TableSettings",
    "check_data",
    "checked_shares",
    "compare_latency",
    "compare_predictions",
    "drift_note",
    "evaluate_artifact",
    "groups_to_scan",
    "latencies_in_turn",
    "measure_latency",
    "measure_latency_table",
    "open_classifier",
    "read_sensitivity",
    "scan_sensitivity",
    "sensitive_groups",
    "steady_clock",
    "torch_threads",
    "write_sensitivity",
]
