"""Park et al.: on Markov chains a model is nearest to one of four algorithms, and training changes which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from iclens.errors import UserError
from iclens.intervals import Estimate
from iclens.papers.related.four_algorithms import ALGORITHMS, divergence, explained_share, predictions
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts
from iclens.recipes.lab_runs import lab_run, train_through
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen, require_counts, stated
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.markov_chains import MarkovChains
from iclens.training.config import RunConfig

_stated = partial(Claim, source="Park et al. 2024 (arXiv 2412.01003), abstract", trust="stated")
_asked = partial(Claim, source="a question on Park et al. 2024", trust="asked")

TRAINING = _stated("The amount of training alone changes which of the four algorithms a model is nearest to.")
CONTEXT = _stated("The length of the context alone changes which of the four algorithms a model is nearest to.")
MIXTURE = _stated("A model's predictions are a mixture of the four algorithms'.")
DIVERSITY = _asked(
    "On fresh chains a model that was trained on few chains is nearest to bigram retrieval, and one that was trained "
    "on many to bigram inference."
)
EXPLAINED = 0.8
"""Least share of the variance of a model's probabilities that a mixture explains."""


@dataclass(frozen=True)
class ChainSettings:
    """The chains, the model and its training; but for the layers, the paper's numbers are not known to us."""

    pools: tuple[int, ...] = chosen((4, 16, 64, 256, 1024), "numbers of chains")
    n_states: int = chosen(8)
    concentration: float = chosen(1.0, "of the Dirichlet distribution of rows, and of the predictors that infer")
    n_context: int = chosen(128, "transitions of a sequence")
    n_short: int = chosen(8, "transitions up to which a context is called short; long ones are the last half")
    n_layers: int = stated(2)
    n_heads: int = chosen(1)
    width: int = chosen(64)
    steps: int = chosen(20000, "of Adam, of one rate after its warm-up")
    n_kept: int = chosen(10, "steps at which a model is compared, a constant factor apart")
    batch: int = chosen(64)
    learning_rate: float = chosen(3e-3)
    n_prompts: int = chosen(200, "sequences on which a model is compared, on its chains and on fresh ones")
    n_seeds: int = chosen(5, "of weights, sequences and chains together")

    def __post_init__(self) -> None:
        if not self.pools or min(self.pools) < 1:
            raise UserError(f"pools={list(self.pools)}: give at least one number of chains, each at least 1.")
        require_counts(self, "n_context", "n_short", "n_layers", "n_heads", "width", "steps", "batch", "n_seeds")
        if min(self.n_states, self.n_kept, self.n_prompts) < 2:
            raise UserError(
                f"n_states={self.n_states}, n_kept={self.n_kept} and n_prompts={self.n_prompts} must be at least 2."
            )


@recipe("park-markov-chains")
class MarkovPhases(Recipe[ChainSettings]):
    """Small transformers that read sequences of Markov chains, beside four exact predictors of the next state.

    The chains of a run come from a fixed number of them, each as likely. The predictors count states or transitions of
    the context (unigram and bigram inference, with the prior of the chains), or weigh the chains of the run by their
    stationary or transition probabilities (unigram and bigram retrieval; the last is the Bayes predictor of training).
    The distance is the Kullback–Leibler divergence of a model from a predictor, on sequences of the run's chains and of
    fresh ones, in float64, at steps that are a constant factor apart. The mixture has one weight for each predictor,
    not negative and of sum 1, fitted to one half of the sequences and judged on the other.
    """

    title = "Four algorithms for Markov chains, and which one a model is nearest to"
    reference = "Park et al. 2024"
    claims = (TRAINING, CONTEXT, MIXTURE, DIVERSITY)
    quick = Preset(
        ChainSettings(
            pools=(4, 256),
            n_states=4,
            n_context=48,
            width=32,
            steps=1200,
            n_kept=6,
            batch=32,
            n_prompts=100,
            n_seeds=3,
        ),
        seconds=90,
    )
    paper = Preset(ChainSettings(), seconds=36000)
    more: ClassVar[Mapping[str, Preset[ChainSettings]]] = {
        "short": Preset(
            ChainSettings(
                pools=(4, 32, 256), n_states=4, n_context=48, width=32, steps=1500, n_kept=8, batch=32, n_seeds=3
            ),
            seconds=150,
        )
    }

    def parts(self, settings: ChainSettings) -> list[Part]:
        """Return one part per number of chains, with all its seeds."""
        return [{"chains": n_chains} for n_chains in settings.pools]

    def measure(self, part: Part, settings: ChainSettings, progress: Progress) -> Table:
        """Return the divergences from the predictors, by seed, step, kind of sequences and length of context."""
        configs = [_config(settings, int(part["chains"] or 0), seed) for seed in range(settings.n_seeds)]
        rows: list[dict[str, Cell]] = []
        for config, kept in zip(configs, train_through(configs, kept_steps(settings), progress), strict=True):
            task = config.make_task()
            assert isinstance(task, MarkovChains)
            fresh = MarkovChains(n_states=settings.n_states, n_chains=0, concentration=settings.concentration)
            for kind, of in (("pool", task), ("fresh", fresh)):
                prompt = fresh_prompts(of, config.seed, settings.n_prompts, settings.n_context)
                said = predictions(task, prompt)
                for step, run in kept.items():
                    cells = {"seed": config.seed, "status": run.status, "step": step, "prompts": kind}
                    answers = answers_of(double_model(run), prompt).log_softmax(-1)
                    explained = explained_share(said, answers.exp())
                    rows.append({**cells, "explained": explained})
                    for length, where in _contexts(settings).items():
                        for name, theirs in said.items():
                            found = divergence(theirs[:, where], answers[:, where])
                            rows.append({**cells, "context": length, "algorithm": name, "divergence": found})
        return Table(rows)

    def check(self, table: Table, settings: ChainSettings) -> list[Verdict]:
        """Which algorithm is nearest, at the first step and the last, in short contexts and long ones."""
        steps = kept_steps(settings)
        first, last = steps[0], steps[-1]
        of_pool, of_fresh = table.where(prompts="pool"), table.where(prompts="fresh")
        n_pools = len(settings.pools)

        def turn(pool: int, one: Mapping[str, Cell], other: Mapping[str, Cell]) -> tuple[bool, str]:
            """Return whether the nearest algorithm at `one` gives way to another at `other`, and the words for it."""
            before, after = (of_pool.where(chains=pool, **where) for where in (one, other))
            names = nearest(before), nearest(after)
            ahead = [_ahead(rows, *pair, n_pools) for rows, pair in ((before, names), (after, names[::-1]))]
            turned = names[0] != names[1] and min(one.low for one in ahead) > 0
            return turned, f"{pool} chains: {names[0]}, then {names[1]}"

        def turning(one: Mapping[str, Cell], other: Mapping[str, Cell]) -> tuple[list[int], str]:
            found = {pool: turn(pool, one, other) for pool in settings.pools}
            return [pool for pool, (turned, _) in found.items() if turned], "; ".join(
                said for _, said in found.values()
            )

        by_training, training_said = turning({"step": first, "context": "long"}, {"step": last, "context": "long"})
        by_context, context_said = turning({"step": last, "context": "short"}, {"step": last, "context": "long"})
        explained = {
            (pool, step): seed_mean(_explained(of_pool, pool, step)) for pool in settings.pools for step in steps
        }
        worst = min(explained, key=lambda key: explained[key].mean)
        at_last = [explained[pool, last].mean for pool in settings.pools]
        few, many = settings.pools[0], settings.pools[-1]
        ends = {pool: of_fresh.where(chains=pool, step=last, context="long") for pool in (few, many)}
        wanted = {few: "bigram retrieval", many: "bigram inference"}
        other = {few: "bigram inference", many: "bigram retrieval"}
        leads = {pool: _ahead(rows, wanted[pool], other[pool]) for pool, rows in ends.items()}
        as_wanted = all(nearest(rows) == wanted[pool] and leads[pool].low > 0 for pool, rows in ends.items())
        interval = (
            "for some number of chains the nearest algorithm is another, and each of the two is nearer than the other "
            "where it is the nearest: the intervals of the difference, corrected for the number of pools, lie above 0"
        )
        return [
            TRAINING.judged(
                bool(by_training),
                f"nearest on the run's own chains after {first} steps, then after {last}: {training_said}",
                interval,
                _with(by_training, settings),
            ),
            CONTEXT.judged(
                bool(by_context),
                f"nearest after at most {settings.n_short} transitions, then in the last half of the sequence, after "
                f"{last} steps: {context_said}",
                interval,
                _with(by_context, settings),
            ),
            MIXTURE.judged(
                explained[worst].mean >= EXPLAINED,
                f"share of the variance of a model's probabilities that the mixture explains on sequences that it was "
                f"not fitted to: after {last} steps {', '.join(f'{one:.3f}' for one in at_last)} for "
                f"{', '.join(map(str, settings.pools))} chains; least {explained[worst]:.3f}, with {worst[0]} chains "
                f"after {worst[1]} steps",
                f"its mean over seeds is at least {EXPLAINED:g} for every number of chains at every step that was kept",
            ),
            DIVERSITY.judged(
                as_wanted,
                "divergence on fresh chains in the last half: "
                + "; ".join(
                    f"trained on {pool} chains, {', '.join(f'{name} {_mean(rows, name):.3f}' for name in ALGORITHMS)}"
                    for pool, rows in ends.items()
                ),
                f"with {few} chains bigram retrieval is the nearest of the four, with {many} bigram inference, and the "
                "intervals of the other's divergence minus its own lie above 0",
            ),
        ]

    def plot(self, table: Table, settings: ChainSettings) -> Figure:
        """Return the divergences against steps: a column for each number of chains, a row for each kind of prompts."""
        figure = new_figure(3.4 * len(settings.pools), 6.4)
        panels = figure.subplots(2, len(settings.pools), squeeze=False, sharex=True, sharey=True)
        titles = {"pool": "sequences of its chains", "fresh": "sequences of fresh chains"}
        for axes, (kind, title) in zip(panels, titles.items(), strict=True):
            for ax, pool in zip(axes, settings.pools, strict=True):
                rows = table.where(prompts=kind, chains=pool, context="long")
                for name in ALGORITHMS:
                    curve = seed_curve(rows.where(algorithm=name), "step", "divergence")
                    band(ax, curve, name, least=1e-3, marker="o", markersize=3)
                log_ticks(ax.yaxis, [0.003, 0.01, 0.03, 0.1, 0.3])
                log_ticks(ax.xaxis, kept_steps(settings)[:: max(1, settings.n_kept // 4)])
                ax.set(title=f"{pool} chains, {title}", ylim=(0.003, None))
        for ax in panels[:, 0]:
            ax.set(ylabel="divergence, nats")
        for ax in panels[-1]:
            ax.set(xlabel="steps of training")
        panels[0, 0].legend(fontsize="small")
        return figure


def kept_steps(settings: ChainSettings) -> list[int]:
    """Return the steps at which models are compared: a constant factor apart, from 1 % of the training to its end."""
    least = settings.steps / 100
    return sorted({max(1, round(least * 100 ** (place / (settings.n_kept - 1)))) for place in range(settings.n_kept)})


def nearest(rows: Table) -> str:
    """Return the algorithm of the least mean divergence."""
    return min(ALGORITHMS, key=lambda name: _mean(rows, name))


def _mean(rows: Table, name: str) -> float:
    return float(rows.where(algorithm=name).column("divergence").mean())


def _ahead(rows: Table, one: str, other: str, n_chosen_from: int = 1) -> Estimate:
    """Divergence from the other algorithm minus that from the one, paired by seed."""
    found = [rows.where(algorithm=name).sorted_by("seed").column("divergence") for name in (one, other)]
    return over_seeds(torch.from_numpy(found[1] - found[0]), n_chosen_from)


def _explained(rows: Table, pool: int, step: int) -> np.ndarray:
    found = rows.where(chains=pool, step=step).column("explained")
    return found[~np.isnan(found)]


def _with(pools: list[int], settings: ChainSettings) -> str:
    if len(pools) == len(settings.pools):
        return ""
    return f"it is trained on {' or '.join(map(str, pools))} chains"


def _contexts(settings: ChainSettings) -> dict[str, slice]:
    # Point i has i transitions before it; without any, nothing tells the algorithms apart but their priors.
    return {"short": slice(1, settings.n_short + 1), "long": slice(settings.n_context // 2, None)}


def _config(settings: ChainSettings, n_chains: int, seed: int) -> RunConfig:
    task = {"name": "markov-chains", "n_states": settings.n_states, "n_chains": n_chains, "seed": seed}
    sizes = {"n_layers": settings.n_layers, "n_heads": settings.n_heads, "width": settings.width}
    model = {"name": "transformer", **sizes, "ffn_width": 2 * settings.width, "tokens": "inputs"}
    positions = {"positions": "learned", "max_points": settings.n_context + 1}
    return lab_run(
        settings,
        seed,
        {**task, "concentration": settings.concentration},
        {**model, **positions},
        loss_kind="cross-entropy",
        warmup=min(50, settings.steps),
        clip=1.0,
    )
