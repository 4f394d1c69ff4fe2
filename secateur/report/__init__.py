"""Run records, graphs and model files as tables, and one page per run."""

from secateur.report.curves import sensitivity_facts as sensitivity_facts
from secateur.report.curves import sensitivity_grid as sensitivity_grid
from secateur.report.curves import write_curves as write_curves
from secateur.report.front import FRONT_FILES as FRONT_FILES
from secateur.report.front import front_facts as front_facts
from secateur.report.front import front_grid as front_grid
from secateur.report.front import widths_grid as widths_grid
from secateur.report.front import write_front as write_front
from secateur.report.grid import Grid as Grid
from secateur.report.grid import print_facts as print_facts
from secateur.report.grid import print_grid as print_grid
from secateur.report.int8 import calibrator_grid as calibrator_grid
from secateur.report.int8 import int8_facts as int8_facts
from secateur.report.int8 import int8_grid as int8_grid
from secateur.report.int8 import int8_markdown as int8_markdown
from secateur.report.int8 import timing_facts as timing_facts
from secateur.report.int8_figures import INT8_FILES as INT8_FILES
from secateur.report.int8_figures import write_int8_figures as write_int8_figures
from secateur.report.latency_budget import latency_facts as latency_facts
from secateur.report.latency_table import table_facts as table_facts
from secateur.report.latency_table import table_grid as table_grid
from secateur.report.page import report_markdown as report_markdown
from secateur.report.page import write_report as write_report
from secateur.report.pruning_steps import STEP_FILES as STEP_FILES
from secateur.report.pruning_steps import write_pruning_steps as write_pruning_steps
from secateur.report.restored import restored_facts as restored_facts
from secateur.report.restored import restored_grid as restored_grid
from secateur.report.result import MODELS as MODELS
from secateur.report.result import proof_text as proof_text
from secateur.report.result import result_facts as result_facts
from secateur.report.result import result_grid as result_grid
from secateur.report.structure import artifact_facts as artifact_facts
from secateur.report.structure import artifact_grid as artifact_grid
from secateur.report.structure import cost_grid as cost_grid
from secateur.report.structure import groups_grid as groups_grid
from secateur.report.structure import plan_facts as plan_facts
from secateur.report.structure import plan_grid as plan_grid
from secateur.report.structure import profile_facts as profile_facts
from secateur.report.structure import profile_grid as profile_grid
from secateur.report.tradeoff import write_tradeoff as write_tradeoff
from secateur.report.weight_figures import WEIGHT_FILES as WEIGHT_FILES
from secateur.report.weight_figures import write_weight_figures as write_weight_figures
from secateur.report.why import Limit as Limit
from secateur.report.why import limits as limits
from secateur.report.why import why_json as why_json
from secateur.report.why import why_text as why_text

__all__ = [
    "FRONT_FILES",
    "INT8_FILES",
    "MODELS",
    "STEP_FILES",
    "WEIGHT_FILES",
    "Grid",
    "Limit",
    "artifact_facts",
    "artifact_grid",
    "calibrator_grid",
    "cost_grid",
    "front_facts",
    "front_grid",
    "groups_grid",
    "int8_facts",
    "int8_grid",
    "int8_markdown",
    "latency_facts",
    "limits",
    "plan_facts",
    "plan_grid",
    "print_facts",
    "print_grid",
    "profile_facts",
    "profile_grid",
    "proof_text",
    "report_markdown",
    "restored_facts",
    "restored_grid",
    "result_facts",
    "result_grid",
    "sensitivity_facts",
    "sensitivity_grid",
    "table_facts",
    "table_grid",
    "timing_facts",
    "why_json",
    "why_text",
    "widths_grid",
    "write_curves",
    "write_front",
    "write_int8_figures",
    "write_pruning_steps",
    "write_report",
    "write_tradeoff",
    "write_weight_figures",
]
