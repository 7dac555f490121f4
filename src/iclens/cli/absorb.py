"""`iclens absorb`: can I save the tokens of my examples by putting them into the weights?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from iclens.cli.output import console, note, say
from iclens.cli.prompt_options import arguments, unescaped
from iclens.cli.select import part_or_file
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.absorption.plan import Plan


@command("absorb")
@dataclass(frozen=True)
class Absorb:
    r"""Turn the demonstrations of a prompt into a small change of weights, written as a PEFT adapter (LoRA).

    The change is fitted in closed form so that a query alone gets the states that it has behind the demonstrations. A
    part of the queries is set aside, takes no part in the fit, and tells what is lost against the real prompt: by rank,
    by number of demonstrations, and in accuracy and log-loss beside zero-shot and the prompt. A pass and a regression
    are timed first, and the cost told. The instruction is not absorbed.

    Attributes:
        prompt: the demonstrations: a prompt, whose query is ignored, or a file of {"input", "output"}.
        queries: examples with right answers, {"input", "output"} each; a part of them is set aside.
        model: "bundled", "smollm2", a local folder, a .gguf file, or a hub name.
        rank: of the change of every matrix.
        layers: which ones are changed, e.g. 8-20 or 3,4,5; all when left out.
        targets: which matrices: attention (its output), mlp-in (its first matrices), mlp-out (its last).
        ridge: how many tokens of mean size the pull towards no change is worth.
        emphasis: how often a token counts behind which an answer is read.
        ranks: other ranks to measure; some around --rank when left out.
        numbers: of demonstrations, of shorter prompts to absorb and measure; a quarter and half when left out.
        no_curves: measure no other ranks and no shorter prompts.
        compare_lora: also train two LoRAs of the same rank and place: on the demonstrations' answers, and on what the
            model says behind the prompt.
        lora_steps: of training.
        lora_learning_rate: of Adam.
        template: how to write a pair, with {input} and {output}; \n is a line break.
        instruction: text to put before the demonstrations; it stays in the prompt.
        separator: what stands between demonstrations, instead of blank lines; \n is a line break.
        as_chat: write pairs as turns of a user and an assistant, by the model's chat template.
        template_args: arguments of the chat template, each key=value, e.g. enable_thinking=false.
        system_in_user: put a chat's system message before the first question.
        candidates: the answers among which the model chooses; the outputs, where they are few, when left out.
        match: how a free answer is compared with the right one.
        held_out: what takes no part in the fit: a part of --queries, such as .3, or a file of other examples.
        seed: of the split, and of training.
        out: the folder of the adapter.
        json: where to write all numbers.
        dry_run: only time a pass and say what it would cost.
        dtype: precision of the weights; float32 when left out.
        device: where to compute, e.g. cpu or cuda.
    """

    prompt: tyro.conf.Positional[Path]
    queries: Path
    model: str = "bundled"
    rank: int = 8
    layers: str | None = None
    targets: tuple[Literal["attention", "mlp-in", "mlp-out"], ...] = ("attention", "mlp-out")
    ridge: float = 1.0
    emphasis: float = 10.0
    ranks: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    no_curves: bool = False
    compare_lora: bool = False
    lora_steps: int = 100
    lora_learning_rate: float = 1e-3
    template: str | None = None
    instruction: str | None = None
    separator: str | None = None
    as_chat: bool = False
    template_args: tuple[str, ...] = ()
    system_in_user: bool = False
    candidates: tuple[str, ...] = ()
    match: Literal["exact", "normalised"] = "exact"
    held_out: str = "0.5"
    seed: int = 0
    out: Path | None = None
    json: Path | None = None
    dry_run: bool = False
    dtype: Literal["float32", "float64", "bfloat16", "float16", "auto"] | None = None
    device: str = "cpu"

    def run(self) -> int:
        """Absorb, print the tables and write the adapter."""
        layers = None if self.layers is None else read_layers(self.layers)
        from iclens.absorption.adapter import check_folder
        from iclens.absorption.plan import plan
        from iclens.absorption.sites import sites_of
        from iclens.lens.many.model_source import ModelSource

        if self.out is not None:
            check_folder(self.out)
        if self.json is not None:
            check_writable(self.json)
        if self.no_curves and (self.ranks or self.numbers):
            raise UserError("--no-curves measures no other ranks and no shorter prompts: leave --ranks, --numbers out.")
        source = ModelSource(self.model, self.dtype, self.device, None)
        # What does not go together is told before weights are read.
        made = plan(source.outline(), self.prompt, self.queries, layers=layers, **self._asked())
        model = source.load()
        made = replace(made, task=replace(made.task, lens_model=model), sites=sites_of(model, layers, made.targets))
        self._say_cost(made)
        return 0 if self.dry_run else self._absorb(made)

    def _absorb(self, made: Plan) -> int:
        from iclens.absorption.absorbing import carried_out, stages
        from iclens.absorption.table import print_absorbed
        from iclens.work.progress import bar

        with bar([1000] * stages(made), "absorbing") as report:
            found = carried_out(made, report)
        print_absorbed(found, console())
        if self.out is not None:
            found.save(self.out)
            say(f"written: {self.out}")
        if self.json is not None:
            write_atomically(self.json, found.to_json())
            say(f"written: {self.json}")
        return 0

    def _say_cost(self, made: Plan) -> None:
        from iclens.work.progress import duration

        read, trained = made.tokens
        training = f", {trained} for the training of two LoRAs" if trained else ""
        note(
            f"{len(made.whole)} demonstrations, {len(made.task.dev)} queries to fit by, {len(made.task.aside)} that "
            f"take no part; {made.n_fits} fits of {len(made.sites)} matrices; about {read} tokens{training}; all about "
            f"{duration(made.seconds())} here"
        )

    def _asked(self) -> dict[str, Any]:
        """The arguments of `plan` beside model, demonstrations, queries and layers."""
        from iclens.absorption.training import Training

        names = ("rank", "targets", "ridge", "emphasis", "instruction", "as_chat", "system_in_user", "match", "seed")
        asked: dict[str, Any] = {name: getattr(self, name) for name in names}
        asked |= {"template": unescaped(self.template), "separator": unescaped(self.separator)}
        asked |= {"template_args": arguments(self.template_args) or None, "candidates": self.candidates or None}
        asked |= {"held_out": part_or_file(self.held_out)}
        asked |= {"training": Training(self.lora_steps, self.lora_learning_rate) if self.compare_lora else None}
        given = {"ranks": self.ranks or None, "numbers": self.numbers or None}
        return asked | ({"ranks": (), "numbers": ()} if self.no_curves else given)


def read_layers(text: str) -> list[int]:
    """Layers from a text such as `8-20` or `3,4,5`.

    Raises:
        UserError: it is none.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f"--layers {text}: write numbers and ranges from 0, e.g. 8-20 or 3,4,5.")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise UserError(f"--layers {text}: the range is empty; write the lower number first.")
    return found
