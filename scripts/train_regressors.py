"""Train the bundled in-context regressors of the explorer's Lab view once more.

    python scripts/train_regressors.py --out FOLDER

With the default options this repeats the recipe of the shipped weights: one thread, some minutes, no network.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import save_file

from iclens.cli.output import check_at_least_one, note, say
from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.intervals import estimate
from iclens.models.model import PromptModel
from iclens.recipes.lab_answers import answers_of
from iclens.training import regressors
from iclens.training.default_dtype import default_dtype
from iclens.training.ensemble import run_model
from iclens.training.loop import train
from iclens.training.prompts import derived_seed
from iclens.training.reproducibly import reproducibly
from iclens.work.whole_files import check_new_folder, whole_folder

N_MEASURED = 4096
_MEASURED_AT = (1, 2, 4, 6, 8, 12, 16, 20)


@dataclass(frozen=True)
class TrainRegressors:
    """Train the bundled in-context regressors, one for each attention variant, and write them as a folder.

    The folder appears only when all of it is written; it is what `src/iclens/bundled/regressors` holds.

    Attributes:
        out: the folder to create; it must not exist.
        seed: seed of the weights and of the prompts.
        steps: optimiser steps of each.
        prompts: new prompts on which the result is measured.
    """

    out: Path
    seed: int = 0
    steps: int = regressors.STEPS
    prompts: int = N_MEASURED

    def run(self) -> None:
        """Train, measure, write, and say what was measured.

        Raises:
            UserError: a number below 1, a folder that exists, or a training that diverged.
        """
        check_at_least_one(steps=self.steps, prompts=self.prompts)
        check_new_folder(self.out)
        with whole_folder(self.out) as made:
            document = train_regressors(made, seed=self.seed, steps=self.steps, n_measured=self.prompts)
        last = max(document["ridge"], key=int)
        found = {name: one["error"][last] for name, one in document["regressors"].items()}
        found["ridge, the best possible,"] = document["ridge"][last]
        said = (f"{name} {one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" for name, one in found.items())
        say(f"{self.out}: squared error with {last} demonstrations on {self.prompts} new prompts: {'; '.join(said)}.")


def train_regressors(
    target: Path, *, seed: int = 0, steps: int = regressors.STEPS, n_measured: int = N_MEASURED
) -> dict[str, Any]:
    """Train all of them one after the other and write their weights and `recipe.json` into an empty folder.

    One thread; equal seeds give equal weights on one machine.

    Args:
        target: an existing, empty folder.
        seed: of parameters and prompts.
        steps: optimiser steps of each.
        n_measured: new prompts on which each is measured.

    Returns:
        What `recipe.json` holds.
    """
    records: dict[str, Any] = {}
    for variant in regressors.VARIANTS:
        chosen = regressors.config(variant, seed=seed, steps=steps)

        def report(done: int, total: int, loss: float, variant: str = variant) -> None:
            if done % max(1, total // 5) == 0:
                note(f"{variant}: {done:,} of {total:,} steps, loss {loss:.3f}")

        with reproducibly(seed, threads=1):
            run = train([chosen], advance=report)[0]
        if run.status != "finished":
            raise UserError(f"the training of {variant} diverged at step {run.diverged_at}: try another --seed.")
        rounded = {name: tensor.half().contiguous() for name, tensor in run.tensors.items()}
        file = target / f"{variant}.safetensors"
        save_file(rounded, file)
        records[variant] = {
            "config": chosen.to_dict(),
            "n_parameters": sum(tensor.numel() for tensor in rounded.values()),
            "seconds": round(run.seconds, 1),
            "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "error": errors(run_model(chosen, {name: tensor.double() for name, tensor in rounded.items()}), n_measured),
        }
    document = {
        "torch": torch.__version__,
        "error": "mean squared error of the answer to the N-th prefix against the noisy label, on new prompts",
        "n_prompts": n_measured,
        "ridge": errors(None, n_measured),
        "regressors": records,
    }
    text = json.dumps(document, indent=1, default=dict) + "\n"
    (target / regressors.RECIPE).write_text(text, encoding="utf-8")
    return document


@torch.no_grad()
def errors(model: PromptModel | None, n_prompts: int = N_MEASURED) -> dict[str, dict[str, float]]:
    """Mean squared errors by number of demonstrations, with 95 % intervals over prompts that no training saw.

    Args:
        model: a regressor in float64; None for the task's best estimator, ridge on the waves.
        n_prompts: how many prompts, the same for all.
    """
    learnt = regressors.regressor_task()
    generator = torch.Generator().manual_seed(derived_seed(0, "regressors measured"))
    with default_dtype(torch.float64):
        prompt = learnt.sample(generator, n_prompts, regressors.MOST_POINTS)
    if model is None:
        best = learnt.optimal()
        answers = build_estimator(best.estimator, best.options).prefixes(prompt.inputs, prompt.labels)
    else:
        answers = answers_of(model, prompt)
    squared = (answers - prompt.labels).square().sum(-1)
    found = {n: asdict(estimate(squared[:, n])) for n in _MEASURED_AT}
    return {str(n): {key: round(one[key], 5) for key in ("mean", "low", "high")} for n, one in found.items()}


if __name__ == "__main__":
    try:
        tyro.cli(TrainRegressors).run()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
