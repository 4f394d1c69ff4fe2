"""An ordinary training loop that can be interrupted anywhere, and what methods need of any other one."""

from secateur.training.checkpoint import Entry as Entry
from secateur.training.devices import Processes as Processes
from secateur.training.devices import choose_device as choose_device
from secateur.training.devices import join_processes as join_processes
from secateur.training.devices import set_threads as set_threads
from secateur.training.devices import sum_over_processes as sum_over_processes
from secateur.training.digest import weights_digest as weights_digest
from secateur.training.distillation import distillation_loss as distillation_loss
from secateur.training.evaluate import eval_mode as eval_mode
from secateur.training.evaluate import evaluate as evaluate
from secateur.training.interrupts import Interrupted as Interrupted
from secateur.training.progress import Progress as Progress
from secateur.training.progress import Quiet as Quiet
from secateur.training.progress import progress_for as progress_for
from secateur.training.segmentation import IGNORED as IGNORED
from secateur.training.segmentation import evaluate_segmentation as evaluate_segmentation
from secateur.training.settings import Distillation as Distillation
from secateur.training.settings import TrainSettings as TrainSettings
from secateur.training.store import Phase as Phase
from secateur.training.store import Store as Store
from secateur.training.supervised import SupervisedTask as SupervisedTask
from secateur.training.task import Batch as Batch
from secateur.training.task import DataSource as DataSource
from secateur.training.task import Hook as Hook
from secateur.training.task import PhasedTask as PhasedTask
from secateur.training.task import Split as Split
from secateur.training.task import Step as Step
from secateur.training.task import Subset as Subset
from secateur.training.task import Task as Task
from secateur.training.task import TaskName as TaskName
from secateur.training.task import task_of as task_of

__all__ = [
    "IGNORED",
    "Batch",
    "DataSource",
    "Distillation",
    "Entry",
    "Hook",
    "Interrupted",
    "Phase",
    "PhasedTask",
    "Processes",
    "Progress",
    "Quiet",
    "Split",
    "Step",
    "Store",
    "Subset",
    "SupervisedTask",
    "Task",
    "TaskName",
    "TrainSettings",
    "choose_device",
    "distillation_loss",
    "eval_mode",
    "evaluate",
    "evaluate_segmentation",
    "join_processes",
    "progress_for",
    "set_threads",
    "sum_over_processes",
    "task_of",
    "weights_digest",
]
