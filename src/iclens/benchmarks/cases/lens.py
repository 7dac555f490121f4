"""Reading a language model: contributions, knock-out and the capture of all heads, beside other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclens.benchmarks.case import CASES, Absent, Agreement, Comparison, Context, Entry, Probe, Side, Target, takes
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.gpt2_shaped import SMALL, TINY, Shape, ShapedPrompt, language_model, lens_model
from iclens.benchmarks.peers import missing
from iclens.benchmarks.shaped_margin import Shaped
from iclens.lens import capture

N_DEMONSTRATIONS = 16


@CASES.register("lens")
@takes(minutes=5)
def lens(context: Context) -> Iterator[Entry]:
    """Contributions, knock-out and capture of all heads: plain forward, TransformerLens, nnsight."""
    n = context.pick(96, 512)
    yield from _beside_forward(context, n)
    yield from _captures(context, n)
    yield _one_head(context.pick(2048, 32768))


def _beside_forward(context: Context, n: int) -> Iterator[Entry]:
    shape = context.pick(TINY, SMALL)
    shaped = Shaped(lens_model(shape), ShapedPrompt.draw(shape, n, N_DEMONSTRATIONS))
    model, ids = shaped.lens_model.model, shaped.prompt.ids[None]

    @torch.no_grad()
    def all_logits() -> Tensor:
        return model(input_ids=ids, use_cache=False).logits[0, -1]

    @torch.no_grad()
    def last_logits() -> Tensor:
        return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]

    def check() -> Sequence[Agreement]:
        traced, step = shaped.trace(), shaped.gradient_step()
        return [
            Agreement.of("logits of the traced pass", traced.logits[0, -1], all_logits()),
            Agreement("contributions and the rest against the margin", float(step.residual), 1e-5),
            Agreement("layers against their attention output", float(step.attention_residual), 1e-5),
        ]

    def check_knock_out() -> Sequence[Agreement]:
        _, knocked = shaped.both()
        return [*check(), Agreement("knock-out of nothing against the plain pass", float(knocked.residual), 1e-5)]

    floor = Floor(
        shape.forward_operations(n, 1) + 2.0 * shape.width * n * shape.layers * 2,
        shape.weight_bytes(),
        "2 · weights · tokens + causal attention + one row of logits + the shares of every token in every head",
    )
    floor_with_knock_out = Floor(
        floor.operations + (N_DEMONSTRATIONS + 1) * shape.rerun_operations(n, 8),
        shape.weight_bytes(),
        f"the same + {N_DEMONSTRATIONS + 1} passes over 8 query tokens",
    )
    at = f"{n} tokens"
    for name, call in (("all logits", all_logits), ("last logits only", last_logits)):
        yield Comparison(
            f"contributions of every token, {at}",
            Side("contributions", shaped.gradient_step),
            Side(f"plain forward, {name}", call),
            check,
            floor,
            () if context.quick else (Target("speed-up", 1 / 1.3, "at most 1.3 forward passes"),),
            most_pairs=5,
        )
    yield Comparison(
        f"contributions and exact knock-out of {N_DEMONSTRATIONS}, {at}",
        Side("contributions and knock-out", shaped.both),
        Side("plain forward, all logits", all_logits),
        check_knock_out,
        floor_with_knock_out,
        () if context.quick else (Target("speed-up", 1 / 2.5, "at most 2.5 forward passes"),),
        most_pairs=5,
    )


def _captures(context: Context, n: int) -> Iterator[Entry]:
    """Queries, keys, values and outputs of all heads at all tokens."""
    shape = context.pick(TINY, SMALL)
    size: dict[str, Any] = {"tokens": n, "quick": context.quick}
    ours = capture_call("iclens", **size)
    kept = 4.0 * 4 * n * shape.width * shape.layers
    floor = Floor(
        shape.forward_operations(n, n),
        shape.weight_bytes() + kept + 4.0 * n * shape.vocabulary,
        "2 · weights · tokens + causal attention + all logits; weights read, q, k, v, outputs and logits written",
    )
    for module, name, targeted in (
        (None, "plain forward, all logits", False),
        ("transformer_lens", "TransformerLens run_with_cache", True),
        ("transformer_lens", "TransformerLens run_with_cache, q, k, v and z only", False),
        ("nnsight", "nnsight trace", False),
    ):
        absent = None if module is None else missing(module)
        if absent is not None:
            yield Absent(name, absent.reason)
            continue
        theirs = capture_call(name, **size)
        targets = (
            Target("speed-up", 1.0, "faster than run_with_cache"),
            Target("memory share", 0.25, "a quarter of its peak memory"),
        )
        yield Comparison(
            f"capture of all heads, {n} tokens",
            Side("capture", ours, _probe("iclens", size)),
            Side(name, theirs, _probe(name, size)),
            partial(same_heads, ours, theirs),
            floor,
            targets if targeted and not context.quick else (),
            most_pairs=9 if targeted else 5,
        )
    if missing("transformer_lens") is None:
        yield _without_logits(context, shape, size, n)


def _without_logits(context: Context, shape: Shape, size: dict[str, Any], n: int) -> Comparison:
    """Return the logits of the last token alone, for who wants the heads; run_with_cache always forms all."""
    name, other = "iclens, last logits only", "TransformerLens run_with_cache"
    ours, theirs = capture_call(name, **size), capture_call(other, **size)

    def check() -> list[Agreement]:
        mine, full = ours(), theirs()
        heads = [Agreement.of(part, mine[part], full[part]) for part in ("q", "k", "v", "output")]
        return [*heads, Agreement.of("logits of the last token", mine["logits"], full["logits"][:, -1:])]

    kept = 4.0 * 4 * n * shape.width * shape.layers
    return Comparison(
        f"capture of all heads and the last token's logits, {n} tokens",
        Side("capture", ours, _probe(name, size)),
        Side(f"{other}, all logits", theirs, _probe(other, size)),
        check,
        Floor(
            shape.forward_operations(n, 1),
            shape.weight_bytes() + kept,
            "2 · weights · tokens + causal attention + one row of logits; weights read, q, k, v and outputs written",
        ),
        most_pairs=5,
    )


def _probe(name: str, size: dict[str, Any]) -> Probe:
    return Probe("iclens.benchmarks.cases.lens:capture_call", {"name": name, **size}, {"tokens": 16})


def same_heads(ours: Callable[[], Captured], theirs: Callable[[], Captured]) -> list[Agreement]:
    """Compare every part that the other capture has with ours."""
    mine, other = ours(), theirs()
    return [Agreement.of(part, mine[part], other[part]) for part in other]


def capture_call(name: str, tokens: int, quick: bool) -> Callable[[], Any]:
    """The call that captures all heads with one of the tools; it returns logits and, stacked, what the heads did.

    The stacking is done by the keys that are read, so that it costs neither time nor memory where nobody asks.
    """
    shape = TINY if quick else SMALL
    ids = ShapedPrompt.draw(shape, tokens, 1).ids[None]
    return _TOOLS[name](shape, ids)


class Captured(dict[str, Any]):
    """Parts made when they are asked for: name → a function that stacks the layers."""

    def __getitem__(self, part: str) -> Tensor:
        return super().__getitem__(part)()


def _with_iclens(shape: Any, ids: Tensor, last_logits: int | None = None) -> Callable[[], Any]:
    wrapped = lens_model(shape)

    def call() -> Any:
        captured = capture(wrapped, ids, last_logits=last_logits)
        records = captured.records
        return Captured(
            logits=lambda: captured.output,
            q=lambda: torch.stack([record.q for record in records]),
            k=lambda: torch.stack([record.k for record in records]),
            v=lambda: torch.stack([record.v for record in records]),
            output=lambda: torch.stack([record.output for record in records]),
        )

    return call


def _plain(shape: Any, ids: Tensor) -> Callable[[], Any]:
    model = language_model(shape)

    @torch.no_grad()
    def call() -> Any:
        logits = model(input_ids=ids, use_cache=False).logits
        return Captured(logits=lambda: logits)

    return call


def _with_transformer_lens(shape: Any, ids: Tensor, only: tuple[str, ...] = ()) -> Callable[[], Any]:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    # The bridge reads a model that it did not load itself only with eager attention set.
    model = language_model(shape, attention="eager")
    bridge = build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config)
    names = [f"blocks.{layer}.attn.hook_{part}" for layer in range(shape.layers) for part in only]

    @torch.no_grad()
    def call() -> Any:
        logits, cache = bridge.run_with_cache(ids, names_filter=names or None)

        def part(name: str) -> Callable[[], Tensor]:
            every = [f"blocks.{layer}.attn.hook_{name}" for layer in range(shape.layers)]
            return lambda: torch.stack([cache[one].transpose(1, 2) for one in every])

        return Captured(logits=lambda: logits, q=part("q"), k=part("k"), v=part("v"), output=part("z"))

    return call


def _with_nnsight(shape: Any, ids: Tensor) -> Callable[[], Any]:
    from nnsight import NNsight, save

    model = language_model(shape)
    wrapped = NNsight(model)

    @torch.no_grad()
    def call() -> Any:
        with wrapped.trace(ids, use_cache=False):
            projected, mixed = save([]), save([])
            for block in wrapped.transformer.h:
                projected.append(block.attn.c_attn.output)
                mixed.append(block.attn.c_proj.input)
            logits = wrapped.output.logits.save()

        def heads(flat: Tensor) -> Tensor:
            return flat.view(*flat.shape[:-1], shape.heads, -1).transpose(1, 2)

        def part(place: int) -> Callable[[], Tensor]:
            return lambda: torch.stack([heads(one.split(shape.width, -1)[place]) for one in projected])

        return Captured(
            logits=lambda: logits,
            q=part(0),
            k=part(1),
            v=part(2),
            output=lambda: torch.stack([heads(one) for one in mixed]),
        )

    return call


_TOOLS: dict[str, Callable[[Any, Tensor], Callable[[], Any]]] = {
    "iclens": _with_iclens,
    "iclens, last logits only": partial(_with_iclens, last_logits=1),
    "plain forward, all logits": _plain,
    "TransformerLens run_with_cache": _with_transformer_lens,
    "TransformerLens run_with_cache, q, k, v and z only": (
        lambda shape, ids: _with_transformer_lens(shape, ids, ("q", "k", "v", "z"))
    ),
    "nnsight trace": _with_nnsight,
}


def _one_head(n_keys: int) -> Comparison:
    """Contributions of single demonstrations of one query over a long context, from one head."""
    ours, theirs = (one_head_call(name, n_keys) for name in ("dual", "dense"))
    probe = "iclens.benchmarks.cases.lens:one_head_call"
    small = {"n_keys": 64}
    return Comparison(
        f"one head, one query, {n_keys:,} keys in {n_keys // 8:,} demonstrations",
        Side("dual model's contributions", ours, Probe(probe, {"name": "dual", "n_keys": n_keys}, small)),
        Side("weights times values, summed", theirs, Probe(probe, {"name": "dense", "n_keys": n_keys}, small)),
        lambda: [Agreement.of("contributions", ours(), theirs())],
        # q·k, weight times value; keys and values read once.
        Floor(4.0 * n_keys * 64, 2 * 4.0 * n_keys * 64, "4 · keys · width; keys and values read once"),
    )


def one_head_call(name: str, n_keys: int) -> Callable[[], Tensor]:
    """Return what every demonstration of 8 tokens adds to the output of one head, `"dual"` or `"dense"`."""
    from iclens.dual.model import DualModel

    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(n, 64, generator=generator, dtype=torch.float32) for n in (1, n_keys, n_keys))
    groups = torch.arange(n_keys) // 8

    def dual() -> Tensor:
        return DualModel.from_attention(q, k, v, groups).contributions()

    def dense() -> Tensor:
        weights = torch.softmax(q @ k.mT / 8, -1)
        out = torch.zeros(1, n_keys // 8, 64)
        return out.index_add_(1, groups, weights[..., None] * v)

    return {"dual": dual, "dense": dense}[name]
