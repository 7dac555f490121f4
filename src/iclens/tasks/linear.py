"""Linear regression, with or without noise."""

from __future__ import annotations

from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.task import TASKS


@TASKS.register("linear")
class Linear(LinearInFeatures):
    """y = wᵀ x + σ z, w ~ N(0, τ² I).

    The settings of papers: Garg et al. 2022, the defaults, noisy with `noise_std=1`; von Oswald et al. 2023, `d=10`
    with `inputs="uniform"`; Ahn et al. 2023 and Mahankali et al. 2023 with `noise_std`; He et al. 2025, `d=5`,
    `weight_std=5**-0.5`, `noise_std=0.1**0.5`.

    Args:
        d: width of the inputs.
        d_y: width of the labels; their weights are independent.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        inputs: `normal` for x ~ N(0, s² I), `uniform` for independent coordinates from U(−s, s).
        input_scale: s, positive.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(
        self,
        *,
        d: int = 20,
        d_y: int = 1,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        inputs: str = "normal",
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(
            d=d,
            n_features=d,
            d_y=d_y,
            weight_std=weight_std,
            noise_std=noise_std,
            inputs=inputs,
            input_scale=input_scale,
        )
