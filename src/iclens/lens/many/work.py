"""A batch run: what is to be computed, under which names it is kept, and how it becomes one Parquet file."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.explaining import explain_together
from iclens.lens.many.lines import Line
from iclens.lens.many.model_source import ModelSource
from iclens.lens.many.plan import batches
from iclens.lens.model.loading import LensModel
from iclens.lens.read.question import Question
from iclens.lens.read.responding import responding
from iclens.lens.rows import SCHEMA_VERSION, as_parquet, rows_of, schema, table
from iclens.work.parts import Parts
from iclens.work.workers import Ended, Tell

Executor = Callable[[Callable[..., Any], Sequence[Any]], Iterator[Ended[tuple[bytes, float]]]]
"""Runs a function on calls, each a tuple of arguments, and yields their results as they end, as
`iclens.work.workers.each` does."""


@dataclass(frozen=True)
class Work:
    """A batch run.

    Attributes:
        source: the model, and with `identity` a digest of its files.
        bad: the lines that cannot be explained.
        batches: the prompts that go through the model together, at most `most_tokens` tokens at once.
        keys: under which name each batch's part is kept: a digest of all that its bytes depend on.
        scores: names of the scores.
        options: further arguments of `explain_together`.
    """

    source: ModelSource
    identity: str
    bad: tuple[Line, ...]
    batches: tuple[tuple[Line, ...], ...]
    keys: tuple[str, ...]
    scores: tuple[str, ...]
    most_tokens: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def plan(
        cls,
        source: ModelSource,
        lens_model: LensModel,
        lines: Sequence[Line],
        *,
        scores: Sequence[str],
        most_tokens: int,
        threads: int,
        options: Mapping[str, Any] | None = None,
    ) -> Work:
        """Sort the lines into batches and name their parts.

        The model may be without its weights. `threads` are those of torch in each process: sums depend on them in the
        last bit. `options` are further arguments of `explain_together`, as JSON holds them.
        """
        good = [line for line in lines if line.question is not None]
        planned = tuple(tuple(good[i] for i in one) for one in batches(_questions(good), lens_model, most_tokens))
        identity = source.identity()
        versions = [SCHEMA_VERSION, *map(version, ("iclens", "torch", "transformers"))]
        same = [versions, identity, source.dtype, source.device, source.device_map, list(scores), most_tokens, threads]
        keys = tuple(_digest([same, dict(options or {}), [_content(line) for line in one]]) for one in planned)
        bad = tuple(line for line in lines if line.question is None)
        return cls(source, identity, bad, planned, keys, tuple(scores), most_tokens, dict(options or {}))

    @property
    def tokens(self) -> list[int]:
        """Tokens of every batch, filled-up ones counted: what its time is taken to grow with."""
        return [len(one) * max(question.longest for question in _questions(one)) for one in self.batches]

    @property
    def n_prompts(self) -> int:
        """Prompts to be explained."""
        return sum(map(len, self.batches))

    @property
    def fingerprint(self) -> str:
        """A digest of all that the output's bytes depend on."""
        return _digest([self.keys, [(line.number, line.id, line.error) for line in self.bad]])

    def missing(self, parts: Parts) -> list[int]:
        """Return the batches whose part is not there, or not whole."""
        return [place for place, key in enumerate(self.keys) if parts.read(key) is None]

    def compute(self, places: Sequence[int], parts: Parts, executor: Executor) -> Iterator[Ended[float]]:
        """Explain the batches at some places; the part of each is on disk before it is said to have ended.

        Yields:
            the seconds that a batch took, or why it failed; `place` is the batch's.
        """
        about = self.source, self.identity
        how = self.scores, self.most_tokens, self.options
        calls = [(*about, list(self.batches[place]), *how) for place in places]
        with closing(executor(explain_part, calls)) as ends:  # type: ignore[type-var]
            for ended in ends:
                place, seconds = places[ended.place], None
                if ended.error is None:
                    content, seconds = ended.result()
                    parts.write(self.keys[place], content)
                yield Ended(place, seconds, ended.error)

    def assemble(self, parts: Parts) -> bytes:
        """Make the Parquet file of all parts, which must be there and whole: rows in the order of the prompts' file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pieces = [table([{"line": line.number, "id": line.id, "error": line.error} for line in self.bad])]
        for key in self.keys:
            content = parts.read(key)
            if content is None:
                raise UserError(
                    f"a finished batch in {parts.folder} was changed or taken away meanwhile; the same command computes"
                    " it again."
                )
            pieces.append(pq.read_table(pa.BufferReader(content)))
        whole = pa.concat_tables(pieces).sort_by([("line", "ascending"), ("demonstration", "ascending")])
        facts = {
            "iclens.model": self.source.name,
            "iclens.model_identity": self.identity,
            "iclens.dtype": self.source.dtype or "float32",
            "iclens.fingerprint": self.fingerprint,
        }
        return as_parquet(whole.replace_schema_metadata(schema(facts).metadata).combine_chunks())

    def is_in(self, output: Path) -> bool:
        """Return whether a file holds this very run already, whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_schema(output).metadata or {}
            same = metadata.get(b"iclens.fingerprint") == self.fingerprint.encode()
            return same and pq.read_table(output, page_checksum_verification=True).num_rows >= self.n_prompts
        except (OSError, pa.ArrowException):
            return False


def explain_part(
    source: ModelSource,
    identity: str,
    lines: list[Line],
    scores: tuple[str, ...],
    most_tokens: int,
    options: Mapping[str, Any],
    tell: Tell,
) -> tuple[bytes, float]:
    """Explain one batch in whatever process: its rows as a Parquet file, and the seconds that it took.

    A line whose response the model does not write becomes a row with the error.
    """
    tell()
    lens_model = source.load(identity)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    asked: list[tuple[Line, Question]] = []
    for line in lines:
        tell()
        try:
            asked += [(line, responding(lens_model, one)) for one in _questions([line])]
        except UserError as error:
            rows.append({"line": line.number, "id": line.id, "error": str(error)})
    questions, stage = [one for _, one in asked], lambda name: tell()
    found = explain_together(lens_model, questions, scores, most_tokens=most_tokens, progress=stage, **options)
    for (line, _), one in zip(asked, found, strict=True):
        rows += rows_of(one, {"line": line.number, "id": line.id})
    return as_parquet(table(rows)), time.perf_counter() - start


def _questions(lines: Sequence[Line]) -> list[Question]:
    return [line.question for line in lines if line.question is not None]


def _content(line: Line) -> Any:
    (question,) = _questions([line])
    tokenized, answers = question.tokenized, question.answers
    candidates = [(entry.text, entry.token_ids, entry.following) for entry in answers.candidates]
    about = [line.number, line.id, asdict(tokenized.prompt), tokenized.input_ids.tolist()]
    responses = [None if one is None else one.response for one in (question, question.foil)]
    about += [None if one is None else asdict(one) for one in (*responses, question.writing)]
    return [*about, candidates, answers.explained]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]
