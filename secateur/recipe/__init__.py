"""What wires the other packages together: recipes, their runs and run directories, and the steps one by one."""

from secateur.recipe.compact import Compact as Compact
from secateur.recipe.compressing import compress as compress
from secateur.recipe.demo import demo_recipe as demo_recipe
from secateur.recipe.plans import Applied as Applied
from secateur.recipe.plans import Checked as Checked
from secateur.recipe.plans import MadePlan as MadePlan
from secateur.recipe.plans import apply_plan as apply_plan
from secateur.recipe.plans import check_target as check_target
from secateur.recipe.plans import make_plan as make_plan
from secateur.recipe.plans import plan_without as plan_without
from secateur.recipe.plans import read_plan as read_plan
from secateur.recipe.plans import require_data as require_data
from secateur.recipe.plans import verify_file as verify_file
from secateur.recipe.plans import write_plan as write_plan
from secateur.recipe.proving import require_proof as require_proof
from secateur.recipe.quantizing.call import QuantizeResult as QuantizeResult
from secateur.recipe.quantizing.call import quantize as quantize
from secateur.recipe.quantizing.saved import QuantizeJob as QuantizeJob
from secateur.recipe.quantizing.saved import quantize_named as quantize_named
from secateur.recipe.quantizing.settings import Quantize as Quantize
from secateur.recipe.quantizing.stages import QuietStages as QuietStages
from secateur.recipe.quantizing.stages import Stages as Stages
from secateur.recipe.reading import listed_recipes as listed_recipes
from secateur.recipe.reading import method_from as method_from
from secateur.recipe.reading import read_recipe as read_recipe
from secateur.recipe.reading import recipe_from as recipe_from
from secateur.recipe.reading import recipe_names as recipe_names
from secateur.recipe.reading import recipe_schema as recipe_schema
from secateur.recipe.reading import recipe_text as recipe_text
from secateur.recipe.rundir import RunDirectory as RunDirectory
from secateur.recipe.rundir import RunResult as RunResult
from secateur.recipe.rundir import recipe_yaml as recipe_yaml
from secateur.recipe.saved import artifact_info as artifact_info
from secateur.recipe.saved import artifact_json as artifact_json
from secateur.recipe.saved import evaluate_file as evaluate_file
from secateur.recipe.saved import export_file as export_file
from secateur.recipe.sensitivity import SensitivityRecipe as SensitivityRecipe
from secateur.recipe.sensitivity import SensitivityResult as SensitivityResult
from secateur.recipe.sensitivity import compared_share as compared_share
from secateur.recipe.sensitivity import measure_sensitivity as measure_sensitivity
from secateur.recipe.sensitivity import parse_shares as parse_shares
from secateur.recipe.settings import DataChoice as DataChoice
from secateur.recipe.settings import Machine as Machine
from secateur.recipe.settings import MaxDrop as MaxDrop
from secateur.recipe.settings import ModelChoice as ModelChoice
from secateur.recipe.settings import Recipe as Recipe
from secateur.recipe.settings import budget_from as budget_from
from secateur.recipe.settings import dense_training as dense_training
from secateur.recipe.settings import fine_tuning as fine_tuning
from secateur.recipe.subject import Subject as Subject
from secateur.recipe.subject import build_subject as build_subject
from secateur.recipe.subject import parse_shape as parse_shape
from secateur.recipe.subject import read_data as read_data
from secateur.recipe.subject import settle as settle
from secateur.recipe.subject import shape_in_files as shape_in_files
from secateur.recipe.width_search import WidthSearchResult as WidthSearchResult
from secateur.recipe.width_search import picked_recipe as picked_recipe
from secateur.recipe.width_search import search_widths as search_widths

__all__ = [
    "Applied",
    "Checked",
    "Compact",
    "DataChoice",
    "Machine",
    "MadePlan",
    "MaxDrop",
    "ModelChoice",
    "Quantize",
    "QuantizeJob",
    "QuantizeResult",
    "QuietStages",
    "Recipe",
    "RunDirectory",
    "RunResult",
    "SensitivityRecipe",
    "SensitivityResult",
    "Stages",
    "Subject",
    "WidthSearchResult",
    "apply_plan",
    "artifact_info",
    "artifact_json",
    "budget_from",
    "build_subject",
    "check_target",
    "compared_share",
    "compress",
    "demo_recipe",
    "dense_training",
    "evaluate_file",
    "export_file",
    "fine_tuning",
    "listed_recipes",
    "make_plan",
    "measure_sensitivity",
    "method_from",
    "parse_shape",
    "parse_shares",
    "picked_recipe",
    "plan_without",
    "quantize",
    "quantize_named",
    "read_data",
    "read_plan",
    "read_recipe",
    "recipe_from",
    "recipe_names",
    "recipe_schema",
    "recipe_text",
    "recipe_yaml",
    "require_data",
    "require_proof",
    "search_widths",
    "settle",
    "shape_in_files",
    "verify_file",
    "write_plan",
]
