"""Text and numbers made safe and plain for a reader: what is invisible becomes visible, what is tiny stays readable."""

from __future__ import annotations

import math
import unicodedata

# Needed inside words and emoji, and harmless there: the joiners.
_KEPT = frozenset("\u200c\u200d\n\t")
_LINE_END = "↵"


def visible(text: str) -> str:
    """Return the text with control, format and line-separator characters written out.

    Each becomes its code point (`⟨U+202E⟩`), so that text from a prompt or a model can neither reorder, hide nor
    command anything. Line ends, tabs and the joiners of words and emoji stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def one_line(text: str, most: int | None = None) -> str:
    """`visible` text on one line, line ends as `↵`, tabs as `→`, its middle cut out beyond `most` characters."""
    line = visible(text.replace("\n", _LINE_END).replace("\t", "→"))
    if most is None or len(line) <= most:
        return line
    tail = (most - 1) // 3
    return f"{line[: most - 1 - tail]}…{line[len(line) - tail :]}"


def _shown(character: str) -> str:
    if character in _KEPT:
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def signed(value: float | None) -> str:
    """Return a contribution in nats with its sign, e.g. `+1.234`, `−0.050`, `+2.1e−05`; `–` for None."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "+∞" if value > 0 else "−∞"
    if value == 0.0:
        return "0"
    text = f"{value:+.3f}" if 0.001 <= abs(value) < 10_000 else f"{value:+.1e}"
    return text.replace("-", "−")


def plain(value: float | None) -> str:
    """Return a number without a plus sign."""
    return signed(value).removeprefix("+")


def scientific(value: float) -> str:
    """Return a residual or a tolerance, e.g. `3.2e−08`."""
    return plain(value) if math.isnan(value) or math.isinf(value) else f"{value:.1e}".replace("-", "−")


def percent(probability: float) -> str:
    """Return a probability, e.g. `97.3 %`; never rounded to 0 or 100 unless it is."""
    if math.isnan(probability):
        return "not a number"
    share = 100.0 * probability
    if share in (0.0, 100.0):
        return f"{share:.0f} %"
    if share < 0.01:
        return f"{share:.1e} %".replace("-", "−")
    if share > 99.99:
        return "> 99.99 %"
    return f"{share:.2f} %" if share < 1.0 or share > 99.0 else f"{share:.1f} %"
