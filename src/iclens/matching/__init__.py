"""What did a trained model learn? Its answers beside those of known algorithms."""

from iclens.matching.comparisons import Comparison, Match, match
from iclens.matching.distances import (
    implied_weight_difference,
    implied_weights,
    sensitivity,
    squared_prediction_difference,
)
from iclens.matching.dual_layers import HeadDual, dual_heads
from iclens.matching.layers import LayerMatch, layer_matches
from iclens.matching.predictor import Predictor, of_estimator, of_model
from iclens.matching.pulls import PointPulls, point_pulls
from iclens.matching.ridge_parameter import RidgeFit, best_ridge

__all__ = [
    "Comparison",
    "HeadDual",
    "LayerMatch",
    "Match",
    "PointPulls",
    "Predictor",
    "RidgeFit",
    "best_ridge",
    "dual_heads",
    "implied_weight_difference",
    "implied_weights",
    "layer_matches",
    "match",
    "of_estimator",
    "of_model",
    "point_pulls",
    "sensitivity",
    "squared_prediction_difference",
]
