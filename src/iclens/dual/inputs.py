"""What a dual model is made of, checked and brought to one shape."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.kernels import KERNELS, Kernel


def checked_tensors(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check queries, keys and values against each other.

    Raises:
        UserError: no floating-point tensors, shapes, dtypes or devices that do not agree, or a non-finite number.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise UserError(f"{name} is a {type(tensor).__name__}; it must be a torch.Tensor.")
        if tensor.ndim < 2:
            raise UserError(f"{name} has shape {tuple(tensor.shape)}; it needs at least two axes: tokens, features.")
        if not tensor.is_floating_point():
            raise UserError(f"{name} has dtype {tensor.dtype}; it must be floating point.")
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise UserError(
                f"{name} is {tensor.dtype} on {tensor.device}, but q is {q.dtype} on {q.device}: they must agree."
            )
    if k.shape[-1] != q.shape[-1]:
        raise UserError(f"q has {q.shape[-1]} features and k has {k.shape[-1]}: they must have the same number.")
    if v.shape[-2] != k.shape[-2]:
        raise UserError(f"k has {k.shape[-2]} tokens and v has {v.shape[-2]}: they must have the same number.")
    if 0 in (q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]):
        raise UserError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: no axis may be empty.")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        finite = tensor.isfinite()
        if not bool(finite.all()):
            where = (~finite).nonzero()[0].tolist()
            raise UserError(f"{name} holds a non-finite number at index {where}: {tensor[tuple(where)].item()}.")
    return q, k, v


def chosen_kernel(kernel: str | Kernel, scale: float | None, d: int) -> Kernel:
    """Return the kernel that a user named or gave, with the scale of the scores.

    Raises:
        UserError: a scale that is given twice or not positive, or a kernel that needs more than a scale.
    """
    if isinstance(kernel, Kernel):
        if scale is not None:
            raise UserError("scale is given twice: a Kernel brings its own. Leave scale out, or name the kernel.")
        return kernel
    cls = KERNELS[kernel]
    if scale is None:
        scale = 1.0 if kernel == "linear" else d**-0.5
    if not (scale > 0 and scale < float("inf")):
        raise UserError(f"scale={scale} must be a positive finite number.")
    try:
        return cls(scale)  # type: ignore[call-arg]
    except TypeError:
        raise UserError(f"the kernel {kernel!r} has more parameters than a scale: give a Kernel object.") from None


def checked_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Check a mask against queries and keys.

    Raises:
        UserError: it is not bool, does not fit, or leaves a query nothing to attend to.
    """
    if mask is None:
        return None
    n_query, n_key = q.shape[-2], k.shape[-2]
    if mask.dtype != torch.bool:
        raise UserError(f"mask has dtype {mask.dtype}; it must be bool, True where the query may attend.")
    if mask.ndim < 2 or mask.shape[-1] != n_key or mask.shape[-2] not in (1, n_query):
        raise UserError(f"mask has shape {tuple(mask.shape)}; its last two axes must be ({n_query}, {n_key}).")
    mask = mask.to(q.device)
    refuse_empty_rows(mask, "by the mask")
    return mask


def refuse_empty_rows(mask: Tensor, why: str) -> None:
    """Refuse a query that may attend to no key.

    Raises:
        UserError: it names the query, and `why` there is no key.
    """
    empty = ~mask.any(-1)
    if bool(empty.any()):
        *leading, row = empty.nonzero()[0].tolist()
        where = f" at leading index {leading}" if leading else ""
        raise UserError(f"query {row}{where} has no key to attend to {why}: its normaliser D would be 0.")


def repeat_for_grouped_queries(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat key and value heads for the consecutive query heads that share them.

    Raises:
        UserError: the number of query heads is no multiple of theirs.
    """
    if q.ndim < 3:
        return k, v

    def repeated(name: str, tensor: Tensor) -> Tensor:
        if tensor.ndim < 3 or tensor.shape[-3] in (1, q.shape[-3]):
            return tensor
        if q.shape[-3] == 1:
            return tensor
        if q.shape[-3] % tensor.shape[-3]:
            raise UserError(
                f"q has {q.shape[-3]} heads and {name} has {tensor.shape[-3]}: the number of query heads must be a "
                "multiple."
            )
        return tensor.repeat_interleave(q.shape[-3] // tensor.shape[-3], -3)

    return repeated("k", k), repeated("v", v)
