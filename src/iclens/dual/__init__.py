"""The dual model of attention."""

from iclens.dual.demonstrations import Groups
from iclens.dual.explicit import ExplicitDual, Training
from iclens.dual.model import Alignment, DualModel, LogStepLoss, StepLoss

__all__ = ["Alignment", "DualModel", "ExplicitDual", "Groups", "LogStepLoss", "StepLoss", "Training"]
