"""What `iclens explain` found: plain data, the one source of the table, the JSON and the page.

Every number that an explanation holds was computed before it was built; what shows it computes nothing.
Units: logits and margins are in nats (log-odds); probabilities lie in [0, 1]. Signs: positive supports the answer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iclens.data_frame import data_frame
from iclens.errors import UserError
from iclens.lens.citations import citations
from iclens.lens.conclusion import conclude
from iclens.lens.facts import (
    METHODS,
    RESIDUALS,
    Agreement,
    Candidate,
    Completeness,
    Cost,
    Faithfulness,
    Grounding,
    KnockOut,
    ModelFacts,
    NextToken,
    OtherPart,
    PairEffects,
    PatchEffects,
    Residual,
    ResponseEffects,
    SourceEffect,
    Taken,
    Token,
)
from iclens.lens.prompt.sources import noun
from iclens.lens.score_names import ScoreName
from iclens.lens.views import VIEWS, WRITERS, write
from iclens.plain_data import record_of

SCHEMA_VERSION = 5
"""Raised by a change of the JSON that could break a reader; `Explanation.load` reads older ones."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """Which sources moved this answer.

    `print` shows the table of the command. `plot()` and `show()` draw it, `save` writes it, `to_rows` and `to_pandas`
    give one row per source.

    Attributes:
        model: which model answered.
        prompt: the whole text.
        tokens: its tokens, in order.
        next_tokens: the likeliest next tokens, most likely first.
        candidates: the candidate answers with their scores; the explained one is marked.
        answer: the text of the explained answer.
        answer_log_probability: of the explained answer, over all its tokens.
        margin: the explained number: the answer's logit over its alternatives.
        margin_definition: one sentence that says over which alternatives.
        sources: the effects, in the order of the prompt; `demonstrations` is the same.
        others: the rest of the prompt.
        residuals: the checks; the first thing to read.
        agreement: how far the ways to score agree.
        scores: names of the scores that were computed, the one that orders the sources first.
        completeness: how far the shares are from their sum; None when they were not asked for.
        influence_at: where the influence was taken; None when it was not asked for.
        edges: which attention edges carry training weights and are cut, one of `EDGES`, as was asked for; None for
            each score's own: all later ones for influence and shares, the query's for the knock-out.
        grounding: what the model says without any source; None when it was not asked for.
        pairs: how demonstrations act together; None when it was not asked for.
        patch: the context as weight updates, and each source's part; None when it was not asked for.
        response: what every source did to each token of a response; None where answers are explained.
        group_knock_outs: knock-outs of groups that were asked for.
        faithfulness: one entry per method, empty when not asked for.
        notes: remarks, such as tokens that straddle two demonstrations.
        cost: what it cost.
        command: the command (or the Python call) that gives the same numbers.
        seed: of what was drawn for it.
        id: the prompt's own name, or None.
        schema_version: version of this schema.
        lens: the lens that computed it, for views that need more than what is stored; None after `load`.
    """

    model: ModelFacts
    prompt: str
    tokens: tuple[Token, ...]
    next_tokens: tuple[NextToken, ...]
    candidates: tuple[Candidate, ...]
    answer: str
    answer_log_probability: float
    margin: float
    margin_definition: str
    sources: tuple[SourceEffect, ...]
    others: tuple[OtherPart, ...]
    residuals: tuple[Residual, ...]
    agreement: tuple[Agreement, ...]
    scores: tuple[str, ...]
    completeness: Completeness | None = None
    influence_at: Taken | None = None
    edges: str | None = None
    pairs: PairEffects | None = None
    patch: PatchEffects | None = None
    grounding: Grounding | None = None
    response: ResponseEffects | None = None
    group_knock_outs: tuple[KnockOut, ...] = ()
    faithfulness: tuple[Faithfulness, ...] = ()
    notes: tuple[str, ...] = ()
    cost: Cost = field(default_factory=lambda: Cost(0.0, 0.0, {}))
    command: str = ""
    seed: int = 0
    id: str | None = None
    schema_version: int = SCHEMA_VERSION
    lens: Any = field(default=None, compare=False)

    @property
    def demonstrations(self) -> tuple[SourceEffect, ...]:
        """Give the sources under their older name."""
        return self.sources

    @property
    def noun(self) -> str:
        """What the sources are called: `"demonstration"`, `"document"`; `"source"` where there are several kinds."""
        return noun([effect.kind for effect in self.sources])

    @property
    def exact(self) -> bool:
        """True when every residual is within its tolerance."""
        return all(residual.holds for residual in self.residuals)

    @property
    def quantity(self) -> str:
        """What the explained number is called."""
        return "logit difference" if self.response is None else self.response.quantity

    @property
    def conclusion(self) -> tuple[str, ...]:
        """What the numbers say, in a few sentences."""
        return conclude(self)

    def ranked(self, by: str | None = None) -> tuple[SourceEffect, ...]:
        """The sources from the one that supported the answer most, by one of `scores` or the first of them.

        Raises:
            UserError: that score was not computed.
        """
        name = self.scores[0] if by is None else by
        if name not in self.scores:
            raise UserError(f"the score {name!r} was not computed. Computed: {', '.join(self.scores)}.")
        return tuple(sorted(self.sources, key=lambda effect: -(effect.score(name) or 0.0)))

    def total_by_layer_and_head(self, score: str = "gradient_step") -> tuple[tuple[float, ...], ...]:
        """Sum `"gradient_step"`, `"influence"` or `"shares"` over all sources: n_layers rows of n_heads numbers."""
        maps = ({"gradient_step": effect.by_layer_and_head} | effect.maps for effect in self.sources)
        by_effect = zip(*(own.get(score, ()) for own in maps), strict=True)
        return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in by_effect)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, strings and numbers, as `--json` writes; a residual of NaN is None."""
        document = dataclasses.asdict(dataclasses.replace(self, lens=None))
        del document["lens"]
        for residual, plain in zip(self.residuals, document["residuals"], strict=True):
            plain["holds"] = residual.holds
            plain["value"] = residual.value if math.isfinite(residual.value) else None
        document["exact"] = self.exact
        document["conclusion"] = list(self.conclusion)
        document["score_names"] = [
            dataclasses.asdict(ScoreName.of(score)) for score in dict.fromkeys((*METHODS, *self.scores))
        ]
        if self.grounding is not None:
            document["grounding"]["share"] = self.grounding.share
        document["citations"] = self.citations()
        return document

    def citations(self, by: str | None = None) -> list[dict[str, Any]]:
        """Give the sources that the answer rests on, and those that oppose it: plain data, an entry for each statement.

        A response that is explained as a whole by influence has an entry for each of its statements, whose scores sum
        to the response's: its sentences, or its lines where the extra `sentences` is not installed. An answer, a part
        of a response, one against a foil or by its logit has one entry.

        Cited are the fewest sources that make up two thirds of all support, strongest first, and of their pieces the
        fewest that make up two thirds of theirs; opposing ones from a quarter of the largest score on. An entry has
        `statement`, `start` and `end` (its characters in the response), `log_probability`, `score` (which),
        `context_share`, `sources` and `opposed_by`; a source has `name`, `kind`, `id`, `text`, `score`, `share` of all
        support, `text_removed` (None for one of several statements) and `pieces`.

        Args:
            by: the score, one of `scores`; the first when left out.

        Raises:
            UserError: that score was not computed.
        """
        return citations(self, by)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary per source, with its prompt's numbers beside it: the columns of `COLUMNS`."""
        return VIEWS["rows"](self)

    def response_rows(self) -> list[dict[str, Any]]:
        """One dictionary per token of the response and source, with the influence of the one on the other.

        Raises:
            UserError: no response was explained, or not by influence.
        """
        if self.response is None or not self.response.influence:
            raise UserError(
                "no response was explained by influence with its matrix: explain(model, prompt, response=...)."
            )
        rows = zip(self.response.tokens, self.response.log_probabilities, self.response.influence, strict=True)
        return [
            {
                "token": t,
                "token_text": text,
                "log_probability": log_p,
                "read": self.response.first <= t < self.response.last,
                "source": effect.index,
                "source_text": effect.text,
                "influence": value,
            }
            for t, (text, log_p, values) in enumerate(rows)
            for effect, value in zip(self.sources, values, strict=True)
        ]

    def to_pandas(self) -> Any:
        """The rows as a data frame, with a column for each further method.

        Raises:
            UserError: pandas is not installed.
        """
        # A method may bear the name of a column, which keeps its own.
        return data_frame([row | {k: v for k, v in row["scores"].items() if k not in row} for row in self.to_rows()])

    def save(self, path: str | Path) -> None:
        """Write the explanation to a file; its ending says how: .json, .parquet or .html (a page that opens anywhere).

        Raises:
            UserError: an ending that is not known, or a file that cannot be written; nothing is then written.
        """
        write(self, Path(path))

    def plot(self, axes: Any = None, scores: Sequence[str] | None = None) -> Any:
        """Draw some scores (all by default) as bars, on matplotlib axes of yours or new ones, and return the axes."""
        return VIEWS["plot"](self, axes, scores)

    def plot_pairs(self, axes: Any = None) -> Any:
        """Draw which demonstrations are redundant (blue) and which depend on each other (orange), n × n.

        Raises:
            UserError: the explanation was made without `pairs=True`.
        """
        if self.pairs is None:
            raise UserError("the pairs were not computed: explain with pairs=True.")
        return VIEWS["pairs"](self, axes)

    def show(self) -> Any:
        """Show the page inside a notebook cell."""
        return VIEWS["show"](self)

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Read what `save("….json")` or `iclens explain --json` wrote, by this or an older version of iclens.

        Raises:
            UserError: the file cannot be read, is no explanation, or was written by a newer version.
        """
        try:
            document = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f'{path} is not JSON, which alone is read back (save("….json")): {error}') from None
        version = document.get("schema_version") if isinstance(document, dict) else None
        if not isinstance(version, int) or version < 1:
            raise UserError(f"{path} is no explanation: it has no schema_version.")
        if version > SCHEMA_VERSION:
            raise UserError(
                f"{path} has the schema version {version}, and this iclens reads versions up to {SCHEMA_VERSION}: "
                "upgrade iclens."
            )
        try:
            return record_of(cls, _current(document))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path} is no explanation of schema version {version}: {reason}.") from None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"lens": None}

    def __str__(self) -> str:
        return VIEWS["text"](self)

    def __repr__(self) -> str:
        verdict = "exact" if self.exact else "NOT EXACT"
        numbers = f"{self.quantity} {self.margin:+.3f} nats, {len(self.sources)} {self.noun}s, {verdict}"
        return f"Explanation({self.answer!r}, {numbers})"

    def _repr_html_(self) -> str:
        return VIEWS["cell"](self)


def _current(document: dict[str, Any]) -> dict[str, Any]:
    """A document as this version writes it, except for residuals of NaN, which JSON holds as null.

    Raises:
        ValueError: there is no score, no check or no next token, which every explanation has; or pairs of another
            number of sources, or a weight that is none.
    """
    # A later version 5 has `response`. Version 4 had no `influence_at`, `edges`, `pairs` and `of_output`. Version 3 had
    # neither `completeness` nor scores of tokens and maps of further scores. Version 2 counted the first token of the
    # text to the part that it begins; its numbers stay as they were computed.
    if document["schema_version"] == 1:
        # It had `demonstrations`, no labels, no short names of residuals, and always the three scores.
        # Without candidates, the likeliest next token was explained.
        chosen = [entry["log_probability"] for entry in document["candidates"] if entry["chosen"]]
        effects = document["demonstrations"]
        rerun = ["rerun"] if any(effect.get("rerun_margin_change") is not None for effect in effects) else []
        document = document | {
            "sources": [effect | {"label": None} for effect in effects],
            "scores": ["gradient_step", "path", "knock_out", *rerun],
            "answer_log_probability": chosen[0] if chosen else math.log(document["next_tokens"][0]["probability"]),
        }
    for name in ("scores", "residuals", "next_tokens"):
        if not document[name]:
            raise ValueError(f"{name!r} is empty")
    n, pairs, taken = len(document["sources"]), document.get("pairs"), document.get("influence_at")
    if pairs is not None:
        for name in ("matrix", "noise"):
            if len(pairs[name]) != n or any(len(row) != n for row in pairs[name]):
                raise ValueError(f"{name!r} is no table of {n} × {n}")
        if not all(map(len, (*pairs["redundant"], *pairs["dependent"]))):
            raise ValueError("a group of 'pairs' is empty")
    if taken is not None and not 1e-12 <= taken["weight"] <= 1.0:
        raise ValueError(f"the weight {taken['weight']!r} is not between 0 and 1")
    keys = {name: key for key, name in RESIDUALS.items()}
    residuals = [
        {"key": keys.get(one["name"], "")} | one | {"value": math.nan if one["value"] is None else one["value"]}
        for one in document["residuals"]
    ]
    return document | {"residuals": residuals, "schema_version": SCHEMA_VERSION}


@WRITERS.register("json")
def _as_json(found: Explanation) -> str:
    try:
        return json.dumps(found.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise UserError("the numbers of this explanation are not finite, which JSON cannot hold.") from None
