"""Yang et al. 2024's training step: one attention for all prompts against one for each, at the paper's sizes.

    python benchmarks/dictionary.py [--pairs 3] [--threads 1] [--steps 300] [--json FILE]

N = 30, K = 200, d = 100, m = 20, H = 64, 256 prompts a step, float32; both sides go forward, backward and through one
step of Adam. The plain side is `DictionaryModel.answers_per_prompt` with autograd, 32 prompts at a time (the scores of
all 256 at once would be 393 MB). Loss and gradients of the two are compared before anything is timed. The floor is the
time that the step's matrix products alone would need at the speed of a large product, measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from iclens.models.dictionary import DictionaryModel
from iclens.tasks.dictionary import Dictionary
from iclens.training.dictionary import DictionaryTrainer, DictionaryTraining
from iclens.training.dictionary_gradient import Gradient, Moments, floor_operations
from pairs import Ratio, machine, ratio

N_PROMPT, N_TOKENS, WIDTH, N_FEATURES, N_HEADS, BATCH, CHUNK = 30, 200, 100, 20, 64, 256, 32
REPEATS = 20
"""Fast steps beside one plain step: as in training, each finds its buffers in the cache."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300, help="of the fast side that its time is the mean of")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    drawn = Dictionary.draw(WIDTH, N_FEATURES, N_TOKENS, N_PROMPT, 0.01, seed=0, normalised=True)
    dictionary = Dictionary.stack([drawn])
    errors = compared(dictionary)
    print(f"loss differs by {errors['loss']:.1e}, gradients by {errors['gradient']:.1e} (relative)")

    plain = DictionaryModel.on(dictionary, [0], n_heads=N_HEADS)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-4, fused=True)
    labels = dictionary.sample_labels([torch.Generator().manual_seed(0)], BATCH)[0].to(plain.w)

    def slow() -> None:
        adam.zero_grad()
        per_prompt(plain, labels)
        adam.step()

    fast_model = DictionaryModel.on(dictionary, [0], n_heads=N_HEADS)
    trainer = DictionaryTrainer(dictionary, fast_model, DictionaryTraining())

    def fast() -> None:
        for _ in range(REPEATS):
            trainer.step()

    many = ratio(slow, fast, pairs=options.pairs, warm_up=1)
    measured = Ratio(
        many.median * REPEATS, many.low * REPEATS, many.high * REPEATS, many.seconds_a, many.seconds_b / REPEATS
    )
    start = time.perf_counter()
    for _ in range(options.steps):
        trainer.step()
    step = (time.perf_counter() - start) / options.steps
    floor = floor_operations(N_PROMPT, N_TOKENS, WIDTH, N_HEADS) / peak()
    print(
        f"a step: per prompt {measured.seconds_a:.2f} s, fast {measured.seconds_b * 1e3:.2f} ms, "
        f"ratio {measured.median:.0f} [{measured.low:.0f}, {measured.high:.0f}]"
    )
    print(f"mean of {options.steps} fast steps {step * 1e3:.2f} ms: 10,000 take {step * 1e4:.0f} s")
    print(f"floor of the matrix products {floor * 1e3:.2f} ms: the step takes {step / floor:.1f} times that")
    if options.json:
        result = {
            "machine": machine(),
            "errors": errors,
            "step": dataclasses.asdict(measured),
            "fast_seconds": step,
            "floor_seconds": floor,
        }
        options.json.write_text(json.dumps(result, indent=2))
    return 0


def per_prompt(model: DictionaryModel, labels: Tensor) -> float:
    """Backward through every prompt's own attention; returns the loss."""
    shown = model.tokens[:, None, :N_PROMPT].expand(-1, CHUNK, -1, -1)
    total = 0.0
    for part in labels.split(CHUNK):
        answers = model.answers_per_prompt(shown, part[None, :, :N_PROMPT])
        loss = (answers - part).square().sum() / (2 * N_TOKENS * BATCH)
        loss.backward()
        total += float(loss.detach())
    return total


def compared(dictionary: Dictionary) -> dict[str, float]:
    model = DictionaryModel.on(dictionary, [0], n_heads=N_HEADS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.w.copy_(torch.randn(model.w.shape, generator=generator) / N_HEADS)
    labels = dictionary.sample_labels([generator], BATCH)[0].to(model.w)
    loss = per_prompt(model, labels)
    gradient = Gradient(model, N_PROMPT)
    moments = Moments.of_batch(labels[None], N_PROMPT)
    fast = float(moments.loss(gradient(moments)))
    errors = {"loss": abs(fast - loss) / loss, "gradient": 0.0}
    for found, parameter in ((gradient.w, model.w), (gradient.Q, model.Q)):
        assert parameter.grad is not None
        error = float((found - parameter.grad).abs().max() / parameter.grad.abs().max())
        errors["gradient"] = max(errors["gradient"], error)
    assert max(errors.values()) < 1e-4, errors
    return errors


def peak() -> float:
    """Operations a second of a large float32 matrix product."""
    a = torch.randn(1024, 1024)
    for _ in range(3):
        a @ a
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(times)


if __name__ == "__main__":
    raise SystemExit(main())
