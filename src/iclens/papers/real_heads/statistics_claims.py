"""Claims about a real model's heads, and whether the numbers bear them out."""

from __future__ import annotations

import numpy as np

from iclens.intervals import Estimate
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_EXACT = 1e-9

LEFT_OUT = Claim(
    "Leaving one token out of a head in closed form is attention over the others, for every head and token.",
    "Nadaraya-Watson regression (2501.12352); derived in docs/theory/trained-to-the-end.md",
    "derived",
)
NEARER = Claim(
    "Attention outputs lie nearer to gradient flow after the time of one step than to its end, in 90 % of the heads.",
    "our question; LUCID (2602.10410) states the linear objective of which a head is one step",
    "asked",
)
MOVED = Claim(
    "Training a head's dual to the end would change its output by more than a tenth, in at least half of the heads.",
    "our question; LUCID (2602.10410) replaces the linear objective by the squared one",
    "asked",
)
SINKS = Claim(
    "From the second third of the layers on, half of the heads put more than half of their weight on the first token.",
    "our question; Xiao et al. 2023 (attention sinks)",
    "asked",
)
DRAINED = Claim(
    "Where a head does so, the first token's value is less than half as long as the others', in 90 % of these heads.",
    "our question: a sink is a training pair that says nothing",
    "asked",
)
APART = Claim(
    "The values that a head averages disagree: by more than half of their mean squared length in half of the heads.",
    "our question; Nadaraya-Watson regression (2501.12352)",
    "asked",
)

CLAIMS = (LEFT_OUT, NEARER, MOVED, SINKS, DRAINED, APART)


def judged(table: Table) -> list[Verdict]:
    """A verdict on each of `CLAIMS`; a share of heads is taken in every prompt, and its mean over prompts counts."""
    return [_left_out(table), _nearer(table), _moved(table), _sinks(table), _drained(table), _apart(table)]


def values(table: Table, name: str) -> np.ndarray:
    """A column's numbers, NaN where they are missing; all NaN where there is no such column."""
    return table.column(name) if name in table.names else np.full(len(table), np.nan)


def _prompts(table: Table) -> list[Table]:
    found: dict[object, list[dict[str, object]]] = {}
    for row in table:
        found.setdefault((row.get("task"), row.get("number")), []).append(dict(row))
    return [Table(rows) for rows in found.values()]


def _share(prompts: list[Table], is_so: list[np.ndarray], among: list[np.ndarray]) -> Estimate | None:
    """Of every prompt the share of the heads among which something is so; None where no prompt has such heads."""
    shares = np.array(
        [so[of].mean() if of.any() else np.nan for _, so, of in zip(prompts, is_so, among, strict=True)] or [np.nan]
    )
    return None if np.isnan(shares).all() else seed_mean(shares)


def _judge(claim: Claim, share: Estimate | None, least: float, more: str, what: str) -> Verdict:
    if share is None:
        return claim.untested(f"no {what} was measured.")
    text = f"share of heads {_shown(share)}, {share.n} prompt{'s' * (share.n > 1)}; {more}"
    return claim.judged(share.mean >= least, text, f"a mean share of at least {least:g}")


def _shown(share: Estimate) -> str:
    """The share with its interval, which one prompt does not have."""
    return f"{share:.3f}" if share.n > 1 else f"{share.mean:.3f}"


def _known(prompts: list[Table], *names: str) -> list[np.ndarray]:
    return [~np.any([np.isnan(values(prompt, name)) for name in names], axis=0) for prompt in prompts]


def _middle(found: np.ndarray) -> str:
    known = found[~np.isnan(found)]
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9)) if len(known) else (np.nan,) * 3
    return f"{middle:.3g} in the median of all heads, 80 % of them between {low:.3g} and {high:.3g}"


def _left_out(table: Table) -> Verdict:
    found = values(table, "left_out_residual")
    if np.isnan(found).all():
        return LEFT_OUT.untested("no head was measured.")
    return LEFT_OUT.judged(
        np.nanmax(found) <= _EXACT,
        f"largest difference {np.nanmax(found):.1e} of the size of the values, over {int((~np.isnan(found)).sum())} "
        "heads of prompts, every token left out",
        f"at most {_EXACT:.0e} in float64",
    )


def _nearer(table: Table) -> Verdict:
    prompts = _prompts(table)
    is_so = [values(one, "one_step_distance") < values(one, "end_distance") for one in prompts]
    share = _share(prompts, is_so, _known(prompts, "one_step_distance", "end_distance"))
    times = values(table, "nearest_time")
    known = times[~np.isnan(times)]
    at_end = float(np.isinf(known).mean()) if len(known) else np.nan
    early = float((known <= 2).mean()) if len(known) else np.nan
    more = (
        f"relative distance to the flow after one step {_middle(values(table, 'one_step_distance'))}; the nearest time "
        f"is at most 2 steps in {100 * early:.1f} % of heads of prompts, the end itself in {100 * at_end:.1f} %"
    )
    return _judge(NEARER, share, 0.9, more, "counterfactual")


def _moved(table: Table) -> Verdict:
    prompts = _prompts(table)
    share = _share(prompts, [values(one, "end_distance") > 0.1 for one in prompts], _known(prompts, "end_distance"))
    more = (
        f"relative distance to the end {_middle(values(table, 'end_distance'))}; condition number of the keys' kernel "
        f"{_middle(values(table, 'condition'))}"
    )
    return _judge(MOVED, share, 0.5, more, "counterfactual")


def _late(prompt: Table) -> np.ndarray:
    layers = values(prompt, "layer")
    return layers >= (layers.max() + 1) / 3


def _sinks(table: Table) -> Verdict:
    prompts = _prompts(table)
    share = _share(prompts, [values(one, "first_weight") > 0.5 for one in prompts], [_late(one) for one in prompts])
    early = _share(prompts, [values(one, "first_weight") > 0.5 for one in prompts], [~_late(one) for one in prompts])
    more = "before that " + ("none measured" if early is None else _shown(early))
    return _judge(SINKS, share, 0.5, more, "head")


def _drained(table: Table) -> Verdict:
    prompts = _prompts(table)
    among = [
        known & (values(one, "first_weight") > 0.5)
        for one, known in zip(prompts, _known(prompts, "first_length"), strict=True)
    ]
    share = _share(prompts, [values(one, "first_length") < 0.5 for one in prompts], among)
    lengths = [values(one, "first_length")[of] for one, of in zip(prompts, among, strict=True)]
    more = "length over the others' median: " + _middle(np.concatenate([*lengths, np.array([])]))
    return _judge(DRAINED, share, 0.9, more, "sink")


def _apart(table: Table) -> Verdict:
    prompts, name = _prompts(table), "relative_disagreement"
    share = _share(prompts, [values(one, name) > 0.5 for one in prompts], _known(prompts, name))
    return _judge(APART, share, 0.5, f"relative disagreement {_middle(values(table, name))}", "head")
