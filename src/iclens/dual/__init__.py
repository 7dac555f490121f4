"""The dual model of attention."""

from iclens.dual.demonstrations import Groups
from iclens.dual.descent import (
    GradientStepHead,
    WeightUpdate,
    gd_plus_plus,
    gradient_descent,
    one_step_head,
    weight_update_as_attention,
)
from iclens.dual.explicit import ExplicitDual, Training
from iclens.dual.feed_forward import ACTIVATIONS, Activation, FeedForward
from iclens.dual.heads import HeadsDual
from iclens.dual.held import HeldMap
from iclens.dual.layer import LayerDual
from iclens.dual.layer_weights import LayerWeights
from iclens.dual.model import Alignment, DualModel, LogStepLoss, StepLoss
from iclens.dual.norms import Norm
from iclens.dual.online import OnlineRun, OnlineState, online_attention, online_from_features
from iclens.dual.rotary import Rotary
from iclens.dual.stack import Paths, StackDual, StackWeights, Step
from iclens.dual.training_weights import TrainingWeights

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Alignment",
    "DualModel",
    "ExplicitDual",
    "FeedForward",
    "GradientStepHead",
    "Groups",
    "HeadsDual",
    "HeldMap",
    "LayerDual",
    "LayerWeights",
    "LogStepLoss",
    "Norm",
    "OnlineRun",
    "OnlineState",
    "Paths",
    "Rotary",
    "StackDual",
    "StackWeights",
    "Step",
    "StepLoss",
    "Training",
    "TrainingWeights",
    "WeightUpdate",
    "gd_plus_plus",
    "gradient_descent",
    "one_step_head",
    "online_attention",
    "online_from_features",
    "weight_update_as_attention",
]
