"""What brings accuracy back after a cut without training: layers re-fitted, batch norm measured anew."""

from secateur.compensation.batch_norm import reestimate_batch_norm as reestimate_batch_norm
from secateur.compensation.compensate import Compensation as Compensation
from secateur.compensation.compensate import Refit as Refit
from secateur.compensation.compensate import compensate as compensate
from secateur.compensation.images import first_images as first_images
from secateur.compensation.restore import Restored as Restored
from secateur.compensation.restore import restore as restore
from secateur.compensation.settings import RESTORE_NOTHING as RESTORE_NOTHING
from secateur.compensation.settings import RestoreSettings as RestoreSettings

__all__ = [
    "RESTORE_NOTHING",
    "Compensation",
    "Refit",
    "RestoreSettings",
    "Restored",
    "compensate",
    "first_images",
    "reestimate_batch_norm",
    "restore",
]
