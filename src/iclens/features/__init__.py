"""Explicit feature maps φ with k(x, y) = φ(x)ᵀφ(y), exactly or nearly."""

from iclens.features.feature_map import FEATURE_MAPS, FeatureMap, FeaturePair, PointwiseFeatureMap
from iclens.features.mercer import JointMercer, Mercer

__all__ = [
    "FEATURE_MAPS",
    "FeatureMap",
    "FeaturePair",
    "JointMercer",
    "Mercer",
    "PointwiseFeatureMap",
]
