"""Any attention variant with a leading axis of runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from iclens.attention import AttentionVariant, build
from iclens.attention.strength import StrengthOption
from iclens.errors import UserError
from iclens.models.runs import Draws


class RunsAttention(nn.Module):
    """One attention variant for every run.

    A variant takes any leading axes, and its strengths broadcast over them: so all runs are one call when strengths are
    all that a run has of its own. A variant with other parameters (an augmentation's weights, learned negatives) is
    called once for each run.

    Runs may have fewer than H heads: the outputs of the others are set to zero, so that they neither act nor learn.

    Args:
        draws: where initial values come from.
        name: the registered variant.
        options: options of the variant for each run; they may differ in strengths only.
        n_heads: H.
        heads_of: number of heads of each run, at most H.
        width: width of a head's queries, keys and values.

    Raises:
        UserError: an unknown variant or option, or options that differ in more than strengths.
    """

    head_mask: Tensor | None

    def __init__(
        self,
        draws: Draws,
        name: str,
        options: Sequence[Mapping[str, Any]],
        n_heads: int,
        heads_of: Sequence[int],
        width: int,
    ) -> None:
        super().__init__()
        singles = [_drawn(draws.seed(run), name, dict(options[run]), n_heads, width) for run in range(draws.n_runs)]
        _check_alike(name, singles)
        self.n_runs = draws.n_runs
        # Not a submodule: its parameters are replaced in every call by those of the runs.
        self._variant = [singles[0].requires_grad_(False)]
        self.in_one_call = has_strengths_only(singles[0])
        self.of_runs = nn.ParameterDict()
        self._key_of: dict[str, str] = {}
        for key, _ in singles[0].named_parameters():
            stored = key.replace(".", "__")
            self._key_of[stored] = key
            values = torch.stack([dict(single.named_parameters())[key].detach() for single in singles])
            self.of_runs[stored] = nn.Parameter(values)
        for key, option in _strengths(singles[0]):
            if not option.learned:
                self._spread(key, singles)
        fewer = any(count != n_heads for count in heads_of)
        mask = torch.tensor([[float(head < count) for head in range(n_heads)] for count in heads_of]) if fewer else None
        self.register_buffer("head_mask", mask, persistent=False)

    @property
    def variant(self) -> AttentionVariant:
        """The variant of the first run; its own parameters are not those of the ensemble."""
        return self._variant[0]

    def _spread(self, key: str, singles: Sequence[AttentionVariant]) -> None:
        """A fixed strength as a buffer of all runs, where it is not the same plain number in all of them."""
        values = [torch.as_tensor(_at(single, key)) for single in singles]
        if any(value.ndim > 1 for value in values):
            raise UserError(f"{key}={_at(singles[0], key)} must be one number, or one for each head.")
        if all(value.ndim == 0 and bool(value == values[0]) for value in values):
            return
        owner, name = _owner(self.variant, key)
        if hasattr(owner, name):
            delattr(owner, name)
        owner.register_buffer(name, torch.zeros(1), persistent=False)
        stored = key.replace(".", "__")
        self._key_of[stored] = key
        length = max(value.numel() for value in values)
        stacked = torch.stack([value.to(torch.get_default_dtype()).expand(length) for value in values])
        self.register_buffer(f"fixed_{stored}", stacked, persistent=False)

    def forward(
        self,
        q: Float[Tensor, "runs batch n_heads n_query width"],
        k: Float[Tensor, "runs batch n_heads n_key width"],
        v: Float[Tensor, "runs batch n_heads n_key width"],
        mask: Bool[Tensor, "#n_query n_key"] | None = None,
        *,
        is_causal: bool = False,
    ) -> Float[Tensor, "runs batch n_heads n_query width"]:
        """Attention of every run's heads."""
        settings = {"is_causal": is_causal}
        if not self._key_of:
            out = self.variant(q, k, v, mask, **settings)
        elif self.in_one_call:
            # Strengths (runs) or (runs, heads) broadcast over (runs, batch, heads).
            values = {key: value.reshape(value.shape[0], 1, -1) for key, value in self._values().items()}
            out = functional_call(self.variant, values, (q, k, v, mask), settings)
        else:
            values = self._values()
            outs = [
                functional_call(
                    self.variant,
                    {key: value[run] for key, value in values.items()},
                    (q[run], k[run], v[run], mask),
                    settings,
                )
                for run in range(self.n_runs)
            ]
            out = torch.stack(outs)
        return out if self.head_mask is None else out * self.head_mask.to(out.dtype)[:, None, :, None, None]

    def variant_of(self, run: int) -> AttentionVariant:
        """Return a copy of the variant with the parameters and strengths of one run."""
        variant = copy.deepcopy(self.variant)
        for key, value in self._values().items():
            owner, name = _owner(variant, key)
            if name in owner._parameters:
                owner._parameters[name] = nn.Parameter(value[run].detach().clone())
            else:
                owner._buffers[name] = value[run].clone()
        return variant

    def _values(self) -> dict[str, Tensor]:
        learned = {self._key_of[stored]: value for stored, value in self.of_runs.items()}
        fixed = {
            self._key_of[name.removeprefix("fixed_")]: value
            for name, value in self.named_buffers()
            if name.startswith("fixed_")
        }
        return learned | fixed


def _drawn(seed: int, name: str, options: dict[str, Any], n_heads: int, width: int) -> AttentionVariant:
    with torch.random.fork_rng(devices=[]):
        # Variants are made on the CPU; `torch.manual_seed` would take milliseconds for the other devices.
        torch.default_generator.manual_seed(seed)
        return build(name, n_heads=n_heads, d=width, d_v=width, **options)


def _strengths(variant: AttentionVariant) -> list[tuple[str, StrengthOption]]:
    """Names, with their module's path, of a variant's strengths."""
    return [
        (f"{path}.{entry.name}" if path else entry.name, entry)
        for path, module in variant.named_modules()
        for entry in vars(module).values()
        if isinstance(entry, StrengthOption)
    ]


def _owner(variant: AttentionVariant, key: str) -> tuple[nn.Module, str]:
    path, _, name = key.rpartition(".")
    return variant.get_submodule(path), name


def _at(variant: AttentionVariant, key: str) -> Any:
    owner, name = _owner(variant, key)
    return getattr(owner, name)


def fixed_options(variant: AttentionVariant) -> dict[str, Any]:
    """Return the options of a variant that runs of one ensemble must share: all but its strengths."""
    strengths = {option.name for _, option in _strengths(variant)}

    def without(options: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in options.items() if key not in strengths}
        if "parts" in kept:
            kept["parts"] = [without(part) for part in kept["parts"]]
        return kept

    return without(variant.options())


def has_strengths_only(variant: AttentionVariant) -> bool:
    """Return whether all parameters of a variant are strengths."""
    strengths = {key for key, _ in _strengths(variant)}
    return all(key in strengths for key, _ in variant.named_parameters())


def _check_alike(name: str, singles: Sequence[AttentionVariant]) -> None:
    for single in singles[1:]:
        if fixed_options(single) != fixed_options(singles[0]):
            raise UserError(f"runs of one ensemble may differ in the strengths of {name!r} attention only.")
