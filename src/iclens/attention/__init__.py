"""Softmax attention and its modifications from contrastive learning, one variant a file."""

from iclens.attention.attending import Attending
from iclens.attention.augmentations import AUGMENTATIONS
from iclens.attention.augmented import AugmentedAttention, augmented_attention
from iclens.attention.composed import ComposedAttention
from iclens.attention.huggingface import Applied, apply, remove
from iclens.attention.linear import LinearAttention, linear_attention
from iclens.attention.matched_parameters import ParameterMatchedAttention, parameter_matched
from iclens.attention.matched_scale import ScaleMatchedAttention, scale_matched
from iclens.attention.negative import NegativeAttention, negative_attention
from iclens.attention.optimizers import (
    DeltaRuleAttention,
    HebbianAttention,
    KernelRidgeAttention,
    MassMatchedAttention,
    MomentumAttention,
    PreconditionedAttention,
    delta_rule_attention,
    hebbian_attention,
    kernel_ridge_attention,
    momentum_attention,
    preconditioned_attention,
)
from iclens.attention.regularized import (
    RegularizedAttention,
    published_residual,
    regularized_attention,
)
from iclens.attention.saved_models import from_pretrained
from iclens.attention.scaled_dot_product import scaled_dot_product_naive
from iclens.attention.softmax import SoftmaxAttention, softmax_attention
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape, build, name_of
from iclens.attention.variant_dual import VariantDual
from iclens.attention.weight_decay import WeightDecayAttention, weight_decay_attention

__all__ = [
    "ATTENTIONS",
    "AUGMENTATIONS",
    "Applied",
    "Attending",
    "AttentionVariant",
    "AugmentedAttention",
    "ComposedAttention",
    "DeltaRuleAttention",
    "HeadShape",
    "HebbianAttention",
    "KernelRidgeAttention",
    "LinearAttention",
    "MassMatchedAttention",
    "MomentumAttention",
    "NegativeAttention",
    "ParameterMatchedAttention",
    "PreconditionedAttention",
    "RegularizedAttention",
    "ScaleMatchedAttention",
    "SoftmaxAttention",
    "VariantDual",
    "WeightDecayAttention",
    "apply",
    "augmented_attention",
    "build",
    "delta_rule_attention",
    "from_pretrained",
    "hebbian_attention",
    "kernel_ridge_attention",
    "linear_attention",
    "momentum_attention",
    "name_of",
    "negative_attention",
    "parameter_matched",
    "preconditioned_attention",
    "published_residual",
    "regularized_attention",
    "remove",
    "scale_matched",
    "scaled_dot_product_naive",
    "softmax_attention",
    "weight_decay_attention",
]
