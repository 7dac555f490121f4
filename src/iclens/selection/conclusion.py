"""A choice in words: what to keep, drop and mend, and what that is worth on examples that took no part."""

from __future__ import annotations

from collections.abc import Iterator

from iclens.display_text import one_line, plain
from iclens.selection.comparing import Compared, is_clear
from iclens.selection.selection import Selection


def conclusion(found: Selection) -> tuple[str, ...]:
    """Return the sentences, the most important first."""
    return tuple(_sentences(found))


def _sentences(found: Selection) -> Iterator[str]:
    n, kept = len(found.demonstrations), len(found.indices)
    saved = found.tokens_saved / found.tokens[0]
    yield (
        f"Keep {kept} of {n} demonstrations, in the order {', '.join(f'#{i}' for i in found.indices)}: "
        f"{found.tokens[1]} tokens in place of {found.tokens[0]}"
        + (f", {round(100 * saved)} % saved." if found.tokens_saved > 0 else ".")
    )
    name = found.value_name
    yield f"On {found.held_out.after.metric.n} examples that took no part, {_goes(name, found.held_out)}."
    if found.rival is not None:
        other = found.rival.held_out.before
        yield (
            f"The method {found.rival.method!r} at the same cost {found.rival.verdict}: {name} "
            f"{other.metric.mean:.3f}, log-loss {other.log_loss.mean:.3f}."
        )
    if found.checked is not None:
        other_model = one_line(found.checked.model, 40)
        yield f"With {other_model} in place of {one_line(found.model, 40)}, {_goes(name, found.checked.held_out)}."
    hurting = [one for one in found.demonstrations if one.verdict == "hurts"]
    outside, inside = ([f"#{one.index}" for one in hurting if (one.place is None) == out] for out in (True, False))
    if outside:
        yield f"These hurt and are left out: {', '.join(outside)}."
    if inside:
        yield f"In the prompt {', '.join(inside)} hurt{'s' * (len(inside) == 1)} by log-loss: it may be better without."
    for one in found.demonstrations:
        if one.suspected is not None:
            yield (
                f"Look at the label of #{one.index} ({one_line(one.input, 40)!r}): it is {one_line(one.output, 30)!r}, "
                f"and the others suggest {one_line(one.suspected, 30)!r}, by {plain(one.doubt)} nats."
            )


def _goes(name: str, both: Compared) -> str:
    """Return what a metric and the log-loss change between two prompts."""
    before, after, change = both.before, both.after, both.change
    verdict = "more than chance" if is_clear(change.metric) or is_clear(change.log_loss) else "this may be chance"
    return (
        f"the {name} goes from {before.metric.mean:.3f} to {after.metric.mean:.3f} and the log-loss from "
        f"{before.log_loss.mean:.3f} to {after.log_loss.mean:.3f}: {verdict}"
    )
