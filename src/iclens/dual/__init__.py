"""The dual model of attention."""

from iclens.dual.counterfactual import Counterfactual, Nearest
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
from iclens.dual.weighted_mean import Disagreement, disagreement, leave_one_out

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Alignment",
    "Counterfactual",
    "Disagreement",
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
    "Nearest",
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
    "disagreement",
    "gd_plus_plus",
    "gradient_descent",
    "leave_one_out",
    "one_step_head",
    "online_attention",
    "online_from_features",
    "weight_update_as_attention",
]
