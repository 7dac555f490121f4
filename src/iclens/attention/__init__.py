"""Softmax attention and its modifications from contrastive learning, one variant a file."""

from iclens.attention.augmentations import AUGMENTATIONS
from iclens.attention.augmented import AugmentedAttention, augmented_attention, augmented_attention_naive
from iclens.attention.checkpoint import from_pretrained
from iclens.attention.composed import ComposedAttention
from iclens.attention.huggingface import Applied, apply, remove
from iclens.attention.linear import LinearAttention, linear_attention, linear_attention_naive
from iclens.attention.negative import NegativeAttention, negative_attention, negative_attention_naive
from iclens.attention.parameter_matched import ParameterMatchedAttention, parameter_matched
from iclens.attention.regularized import (
    RegularizedAttention,
    published_residual,
    regularized_attention,
    regularized_attention_naive,
)
from iclens.attention.scale_matched import ScaleMatchedAttention, scale_matched
from iclens.attention.softmax import SoftmaxAttention, softmax_attention, softmax_attention_naive
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape, build, name_of
from iclens.attention.variant_dual import VariantDual
from iclens.attention.weight_decay import WeightDecayAttention, weight_decay_attention, weight_decay_attention_naive

__all__ = [
    "ATTENTIONS",
    "AUGMENTATIONS",
    "Applied",
    "AttentionVariant",
    "AugmentedAttention",
    "ComposedAttention",
    "HeadShape",
    "LinearAttention",
    "NegativeAttention",
    "ParameterMatchedAttention",
    "RegularizedAttention",
    "ScaleMatchedAttention",
    "SoftmaxAttention",
    "VariantDual",
    "WeightDecayAttention",
    "apply",
    "augmented_attention",
    "augmented_attention_naive",
    "build",
    "from_pretrained",
    "linear_attention",
    "linear_attention_naive",
    "name_of",
    "negative_attention",
    "negative_attention_naive",
    "parameter_matched",
    "published_residual",
    "regularized_attention",
    "regularized_attention_naive",
    "remove",
    "scale_matched",
    "softmax_attention",
    "softmax_attention_naive",
    "weight_decay_attention",
    "weight_decay_attention_naive",
]
