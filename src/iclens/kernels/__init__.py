"""Kernels k(x, y), evaluated in log space."""

from iclens.kernels.gaussian import GaussianKernel
from iclens.kernels.kernel import KERNELS, Kernel, SignedLog
from iclens.kernels.linear import LinearKernel
from iclens.kernels.softcapped import SoftcappedKernel
from iclens.kernels.softmax import SoftmaxKernel

__all__ = [
    "KERNELS",
    "GaussianKernel",
    "Kernel",
    "LinearKernel",
    "SignedLog",
    "SoftcappedKernel",
    "SoftmaxKernel",
]
