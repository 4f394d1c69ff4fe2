"""The INT8 file: written with its pairs, run by the runtimes that people ship, and compared with the simulation."""

from secateur.export.int8.contents import stored_weights as stored_weights
from secateur.export.int8.executed import Execution as Execution
from secateur.export.int8.executed import Operator as Operator
from secateur.export.int8.executed import executed as executed
from secateur.export.int8.openvino_process import OpenVinoModel as OpenVinoModel
from secateur.export.int8.parity import Parity as Parity
from secateur.export.int8.processor import has_vnni as has_vnni
from secateur.export.int8.writer import Int8Report as Int8Report
from secateur.export.int8.writer import check_int8 as check_int8
from secateur.export.int8.writer import settings_of as settings_of
from secateur.export.int8.writer import write_int8 as write_int8

__all__ = [
    "Execution",
    "Int8Report",
    "OpenVinoModel",
    "Operator",
    "Parity",
    "check_int8",
    "executed",
    "has_vnni",
    "settings_of",
    "stored_weights",
    "write_int8",
]
