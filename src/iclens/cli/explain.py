"""`iclens explain`: which demonstrations moved this answer."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from iclens.cli.explain_batch import Many
from iclens.cli.output import console, say, show
from iclens.cli.prompt_options import OnePrompt, prompt_options
from iclens.cli.response_options import Responses
from iclens.cli.source_options import Sources
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.progress import stages
from iclens.work.whole_files import check_writable, write_atomically

_ONE_PROMPT = (
    "prompt",
    "demonstrations",
    "query",
    "knock_out",
    "faithfulness",
    "json",
    "html",
    "precise",
    "nodes",
    "edges",
    "pairs",
    "patch",
    "next_tokens",
)
"""Options that --batch does not have."""

_NO_PROMPT = (
    "there is no prompt to explain: give a file of text, JSON or chat messages (--prompt FILE), pairs and a new input "
    "(--demonstrations FILE.jsonl --query TEXT), documents and a question (--documents FILE.jsonl --question TEXT), or "
    "a file of many prompts (--batch FILE --out FOLDER). For example: "
    r"printf '2+3=5\n\n5+2=7\n\n4+4=' > sums.txt && iclens explain --model {model} --prompt sums.txt --answers 8 7"
)

_UNTOLD = ("json", "html", "many", "sources", "responses")
"""Fields that the command does not repeat: files to write, and groups of options, each of which repeats itself."""

_FILES = {"json": "JSON", "html": "Page"}


@command("explain")
@dataclass(frozen=True)
class Explain(OnePrompt):
    """Show which demonstrations, documents or other parts of a prompt moved a language model's answer, exactly.

    The prompt is a file (--prompt: plain text with blank lines between demonstrations and the query last, JSON, JSONL,
    or chat messages), --demonstrations with --query, or --documents with --question; or a file of many prompts, --batch
    with --out. Exit status 1 if a check against the model fails.

    Attributes:
        scores: which scores to compute, the one that orders the demonstrations first: influence_deletions, influence,
            gradient_step, shares, path, knock_out, rerun, lasso and all other methods of the registry. When left out
            the first three; beyond 20 demonstrations influence_knock_out takes the place of the first where the query
            is short; with --batch none does.
        knock_out: groups of sources to knock out together, by their numbers from 0 or their names, each like 3,7.
        rerun: also delete each demonstration's text and run the model again.
        faithfulness: also measure how well the scores predict the model on shortened prompts.
        json: write everything to this file.
        html: write a self-contained page to this file.
        precise: take the path in a float64 copy of the model; without it only where the float32 check fails.
        nodes: the largest number of weights over which the score shares is integrated.
        edges: "later" weights and cuts the attention of all later tokens to a demonstration, "query" that of the query
            alone; when left out, the first for influence and shares, the second for the knock-out.
        pairs: also find which demonstrations say the same, or depend on each other; 25 passes more.
        patch: also write the demonstrations as updates of the weights of every MLP, print each one's part, and run the
            query alone with them; two passes more.
        dtype: precision of the weights; float32 when left out, so that the checks are tight; auto keeps the
            checkpoint's.
        device: where to compute, e.g. cpu or cuda.
        device_map: auto spreads a model that is larger than one device over all of them, memory and disk.
        next_tokens: how many likely next tokens to report.
        matrix: with the influence on a response, also find what each source does to each of its tokens, which is most
            of the cost.
        seed: seed of random draws, such as the subsets of --faithfulness; with --generate the response is drawn too.
        sources: what to score, if not demonstrations.
        responses: what to explain, if not an answer.
        list_models: list the families of models that are read exactly, what is particular to each, and what is
            refused; nothing is explained.
        many: many prompts at once.
    """

    scores: tuple[str, ...] = ()
    knock_out: tuple[str, ...] = ()
    rerun: bool = False
    faithfulness: bool = False
    json: Path | None = None
    html: Path | None = None
    precise: bool = False
    nodes: int = 16
    edges: Literal["later", "query"] | None = None
    pairs: bool = False
    patch: bool = False
    dtype: Literal["float32", "float64", "bfloat16", "float16", "auto"] | None = None
    device: str = "cpu"
    device_map: Literal["auto"] | None = None
    next_tokens: int = 10
    matrix: bool = True
    seed: int | None = None
    sources: Annotated[Sources, tyro.conf.arg(name="")] = field(default_factory=Sources)
    responses: Annotated[Responses, tyro.conf.arg(name="")] = field(default_factory=Responses)
    list_models: bool = False
    many: Annotated[Many, tyro.conf.arg(name="")] = field(default_factory=Many)

    def run(self) -> int:
        """Explain, print the table, write the files, and return the exit status."""
        if self.list_models:
            return _list_models()
        self.many.check()
        self.sources.check(self.many.batch)
        if self.many.batch is not None:
            return self._run_batch(self.many.batch)
        groups = [_members(group) for group in self.knock_out]
        for file in self._files().values():
            check_writable(file)
        if self.nodes < 1:
            raise UserError(f"--nodes {self.nodes}: take at least 1.")
        if self.next_tokens < 1:
            raise UserError(f"--next-tokens {self.next_tokens}: report at least 1.")
        path, response = self._prompt_file(), self.responses.arguments()

        from iclens.lens import WRITERS, explain, load, print_table

        with stages("explaining") as stage:
            stage("loading the model")
            lens_model = load(self.model, dtype=self.dtype, device=self.device, device_map=self.device_map)
            explanation = explain(
                lens_model,
                self.sources.read(self, lens_model.tokenizer, path),
                answers=self.answers or None,
                answer=self.answer,
                **response,
                scores=self.scores or None,
                knock_out=groups,
                rerun_text=self.rerun,
                faithfulness=self.faithfulness,
                precise=self.precise,
                nodes=self.nodes,
                edges=self.edges,
                pairs=self.pairs,
                patch=self.patch,
                within=self.sources.within,
                budget=self.sources.budget,
                matrix=self.matrix,
                n_next=self.next_tokens,
                seed=self.seed,
                command=self.command_line(),
                progress=stage,
            )
            stage("writing")
            # Both are made before either is written.
            contents = {file: WRITERS[kind](explanation) for kind, file in self._files().items()}
        print_table(explanation, console())
        for kind, file in self._files().items():
            write_atomically(file, contents[file])
            say(f"{_FILES[kind]}: {file}")
        return 0 if explanation.exact else 1

    def command_line(self) -> str:
        """The command that repeats this, with the options that differ from their defaults."""
        words = ["iclens", "explain"]
        told = [(one, getattr(part, one.name)) for part in (self, self.sources, self.responses) for one in fields(part)]
        for option, value in told:
            if option.name in _UNTOLD or (value == option.default and option.name != "model"):
                continue
            words.append(("--no-" if value is False else "--") + option.name.replace("_", "-"))
            if isinstance(value, tuple):
                words += [str(item) for item in value]
            elif not isinstance(value, bool):
                # A text that begins with a dash would be taken for an option.
                words[-1:] = [f"{words[-1]}={value}"] if str(value).startswith("-") else [words[-1], str(value)]
        return shlex.join(words)

    def _run_batch(self, batch: Path) -> int:
        given = [name for name in _ONE_PROMPT if getattr(self, name) != getattr(Explain, name)]
        for name in given:
            raise UserError(f"--{name.replace('_', '-')} is for one prompt, not for the prompts of --batch {batch}.")
        from iclens.lens.building import SCORES
        from iclens.lens.many.lines import Defaults
        from iclens.lens.many.model_source import ModelSource
        from iclens.lens.read.response_options import ResponseOptions

        said = ResponseOptions(**self.responses.arguments(), seed=self.seed)
        defaults = Defaults(prompt_options(self), self.answers, self.answer, said)
        options = {"within": self.sources.within, "budget": self.sources.budget, "matrix": self.matrix}
        options["seed"] = self.seed or 0
        chosen = self.scores or SCORES
        scores = (*chosen, *(["rerun"] if self.rerun and "rerun" not in chosen else []))
        source = ModelSource(self.model, self.dtype, self.device, self.device_map)
        return self.many.run(source, defaults, scores=scores, options=options)

    def _files(self) -> dict[str, Path]:
        """The files to write, by the name of their writer."""
        files = {"json": self.json, "html": self.html}
        return {kind: path for kind, path in files.items() if path is not None}

    def _prompt_file(self) -> Path | None:
        """The file that holds the prompt; None where documents do.

        Raises:
            UserError: none is given, or two are.
        """
        path = self.file(self.sources.documents)
        if path is not None or self.sources.documents is not None:
            return path
        if self.model != "bundled":
            raise UserError(_NO_PROMPT.format(model=shlex.quote(self.model)))
        from iclens import bundled

        return bundled.path() / "prompt.txt"


def _list_models() -> int:
    from rich.table import Table

    from iclens.lens.model.catalogue import REFUSED_OF_EACH, handled, refused

    for title, entries in (("Read exactly", handled()), ("Refused by name", refused())):
        table = Table("model_type", "what is particular" if title == "Read exactly" else "why", title=title)
        for entry in entries:
            table.add_row(", ".join(entry.model_types), entry.remark, end_section=True)
        show(table)
    say(f"Refused in every family: {'; '.join(REFUSED_OF_EACH)}. All other families are refused too.")
    return 0


def _members(group: str) -> tuple[str, ...]:
    members = tuple(part.strip() for part in group.split(","))
    if not all(members):
        raise UserError(f"--knock-out {group!r}: give sources by number or name, e.g. 3,7.")
    return members
