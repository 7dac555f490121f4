"""`iclens select`: which of my demonstrations to keep, drop and mend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from iclens.cli.output import console, note, say
from iclens.cli.prompt_options import arguments, unescaped
from iclens.cli.subcommand import command
from iclens.cli.where import Where
from iclens.errors import UserError
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.lens import LensModel
    from iclens.lens.many.model_source import ModelSource
    from iclens.selection.elsewhere import Elsewhere
    from iclens.selection.task import Task


@command("select")
@dataclass(frozen=True)
class Select:
    r"""Choose demonstrations for a prompt by what they do to examples with right answers, and order them.

    The pool is a file of examples (.jsonl or .json of {"input", "output"}, .csv), or a prompt whose demonstrations are
    the pool. A part of the development examples is set aside, takes no part in the choice, and tells what it is worth.
    A pass is timed first, and the cost told in passes, tokens and seconds. With --out, finished numbers are kept in a
    folder beside that file, named OUT.parts, until all is done: the same command goes on where it was stopped, with the
    same result. After a finished run it chooses anew.
    --check runs the demonstrations as they are; with --at-least the exit status is 1 when the accuracy is lower.

    Attributes:
        pool: the file of demonstrations.
        dev: the development examples, {"input", "output"} each.
        k: how many demonstrations to choose.
        budget_tokens: tokens that demonstrations and instruction may have together.
        prune: drop whatever the examples do not need; with -k, down to that many.
        check: examples on which the demonstrations are run as they are; nothing is chosen.
        at_least: with --check, the least accuracy (or metric) for exit status 0.
        model: "bundled", "smollm2", a local folder, a .gguf file, or a hub name.
        template: how to write a pair, with {input} and {output}; \n is a line break.
        instruction: text to put before the demonstrations; of a chat its system message.
        separator: what stands between demonstrations, instead of blank lines; \n is a line break.
        as_chat: write pairs as turns of a user and an assistant, by the model's chat template; pools of chats are
            anyway.
        template_args: arguments of the chat template, each key=value, e.g. enable_thinking=false.
        system_in_user: put a chat's system message before the first question, where the template has no such role.
        candidates: the answers among which the model chooses; the outputs, where they are few, when left out.
        metric: what a prompt is judged by; ties are decided by the log-loss.
        match: how a free answer is compared with the right one.
        method: how to choose.
        against: another method, which gets the same number of passes and is compared; none leaves it out.
        order: by real runs, by scores with the best last, or as in the pool.
        balanced: choose labels equally often.
        budget: passes for choosing; a pass is a reading of the whole pool with one query.
        held_out: what takes no part in the choice: a part of --dev, such as .3, or a file of other examples.
        check_with: another model, for which --model chooses: the starting and the chosen prompt run there too.
        seed: of what is drawn.
        out: where to write the chosen demonstrations in order, a .jsonl file.
        json: where to write everything.
        html: where to write the report as a page that opens anywhere.
        prompt: where to write the chosen prompt as text, with {input} in the place of a query; .json: as messages.
        dry_run: only time a pass and say what it would cost.
        dtype: precision of the weights; float32 when left out.
        device: where to compute, e.g. cpu or cuda.
        device_map: auto spreads a model that is larger than one device over all of them.
        where: on Ray, prompts run in parallel, each in a process that loads the model once.
    """

    pool: tyro.conf.Positional[Path]
    dev: Path | None = None
    k: Annotated[int | None, tyro.conf.arg(aliases=["-k"])] = None
    budget_tokens: int | None = None
    prune: bool = False
    check: Path | None = None
    at_least: float | None = None
    model: str = "bundled"
    template: str | None = None
    instruction: str | None = None
    separator: str | None = None
    as_chat: bool = False
    template_args: tuple[str, ...] = ()
    system_in_user: bool = False
    candidates: tuple[str, ...] = ()
    metric: Literal["accuracy", "log-loss"] = "accuracy"
    match: Literal["exact", "normalised"] = "exact"
    method: str = "influence"
    against: str = "random"
    order: Literal["search", "best-last", "given"] = "search"
    balanced: bool = False
    budget: float = 100.0
    held_out: str = "0.5"
    check_with: str | None = None
    seed: int = 0
    out: Path | None = None
    json: Path | None = None
    html: Path | None = None
    prompt: Path | None = None
    dry_run: bool = False
    dtype: Literal["float32", "float64", "bfloat16", "float16", "auto"] | None = None
    device: str = "cpu"
    device_map: Literal["auto"] | None = None
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where)

    def run(self) -> int:
        """Choose, print the table and write the files; or check: 1 when the accuracy is below --at-least."""
        self.where.check()
        if self.where.on == "local" and (given := self.where.given()):
            raise UserError(f"--{given[0]} is for a Ray cluster: give --on ray as well; here torch uses all cores.")
        if self.check is not None and self.where.on != "local":
            raise UserError("--check runs the demonstrations on this machine: leave --on out.")
        if self.check is not None:
            return self._check(self.check)
        dev = self._checked_dev()
        from iclens.selection.choosing import prepare

        sources = [self._source(name) for name in (self.model, self.check_with) if name is not None]
        outlines = [one.outline() for one in sources]
        # What does not go together is told before weights are read.
        task, second, _ = prepare(outlines[0], self.pool, dev, **self._asked(outlines))
        from iclens.selection import METHODS

        _ = METHODS[self.method], METHODS[self.method if self.against == "none" else self.against]
        models = [one.load() for one in sources]
        task = replace(task, lens_model=models[0])
        second = None if second is None else replace(second, lens_model=models[1])
        if self.prompt is not None and self.prompt.suffix.lower() == ".json" and task.pool.writing.chat is None:
            raise UserError(f"--prompt {self.prompt}: the prompt is no chat: write it to a .txt file.")
        steps = self._say_cost(task, second)
        return 0 if self.dry_run else self._choose(dev, sources, models, steps)

    def _checked_dev(self) -> Path:
        """The development examples, after what does not go together was refused."""
        if self.at_least is not None:
            raise UserError("--at-least is for --check FILE, which runs the demonstrations as they are.")
        if self.dev is None:
            raise UserError("there are no development examples: give --dev FILE, or --check FILE to check a prompt.")
        if self.k is None and self.budget_tokens is None and not self.prune:
            raise UserError("say how many demonstrations to choose: -k 8, --budget-tokens 1500, or --prune.")
        for name, file in (("out", self.out), ("json", self.json), ("html", self.html), ("prompt", self.prompt)):
            if file is not None:
                check_writable(file)
            if name == "out" and file is not None and file.suffix.lower() != ".jsonl":
                raise UserError(f"--out {file}: the chosen demonstrations are a .jsonl file.")
        return self.dev

    def _choose(
        self, dev: Path, sources: Sequence[ModelSource], models: Sequence[LensModel], steps: Sequence[int]
    ) -> int:
        from iclens.cli.resumable import resumable
        from iclens.selection import select
        from iclens.selection.table import print_selection
        from iclens.work.parts import Parts
        from iclens.work.progress import bar

        parts = None if self.out is None else Parts(self.out.with_name(self.out.name + ".parts"))
        with ExitStack() as around:
            elsewhere = self._elsewhere(sources, around)
            if parts is not None:
                around.enter_context(parts.held())
                around.enter_context(resumable())
                if kept := parts.others(set()):
                    note(
                        f"going on from {parts.folder}: what is finished ({kept} there) does not run again, if its "
                        "settings are the same"
                    )
            report = around.enter_context(bar(steps, "choosing"))
            stages: list[str] = []

            def progress(stage: str, passes: float) -> None:
                if stage not in stages:
                    # What an earlier stage did not need is not waited for.
                    for done in range(len(stages)):
                        report(done, steps[done])
                    stages.append(stage)
                report(len(stages) - 1, min(steps[len(stages) - 1], round(passes)), stage)

            found = select(
                models[0],
                self.pool,
                dev,
                method=self.method,
                against=None if self.against == "none" else self.against,
                parts=parts,
                about=self._about(sources) if parts is not None else None,
                elsewhere=elsewhere,
                progress=progress,
                **self._asked(models),
            )
            contents = (
                (self.out, found.chosen_lines),
                (self.json, found.to_json),
                (self.html, found.to_html),
                (self.prompt, partial(found.prompt_file, "" if self.prompt is None else self.prompt.suffix)),
            )
            print_selection(found, console())
            for file, content in contents:
                if file is not None:
                    write_atomically(file, content())
                    say(f"written: {file}")
            if parts is not None:
                parts.remove()
        return 0

    def _elsewhere(self, sources: Sequence[ModelSource], around: ExitStack) -> list[Elsewhere]:
        """The processes of the Ray cluster that run the prompts, for each model; none on this machine."""
        from iclens.selection.elsewhere import Elsewhere
        from iclens.work.cluster import connected, each_on_cluster

        cluster = self.where.cluster(gpu=self.device != "cpu" or self.device_map is not None)
        if cluster is None:
            return []
        around.enter_context(connected(cluster))
        run = partial(each_on_cluster, cluster=cluster, threads=self.where.threads)
        return [Elsewhere(one, one.identity(), run) for one in sources]

    def _check(self, examples: Path) -> int:
        from iclens.lens import load
        from iclens.selection.checking import check

        if self.dev is not None or self.prune or self.k is not None or self.check_with is not None:
            raise UserError("--check runs the demonstrations as they are: leave --dev, --prune, -k, --check-with out.")
        lens_model = load(self.model, dtype=self.dtype, device=self.device, device_map=self.device_map)
        task = {name: value for name, value in self._task().items() if name not in ("held_out", "seed")}
        found = check(lens_model, self.pool, examples, **task)
        name = "accuracy" if self.metric == "log-loss" else self.metric
        say(f"{name} {found.metric}, log-loss {found.log_loss} on {found.metric.n} examples")
        if self.at_least is None or found.metric.mean >= self.at_least:
            return 0
        note(f"the {name} is below {self.at_least:g}")
        return 1

    def _say_cost(self, task: Task, second: Task | None) -> list[int]:
        """Say what will be read and how long that takes, by a pass that is timed; the passes of each stage."""
        from iclens.selection.second_model import cost_of_check
        from iclens.selection.timing import seconds_of_pass
        from iclens.work.progress import duration

        n, queries = len(task.pool.demonstrations), (len(task.dev), len(task.aside))
        steps = [ceil(self.budget)] * (1 if self.against in ("none", self.method) else 2) + [ceil(task.cost_of_report)]
        of_rival = "" if len(steps) == 2 else f", as many for {self.against!r} at the same cost"
        one = seconds_of_pass(task)
        seconds = one * sum(steps)
        note(
            f"{n} demonstrations, {queries[0]} examples to choose by, {queries[1]} that take no part; a pass reads "
            f"{task.pass_tokens:.0f} tokens: {steps[0]} passes at most for choosing{of_rival}, about {steps[-1]} for "
            f"the rest, {sum(steps) * task.pass_tokens:.0f} tokens in all; a pass takes {one:.2g} s here, all about "
            f"{duration(seconds)}"
        )
        if second is not None:
            steps.append(ceil(cost_of_check(task, second)))
            note(
                f"{second.lens_model.name} checks the choice: about {steps[-1]} passes of "
                f"{second.pass_tokens:.0f} tokens, {duration(steps[-1] * seconds_of_pass(second))}"
            )
        return steps

    def _source(self, name: str) -> ModelSource:
        from iclens.lens.many.model_source import ModelSource

        return ModelSource(name, self.dtype, self.device, self.device_map)

    def _about(self, sources: Sequence[ModelSource]) -> list[Any]:
        """All that kept numbers depend on beside the texts."""
        import torch

        versions = [version(name) for name in ("iclens", "torch", "transformers")]
        same = [self.dtype, self.device, self.device_map, torch.get_num_threads()]
        return [versions, *(one.identity() for one in sources), *same]

    def _asked(self, models: Sequence[LensModel]) -> dict[str, Any]:
        """The arguments of `select` beside model, pool and development examples."""
        limits = {name: getattr(self, name) for name in ("k", "budget_tokens", "order", "balanced", "budget")}
        return {"check_with": models[1] if len(models) > 1 else None, **self._task(), **limits}

    def _task(self) -> dict[str, Any]:
        written: dict[str, Any] = {"template": unescaped(self.template), "separator": unescaped(self.separator)}
        names = ("instruction", "as_chat", "system_in_user", "metric", "match", "seed")
        written |= {"template_args": arguments(self.template_args) or None}
        given = {"candidates": self.candidates or None, "held_out": part_or_file(self.held_out)}
        return written | {name: getattr(self, name) for name in names} | given


def part_or_file(text: str) -> float | Path:
    """What `--held-out` says: a part of the development examples, or a file of others."""
    try:
        return float(text)
    except ValueError:
        return Path(text)
