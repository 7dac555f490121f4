"""Which keys are demonstrations: the three ways to say it, brought to one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError

MOST_PRODUCTS = 2**22
"""Most weight × value products formed at once when batches group their keys differently (32 MiB in float64)."""


@dataclass(frozen=True)
class Groups:
    """Keys grouped into demonstrations.

    Attributes:
        ids: for every key the index of its demonstration, −1 when it belongs to none (it then sets W_0);
            leading axes broadcast against the batch.
        n_demonstrations: number of demonstrations.
    """

    ids: Int[Tensor, "*batch n_key"]
    n_demonstrations: int

    @staticmethod
    def of(demonstrations: int | Tensor, n_key: int, device: torch.device) -> Groups:
        """Read `demonstrations`: an int (the first N keys, one each), a bool mask over keys (one each), or group ids.

        Raises:
            UserError: no demonstration at all, one outside the keys, an id without a key, or a wrong shape or dtype.
        """
        if isinstance(demonstrations, bool):
            raise UserError("demonstrations is a bool; give an int, a bool mask over the keys, or group ids.")
        if not isinstance(demonstrations, Tensor):
            return Groups._first(int(demonstrations), n_key, device)
        ids = demonstrations.to(device)
        if ids.ndim == 0 and not ids.is_floating_point() and ids.dtype != torch.bool:
            return Groups._first(int(ids), n_key, device)
        if ids.ndim == 0 or ids.shape[-1] != n_key:
            raise UserError(
                f"demonstrations has shape {tuple(ids.shape)}, but there are {n_key} keys: its last axis must have "
                f"{n_key} entries."
            )
        if ids.is_floating_point() or ids.is_complex():
            raise UserError(f"demonstrations has dtype {ids.dtype}; give an int, a bool mask, or integer group ids.")
        if ids.dtype == torch.bool:
            ids = torch.where(ids, ids.cumsum(-1) - 1, -1)
        ids = ids.long()
        if int(ids.min()) < -1:
            raise UserError(f"group ids start at 0, with −1 for no demonstration; found {int(ids.min())}.")
        n_demonstrations = int(ids.max()) + 1
        if n_demonstrations == 0:
            raise UserError("no key is a demonstration: at least one must be.")
        missing = sorted(set(range(n_demonstrations)) - set(ids.unique().tolist()))
        if missing:
            raise UserError(
                f"demonstration {missing[0]} is empty: group ids run from 0 to {n_demonstrations - 1}, but no key has "
                f"the id {missing[0]}."
            )
        return Groups(ids, n_demonstrations)

    @staticmethod
    def _first(n: int, n_key: int, device: torch.device) -> Groups:
        if not 1 <= n <= n_key:
            raise UserError(f"demonstrations={n} is out of range: with {n_key} keys it must be between 1 and {n_key}.")
        keys = torch.arange(n_key, device=device)
        return Groups(torch.where(keys < n, keys, -1), n)

    def sum_values(
        self,
        weights: Float[Tensor, "*batch n_query n_key"],
        v: Float[Tensor, "*batch_v n_key d_v"],
        *,
        most_products: int = MOST_PRODUCTS,
    ) -> Float[Tensor, "*out n_query n_demonstrations d_v"]:
        """Σ_{i in demonstration g} weights[t, i] · v[i], for every query t and demonstration g.

        Args:
            weights: one for every query and key.
            v: values.
            most_products: weight × value products that are formed at once when batches group their keys differently.
        """
        if self.ids.ndim > 1:
            return self._scatter(weights, v, most_products)
        # Keys sorted by demonstration, those of none cut off: one pass, however many demonstrations there are.
        sizes = self.ids[self.ids >= 0].bincount(minlength=self.n_demonstrations)
        order = self.ids.argsort(stable=True)[len(self.ids) - int(sizes.sum()) :]
        longest = int(sizes.max())
        if longest == 1:
            return weights[..., order].unsqueeze(-1) * v[..., order, :].unsqueeze(-3)
        if longest * self.n_demonstrations > 2 * len(order):
            members = order.split(sizes.tolist())
            return torch.stack([weights[..., index] @ v[..., index, :] for index in members], -2)
        # Demonstrations of nearly one length: one product, the shorter ones filled up with weights of zero.
        offsets = torch.arange(longest, device=order.device)
        padded = order[(sizes.cumsum(0) - sizes).unsqueeze(-1) + offsets.clamp(max=sizes.unsqueeze(-1) - 1)]
        own = weights[..., padded] * (offsets < sizes.unsqueeze(-1))
        return (own.transpose(-3, -2) @ v[..., padded, :]).transpose(-3, -2)

    def sum_weights(
        self, weights: Float[Tensor, "*batch n_query n_key"]
    ) -> Float[Tensor, "*out n_query n_demonstrations"]:
        """Σ_{i in demonstration g} weights[t, i]."""
        return self.sum_values(weights, weights.new_ones(weights.shape[-1], 1)).squeeze(-1)

    def _scatter(
        self, weights: Float[Tensor, "*batch n_query n_key"], v: Float[Tensor, "*batch_v n_key d_v"], most_products: int
    ) -> Float[Tensor, "*out n_query n_demonstrations d_v"]:
        leading = torch.broadcast_shapes(weights.shape[:-2], v.shape[:-2], self.ids.shape[:-1])
        n_query, (n_key, d_v) = weights.shape[-2], v.shape[-2:]
        # Keys outside all demonstrations go to one more slot, which is cut off.
        slots = torch.where(self.ids < 0, self.n_demonstrations, self.ids)
        rows = max(1, most_products // max(1, leading.numel() * n_key * d_v))
        parts = []
        for start in range(0, n_query, rows):
            chunk = weights[..., start : start + rows, :]
            products = (chunk.unsqueeze(-1) * v.unsqueeze(-3)).expand(*leading, -1, -1, -1)
            index = slots[..., None, :, None].expand(products.shape)
            total = products.new_zeros(*products.shape[:-2], self.n_demonstrations + 1, d_v)
            parts.append(total.scatter_add(-2, index, products)[..., :-1, :])
        return torch.cat(parts, -3) if parts else weights.new_zeros(*leading, 0, self.n_demonstrations, d_v)
