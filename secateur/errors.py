"""Every error that Secateur raises on purpose.

The command line turns any ``SecateurError`` into one sentence on stderr and exit code 2, so a message says what is
wrong, gives both values, and names the fix.
"""


class SecateurError(Exception):
    """Base of every error that Secateur raises on purpose."""


class UsageError(SecateurError):
    """A name, path or setting given by the user is unknown, missing or out of range."""


class DataError(SecateurError):
    """A data set cannot be read, is empty, or does not fit the model."""


class ModelError(SecateurError):
    """A model cannot be built, or its weights do not fit it."""


class TraceError(SecateurError):
    """A model does not run on its example inputs, or cannot be traced as it is."""


class PlanError(SecateurError):
    """A plan is malformed, or was made for another model."""


class BudgetError(SecateurError):
    """A budget is malformed or cannot be met."""


class SurgeryError(SecateurError):
    """A model, hook or optimiser cannot be cut as the plan says."""


class VerificationError(SecateurError):
    """The cut model is not the masked original."""


class TrainingError(SecateurError):
    """Training cannot go on: the loss is not finite, or the run does not fit its checkpoint."""


class ArtifactError(SecateurError):
    """A saved file is missing, corrupt, hostile, or does not fit the model it is loaded into."""


class ExportError(SecateurError):
    """A model cannot be exported, or the exported file does not compute what the model computes."""


class QuantizationError(SecateurError):
    """A tensor or a model cannot be quantized as asked."""
