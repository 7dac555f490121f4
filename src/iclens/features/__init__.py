"""Explicit feature maps φ with k(x, y) = φ(x)ᵀφ(y), exactly or nearly."""

from iclens.features.feature_map import FEATURE_MAPS, FeatureMap, FeaturePair, PointwiseFeatureMap
from iclens.features.identity import Identity
from iclens.features.mercer import JointMercer, Mercer
from iclens.features.nystrom import Nystrom
from iclens.features.positive_random import PositiveRandomFeatures
from iclens.features.taylor import TaylorFeatures

__all__ = [
    "FEATURE_MAPS",
    "FeatureMap",
    "FeaturePair",
    "Identity",
    "JointMercer",
    "Mercer",
    "Nystrom",
    "PointwiseFeatureMap",
    "PositiveRandomFeatures",
    "TaylorFeatures",
]
