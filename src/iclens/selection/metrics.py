"""Rates a model's answer to a query: by whether it is right, how sure the model was, or a function of the caller."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

from iclens.errors import UserError

ACCURACY, LOG_LOSS = "accuracy", "log-loss"

Metric = str | Callable[[str, str], float]
"""`"accuracy"`, `"log-loss"`, or a function of (prediction, target), the more the better."""

MATCHES = ("exact", "normalised")
"""How a free answer is compared with the right one."""


def check_metric(metric: Metric) -> None:
    """Refuse an argument that is not a metric.

    Raises:
        UserError: an unknown name, or something that cannot be called.
    """
    if not callable(metric) and metric not in (ACCURACY, LOG_LOSS):
        raise UserError(
            f"the metric is {metric!r}: give {ACCURACY!r}, {LOG_LOSS!r} or a function of (prediction, target)."
        )


def value_of(metric: Metric, prediction: str, target: str, match: str = MATCHES[0]) -> float:
    """Return the metric's number for one answer; of the log-loss the accuracy, which is shown beside it.

    Accuracy compares the two texts without the spaces around them, or as `normalised` gives them.

    Raises:
        UserError: a function gave no number.
    """
    if not callable(metric):
        bare = normalised if match == "normalised" else str.strip
        return float(bare(prediction) == bare(target))
    value = metric(prediction, target)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"the metric gave {value!r} for ({prediction!r}, {target!r}): it must give a number.") from None


def normalised(text: str) -> str:
    """Return a text in lower case without punctuation, articles and doubled spaces.

    Source: the comparison of SQuAD, Rajpurkar et al. 2016.
    """
    bare = text.casefold().translate(str.maketrans("", "", string.punctuation))
    # Where nothing else is left, an article or a sign is the answer itself.
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split()) or " ".join(text.casefold().split())
