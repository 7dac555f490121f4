"""Attention whose dual model has a better optimizer than one step on a linear loss, one optimizer a file."""

from iclens.attention.optimizers.delta_rule import DeltaRuleAttention, delta_rule_attention
from iclens.attention.optimizers.hebbian import HebbianAttention, hebbian_attention
from iclens.attention.optimizers.kernel_ridge import KernelRidgeAttention, kernel_ridge_attention
from iclens.attention.optimizers.matched_mass import MassMatchedAttention
from iclens.attention.optimizers.momentum import MomentumAttention, momentum_attention
from iclens.attention.optimizers.preconditioned import PreconditionedAttention, preconditioned_attention
from iclens.attention.optimizers.trained import TrainedAttention

__all__ = [
    "DeltaRuleAttention",
    "HebbianAttention",
    "KernelRidgeAttention",
    "MassMatchedAttention",
    "MomentumAttention",
    "PreconditionedAttention",
    "TrainedAttention",
    "delta_rule_attention",
    "hebbian_attention",
    "kernel_ridge_attention",
    "momentum_attention",
    "preconditioned_attention",
]
