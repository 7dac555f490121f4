"""The control for the delta rule: the same features and rate, trained on the linear loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.linear import linear_attention
from iclens.attention.optimizers.delta_rule import LinearTrainedAttention
from iclens.attention.optimizers.key_gram import wide
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.strength import Strength, finite, times
from iclens.attention.variant import ATTENTIONS


def hebbian_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    rate: Strength = 1.0,
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = s S_t q_t with S_i = S_{i−1} + β v_i k̂_iᵀ, k̂ = k/‖k‖: the delta rule without its correction.

    Keys, rate, parameters and read-out are those of `delta_rule_attention`; each token steps on the linear loss
    −v_iᵀ S k̂_i in the place of ½‖S k̂_i − v_i‖². It is linear attention with keys of length 1, times β.

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        rate: β; a number or a tensor that broadcasts over (..., n_kv_heads).
        scale: s; 1 when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit, or β not finite.
    """
    values = times(finite("rate", rate, k), v)
    return linear_attention(q, normalize(k, dim=-1), values, mask, scale=scale, is_causal=is_causal)


@ATTENTIONS.register("hebbian")
class HebbianAttention(LinearTrainedAttention):
    """`hebbian_attention` as a module.

    Args:
        shape: sizes of the heads.
        rate: β, one number or one for each key head.
        learned: make β a parameter that starts there.

    Raises:
        UserError: β not finite, or a list of the wrong length.
    """

    permutes = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        values, mask = times(self.rate, v), attending.mask
        return linear_attention(q, k, values, mask, scale=attending.scale, is_causal=attending.is_causal)

    def targets(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return repeat_heads(times(self.rate, wide(v)), attending.n_heads).unsqueeze(-3)
