"""An absorption in words: what it keeps of the prompt, and what it saves, on queries that took no part."""

from __future__ import annotations

from collections.abc import Iterator

from iclens.absorption.absorbed import Absorbed
from iclens.absorption.reached import ABSORBED, DISTILLED, LORA, PROMPT, ZERO, Reached
from iclens.selection.comparing import is_clear


def conclusion(found: Absorbed) -> tuple[str, ...]:
    """The sentences, the most important first."""
    return tuple(_sentences(found))


def _sentences(found: Absorbed) -> Iterator[str]:
    zero, prompt, own = (found.named(name) for name in (ZERO, PROMPT, ABSORBED))
    yield (
        f"{prompt.demonstrations} demonstrations became {found.adapter.n_parameters} numbers (rank {own.rank}, "
        f"{len(found.layers)} layers): {own.tokens:.0f} tokens a query in place of {prompt.tokens:.0f}, "
        f"{_percent(found.tokens_saved / prompt.tokens)} saved."
    )
    if zero.divergence.mean < 0.01:
        yield "The demonstrations change next to nothing in what the model says: there is little to absorb."
    else:
        yield (
            f"Of what they change in the next token, {_percent(max(found.kept, 0.0))} is kept: the divergence from the "
            f"prompt falls from {zero.divergence.mean:.3f} to {own.divergence.mean:.3f} nats."
        )
    metric, loss = found.metric, own.change.log_loss
    clear = is_clear(own.change.metric) or is_clear(loss)
    kind = "worse" if own.change.metric.high < 0 or loss.low > 0 else "better"
    yield (
        f"On {found.n_held_out} queries that took no part, the {metric} is {own.reached.metric.mean:.3f} (with the "
        f"prompt {prompt.reached.metric.mean:.3f}, without {zero.reached.metric.mean:.3f}) and the log-loss "
        f"{own.reached.log_loss.mean:.3f} ({prompt.reached.log_loss.mean:.3f}, {zero.reached.log_loss.mean:.3f}): "
        + (f"clearly {kind} than the prompt." if clear else "no clear difference from the prompt.")
    )
    trained = [one for one in found.main if one.name in (LORA, DISTILLED)]
    if trained:
        yield "Trained in its place: " + "; ".join(map(_trained, trained)) + "."


def _trained(one: Reached) -> str:
    return (
        f"a {one.name} is {one.divergence.mean:.3f} nats from the prompt, with {one.reached.metric.mean:.3f} and "
        f"{one.reached.log_loss.mean:.3f}"
    )


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"
