"""A choice in words: what to keep, drop and mend, and what that is worth on examples that took no part."""

from __future__ import annotations

from collections.abc import Iterator

from iclens.display_text import one_line, plain
from iclens.selection.comparing import is_clear
from iclens.selection.selection import Selection


def conclusion(found: Selection) -> tuple[str, ...]:
    """The sentences, the most important first."""
    return tuple(_sentences(found))


def _sentences(found: Selection) -> Iterator[str]:
    n, kept = len(found.demonstrations), len(found.indices)
    saved = found.tokens_saved / found.tokens[0]
    yield (
        f"Keep {kept} of {n} demonstrations, in the order {', '.join(f'#{i}' for i in found.indices)}: "
        f"{found.tokens[1]} tokens in place of {found.tokens[0]}"
        + (f", {round(100 * saved)} % saved." if found.tokens_saved > 0 else ".")
    )
    before, after, change = found.held_out.before, found.held_out.after, found.held_out.change
    name = found.value_name
    verdict = "more than chance" if is_clear(change.metric) or is_clear(change.log_loss) else "this may be chance"
    yield (
        f"On {after.metric.n} examples that took no part, the {name} goes from {before.metric.mean:.3f} to "
        f"{after.metric.mean:.3f} and the log-loss from {before.log_loss.mean:.3f} to {after.log_loss.mean:.3f}: "
        f"{verdict}."
    )
    if found.rival is not None:
        other = found.rival.held_out.before
        yield (
            f"The method {found.rival.method!r} at the same cost {found.rival.verdict}: {name} "
            f"{other.metric.mean:.3f}, log-loss {other.log_loss.mean:.3f}."
        )
    hurting = [one for one in found.demonstrations if one.verdict == "hurts"]
    if hurting:
        yield f"These hurt: {', '.join(f'#{one.index}' for one in hurting)}."
    for one in found.demonstrations:
        if one.suspected is not None:
            yield (
                f"Look at the label of #{one.index} ({one_line(one.input, 40)!r}): it is {one_line(one.output, 30)!r}, "
                f"and the others suggest {one_line(one.suspected, 30)!r}, by {plain(one.doubt)} nats."
            )
