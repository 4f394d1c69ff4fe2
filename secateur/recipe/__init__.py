"""Jobs that wire the other packages together: the prune job and its run directory, and the steps of it one by one."""

from secateur.recipe.demo import demo_recipe as demo_recipe
from secateur.recipe.plans import Checked as Checked
from secateur.recipe.plans import MadePlan as MadePlan
from secateur.recipe.plans import apply_plan as apply_plan
from secateur.recipe.plans import check_target as check_target
from secateur.recipe.plans import make_plan as make_plan
from secateur.recipe.plans import read_plan as read_plan
from secateur.recipe.plans import verify_file as verify_file
from secateur.recipe.plans import write_plan as write_plan
from secateur.recipe.proving import require_proof as require_proof
from secateur.recipe.prune import PruneResult as PruneResult
from secateur.recipe.prune import prune as prune
from secateur.recipe.rundir import RunDirectory as RunDirectory
from secateur.recipe.saved import artifact_info as artifact_info
from secateur.recipe.saved import artifact_json as artifact_json
from secateur.recipe.saved import evaluate_file as evaluate_file
from secateur.recipe.saved import export_file as export_file
from secateur.recipe.settings import DataChoice as DataChoice
from secateur.recipe.settings import Machine as Machine
from secateur.recipe.settings import ModelChoice as ModelChoice
from secateur.recipe.settings import PruneRecipe as PruneRecipe
from secateur.recipe.settings import budget_from as budget_from
from secateur.recipe.settings import dense_training as dense_training
from secateur.recipe.settings import fine_tuning as fine_tuning
from secateur.recipe.subject import Subject as Subject
from secateur.recipe.subject import build_subject as build_subject
from secateur.recipe.subject import parse_shape as parse_shape
from secateur.recipe.subject import read_data as read_data
from secateur.recipe.subject import settle as settle
from secateur.recipe.subject import shape_in_files as shape_in_files

__all__ = [
    "Checked",
    "DataChoice",
    "Machine",
    "MadePlan",
    "ModelChoice",
    "PruneRecipe",
    "PruneResult",
    "RunDirectory",
    "Subject",
    "apply_plan",
    "artifact_info",
    "artifact_json",
    "budget_from",
    "build_subject",
    "check_target",
    "demo_recipe",
    "dense_training",
    "evaluate_file",
    "export_file",
    "fine_tuning",
    "make_plan",
    "parse_shape",
    "prune",
    "read_data",
    "read_plan",
    "require_proof",
    "settle",
    "shape_in_files",
    "verify_file",
    "write_plan",
]
